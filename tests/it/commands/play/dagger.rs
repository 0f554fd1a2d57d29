//! `hearth collect --dagger`: a model plays turns of the expert's episodes.

use crate::binary::{folder, hearth};
use crate::commands::models::save;
use crate::commands::models::smallest;
use agent::model::config::DecoderConfig;
use agent::text::tokenizer::Tokenizer;
use scenarios::household::{GenerateOptions, generate};
use scenarios::store::Store;
use std::collections::BTreeSet;

/// The expert and a random model take turns, and most games are still won. A turn is marked if the
/// expert would not have written it. An episode does not depend on the episodes beside it.
#[test]
fn the_expert_and_a_student_take_turns_under_dagger() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let counts = GenerateOptions {
        train: 4,
        valid_train: 0,
        seen: 1,
        unseen: 1,
        ..GenerateOptions::default()
    };
    generate(&path("games"), &counts).unwrap();
    let tokenizer =
        Tokenizer::train(["go to desk 1\nYou arrive at desk 1."; 4].into_iter(), 300).unwrap();
    let config = DecoderConfig {
        max_position_embeddings: 20_000,
        ..smallest(&tokenizer)
    };
    save(&path("model"), tokenizer, config, BTreeSet::new());
    let own = [
        "collect",
        "--policy",
        "expert",
        "--dagger",
        "model",
        "--suite",
        "games",
        "--repetitions",
        "3",
    ];
    let collect = |out: &str, episodes: &str| {
        hearth(
            folder.path(),
            &[
                &own[..],
                &["--completion", "4", "--out", out, "--episodes", episodes],
            ]
            .concat(),
        )
        .done();
        let mut played = Store::read(path(out)).unwrap();
        played.sort_by_key(|trajectory| (trajectory.game.clone(), trajectory.repetition));
        played
            .iter_mut()
            .for_each(|trajectory| trajectory.seconds = 0.0);
        played
    };
    let played = collect("dagger.jsonl", "12");
    assert_eq!(collect("alone.jsonl", "1"), played);
    assert_eq!(played.len(), 12);
    assert!(
        played
            .iter()
            .filter(|trajectory| trajectory.is_won())
            .count()
            > 6,
        "the expert finds its way"
    );
    let turns: Vec<_> = played
        .iter()
        .flat_map(|trajectory| &trajectory.turns)
        .collect();
    let perturbed = turns.iter().filter(|turn| turn.perturbed).count();
    assert!(
        perturbed > 20 && turns.len() - perturbed > 20,
        "{perturbed} of {}",
        turns.len()
    );
    assert!(
        turns
            .iter()
            .all(|turn| turn.perturbed || turn.action.is_some()),
        "the expert is never malformed"
    );
    hearth(
        folder.path(),
        &[
            "collect", "--policy", "model", "--dagger", "model", "--suite", "games", "--out",
            "x.jsonl",
        ],
    )
    .refused(
        2,
        "error: --dagger: only works with --policy expert, which labels the states\n",
    );
    hearth(
        folder.path(),
        &[&own[..], &["--expert-noise", "0.1", "--out", "x.jsonl"]].concat(),
    )
    .refused(
        2,
        "error: --expert-noise: cannot be combined with --dagger, where the model's turns replace the noise\n",
    );
}
