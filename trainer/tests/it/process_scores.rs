//! Process scores in corridors, for which the longest prefix that can still be won is easy to
//! count.

use agent::policy::lm::{LmPolicy, ValueUse};
use agent::policy::{Policy, ScriptedPolicy, TurnRequest, TurnResponse, text_response};
use agent::rollout::Concurrency;
use scenarios::{Protocol, Task, Trajectory, Turn};
use support::corridor::{Corridors, babbler, jobs, play, protocol, task};
use trainer::TrainerError;
use trainer::measure::score::{
    FailedEpisode, Scoring, ScoringCost, ScoringResult, completion_protocol, score_episodes,
    with_scores,
};

const POOL: Concurrency = Concurrency {
    workers: 2,
    episodes: 4,
};
const SCORING: Scoring = Scoring {
    completions: 3,
    stride: 1,
    seed: 1,
    pool: POOL,
};

/// A policy that walks east if its seed is odd, and looks otherwise.
struct OddSeedWalker;

impl Policy for OddSeedWalker {
    type EpisodeState = bool;

    fn name(&self) -> String {
        "walker".into()
    }

    fn begin(&self, seed: u64) -> bool {
        seed % 2 == 1
    }

    fn replay(&self, _: &mut bool, _: &Turn) -> Result<(), String> {
        Ok(())
    }

    fn respond(&self, asked: &mut [TurnRequest<'_, bool>], _: &Protocol) -> Vec<TurnResponse> {
        asked
            .iter()
            .map(|question| text_response(if *question.episode { "east" } else { "look" }.into()))
            .collect()
    }
}

fn episode(task: &Task, commands: &[&str]) -> Trajectory {
    let script = ScriptedPolicy(commands.iter().map(ToString::to_string).collect());
    play(
        &script,
        &jobs(std::slice::from_ref(task), 1),
        &protocol(),
        POOL,
    )
    .remove(0)
}

fn score<P: Policy>(
    policy: &P,
    failed: &[(Task, Trajectory)],
    scoring: Scoring,
) -> (Vec<(String, ScoringResult)>, ScoringCost) {
    let mut found = Vec::new();
    let of = |(task, episode)| FailedEpisode { task, episode };
    let failed: Vec<FailedEpisode<'_>> = failed
        .iter()
        .map(|(task, episode)| of((task, episode)))
        .collect();
    let world = Corridors::default();
    let cost = score_episodes(
        policy,
        &world,
        &failed,
        &completion_protocol(&protocol(), 512),
        scoring,
        |episode, what| {
            found.push((episode.game.clone(), what));
            Ok::<(), TrainerError>(())
        },
    );
    assert_eq!(world.open_and_most().0, 0);
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    (found, cost.unwrap())
}

/// Six turns: one east and five looks. From room 1 of 3, two more turns are needed, so four of the
/// six turns can stay. From room 1 of 6, five are needed. From the pit, and from room 1 of 7, the
/// episode cannot be won.
#[test]
fn the_longest_prefix_that_can_still_be_won_is_found() {
    let looking = ["east", "look", "look", "look", "look", "look"];
    let failed = ["plain/3", "plain/6", "plain/7", "pitted/5"]
        .map(|id| (task(id), episode(&task(id), &looking)));
    let sixth = 1.0 / 6.0;
    let shares = |turns: usize| {
        ScoringResult::Scores(
            (0..6)
                .map(|turn| if turn < turns { sixth } else { 0.0 })
                .collect(),
        )
    };
    let (found, cost) = score(&OddSeedWalker, &failed, SCORING);
    let expected = [
        ("pitted/5", 0),
        ("plain/3", 4),
        ("plain/6", 1),
        ("plain/7", 0),
    ];
    assert_eq!(
        found,
        expected.map(|(game, turns)| (game.to_string(), shares(turns)))
    );
    assert_eq!(cost.completions, 3 * (5 + 2 + 5 + 5));
    let (found, _) = score(
        &OddSeedWalker,
        &failed,
        Scoring {
            stride: 3,
            ..SCORING
        },
    );
    let expected = [
        ("pitted/5", 0),
        ("plain/3", 2),
        ("plain/6", 0),
        ("plain/7", 0),
    ];
    assert_eq!(
        found,
        expected.map(|(game, turns)| (game.to_string(), shares(turns))),
        "5 and 2 turns were tried"
    );
}

/// In one episode the environment fails in every completion. In the other, the replayed observation
/// differs.
#[test]
fn an_episode_whose_completions_fail_is_not_scored() {
    let looking = ["east", "look", "look", "look", "look", "look"];
    let rotten = episode(&task("rotten/5"), &looking);
    let mut other = episode(&task("plain/5"), &looking);
    other.turns[1].observation = "You are in a wood.".into();
    let failed = [(task("rotten/5"), rotten), (task("plain/5"), other)];
    let (found, _) = score(&OddSeedWalker, &failed, SCORING);
    let [
        (_, ScoringResult::Lost(changed)),
        (_, ScoringResult::Lost(gave_way)),
    ] = &found[..]
    else {
        panic!("{found:?}")
    };
    assert_eq!(
        gave_way,
        "the world failed at command \"east\": the floor gave way"
    );
    let expected = "before turn 1, played before, the world said \"You are in a wood.\"";
    assert!(changed.starts_with(expected), "{changed}");
}

/// If an episode has at most one turn, it has no prefix to complete.
#[test]
fn a_short_episode_needs_no_completions() {
    let failed = [
        (task("plain/3"), episode(&task("plain/3"), &["look"])),
        (task("plain/4"), episode(&task("plain/4"), &[])),
    ];
    let (found, cost) = score(&OddSeedWalker, &failed, SCORING);
    assert_eq!(
        found
            .into_iter()
            .map(|(_, found)| found)
            .collect::<Vec<_>>(),
        [
            ScoringResult::Scores(vec![0.0]),
            ScoringResult::Scores(vec![])
        ]
    );
    assert_eq!(cost, ScoringCost::default());
}

/// With a model: the scores do not depend on the other episodes, or on how many are scored at once.
#[test]
fn scores_depend_on_the_episode_alone() {
    let player = LmPolicy::new(babbler(3), ValueUse::Skip).unwrap();
    let tasks = [task("plain/1"), task("plain/2")];
    let played = play(&player, &jobs(&tasks, 8), &protocol(), POOL);
    let failed: Vec<(Task, Trajectory)> = played
        .into_iter()
        .filter(|t| t.reward == 0.0)
        .map(|t| (task(&t.game), t))
        .collect();
    let (together, _) = score(&player, &failed, SCORING);
    let won = together
        .iter()
        .filter(|(_, found)| matches!(found, ScoringResult::Scores(s) if s[0] > 0.0))
        .count();
    assert!(
        won > 2 && won < together.len(),
        "{won} of {} have scores above 0",
        together.len()
    );
    let mut alone = Vec::new();
    let pool = Concurrency {
        workers: 1,
        episodes: 1,
    };
    for one in &failed {
        alone.extend(
            score(
                &player,
                std::slice::from_ref(one),
                Scoring { pool, ..SCORING },
            )
            .0,
        );
    }
    let texts = |found: &[(String, ScoringResult)]| {
        let mut texts: Vec<String> = found.iter().map(|found| format!("{found:?}")).collect();
        texts.sort();
        texts
    };
    assert_eq!(texts(&alone), texts(&together));
}

#[test]
fn scores_are_recorded_at_their_turns() {
    let episode = episode(&task("plain/3"), &["look", "east"]);
    let scored = with_scores(&episode, &[0.5, 0.0]);
    assert_eq!(
        scored
            .turns
            .iter()
            .map(|turn| turn.process_score)
            .collect::<Vec<_>>(),
        [Some(0.5), Some(0.0)]
    );
    let without = Trajectory {
        turns: scored
            .turns
            .iter()
            .map(|turn| Turn {
                process_score: None,
                ..turn.clone()
            })
            .collect(),
        ..scored
    };
    assert_eq!(without, episode);
}
