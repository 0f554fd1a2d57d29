//! Permuted games in the native world: they load, they are not won at the start, and plans win.

use env_bridge::NativeWorld;
use scenarios::household::{GenerateOptions, PermutationSource, Size, VariantDraw, generate};
use scenarios::{Environment, Split};
use std::path::Path;

#[test]
fn a_plan_wins_in_as_many_commands_as_remain() {
    let folder = tempfile::tempdir().unwrap();
    let options = GenerateOptions {
        seed: 4,
        size: Size::Alfworld,
        train: 12,
        valid_train: 0,
        seen: 0,
        unseen: 0,
        ..GenerateOptions::default()
    };
    let suite = generate(folder.path(), &options).unwrap();
    let world = NativeWorld::new();
    let mut won = 0;
    for task in suite.split(Split::Train) {
        let source = PermutationSource::open(task).unwrap();
        let draw = VariantDraw {
            seed: 1,
            variant: 0,
            attempt: 0,
        };
        let Some(problem) = source.problem(draw) else {
            continue;
        };
        let file = source.game_file(draw, &problem, &[]);
        let game = world
            .game_from_bytes(Path::new("variant"), file.as_bytes())
            .unwrap();
        let start = game.initial_state();
        assert!(!game.won(&start), "{}", task.id);
        let plan = game.plan(&start).unwrap();
        assert_eq!(plan.len(), game.remaining(&start));
        let mut environment = env_bridge::NativeEnvironment::new(game.clone());
        let opening = environment.reset().unwrap();
        let last = plan
            .iter()
            .map(|command| environment.step(command).unwrap())
            .last();
        assert!(last.unwrap().won(), "{}: {plan:?}", task.id);
        assert_eq!(game.plan(environment.state()), Some(Vec::new()));
        let own = world.game(&task.path).unwrap();
        let mut original = env_bridge::NativeEnvironment::new(own.clone());
        original.reset().unwrap();
        let walkthrough = own.walkthrough().unwrap().iter();
        let last = walkthrough
            .map(|command| original.step(command).unwrap())
            .last();
        assert!(last.unwrap().won(), "{}", task.id);
        let sentence = own.task_sentence();
        assert_eq!(game.task_sentence(), sentence);
        assert!(opening.text.contains(&sentence.unwrap()));
        won += 1;
    }
    assert!(won >= 10, "only {won} variants");
}
