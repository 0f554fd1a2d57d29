//! Branches in corridors, where the returns of each candidate are easy to count.

use crate::training_jobs::learn;
use agent::policy::lm::{LmPolicy, ValueUse};
use agent::policy::{Policy, ScriptedPolicy, TurnRequest, TurnResponse, text_response};
use agent::rollout::Concurrency;
use agent::text::action::parse_command;
use scenarios::{Candidate, Outcome, Protocol, Task, Trajectory, Turn};
use std::collections::{BTreeSet, HashMap};
use support::corridor::{Corridors, babbler, jobs, play, protocol, task};
use trainer::TrainerError;
use trainer::learn::config::{Algorithm, Targets, TrainConfig};
use trainer::measure::branch::{
    BranchCost, BranchRecipe, BranchResult, BranchState, Branching, branch_states, play_branches,
};

const POOL: Concurrency = Concurrency {
    workers: 2,
    episodes: 8,
};

/// A policy that writes a command of its seed if the temperature is that of the candidates, and
/// walks east otherwise. Two of the commands are equal up to blanks.
struct Explorer(&'static [&'static str]);

impl Policy for Explorer {
    type EpisodeState = u64;

    fn name(&self) -> String {
        "explorer".into()
    }

    fn begin(&self, seed: u64) -> u64 {
        seed
    }

    fn replay(&self, _: &mut u64, _: &Turn) -> Result<(), String> {
        Ok(())
    }

    fn respond(
        &self,
        asked: &mut [TurnRequest<'_, u64>],
        protocol: &Protocol,
    ) -> Vec<TurnResponse> {
        let commands = self.0;
        asked
            .iter()
            .map(|request| {
                let command = if protocol.temperature > 1.0 {
                    commands[(*request.episode % commands.len() as u64) as usize]
                } else {
                    "east"
                };
                text_response(command.into())
            })
            .collect()
    }
}

const EXPLORER: Explorer = Explorer(&["east", " east ", "look", "west"]);

fn recipe() -> BranchRecipe {
    BranchRecipe {
        candidates: 3,
        rollouts: 2,
        discount: 0.5,
        ..BranchRecipe::default()
    }
}

/// An episode of six looks.
fn looking(id: &str) -> (Task, Trajectory) {
    let script = ScriptedPolicy(vec!["look".into(); 6]);
    let task = task(id);
    let episode = play(
        &script,
        &jobs(std::slice::from_ref(&task), 1),
        &protocol(),
        POOL,
    )
    .remove(0);
    (task, episode)
}

/// Branches these turns of an episode. Returns the results in the order of the turns.
fn branch<P: Policy>(
    policy: &P,
    (task, episode): &(Task, Trajectory),
    turns: &[usize],
    recipe: &BranchRecipe,
    pool: Concurrency,
) -> (Vec<BranchResult>, BranchCost) {
    let states: Vec<BranchState<'_>> = turns
        .iter()
        .map(|&turn| BranchState {
            task,
            episode,
            turn,
        })
        .collect();
    let branching = Branching {
        recipe,
        source: "rollouts.jsonl",
        context_limit: 512,
        seed: 1,
        pool,
    };
    let mut found: Vec<(usize, BranchResult)> = Vec::new();
    let world = Corridors::default();
    let cost = play_branches(
        policy,
        &world,
        &states,
        &protocol(),
        branching,
        |state, result| {
            found.push((state.turn, result));
            Ok(())
        },
    );
    assert_eq!(world.open_and_most().0, 0);
    found.sort_by_key(|(turn, _)| *turn);
    let found = found.into_iter().map(|(_, result)| result).collect();
    (found, cost.unwrap())
}

fn record(result: &BranchResult) -> &Trajectory {
    match result {
        BranchResult::Record(record) => record,
        BranchResult::Lost(reason) => panic!("{reason}"),
    }
}

/// The returns of each command of a record, in alphabetical order.
fn returns(record: &Trajectory) -> Vec<(&str, &[f64])> {
    let mut returns: Vec<(&str, &[f64])> = record
        .turns
        .last()
        .unwrap()
        .candidates
        .iter()
        .map(|candidate| (candidate.completion.trim(), &candidate.returns[..]))
        .collect();
    returns.sort_by_key(|(command, _)| *command);
    returns
}

/// A corridor of three rooms, six turns, γ = 0.5. `east` wins with n = 3 turns: 0.25. `look` and
/// `west` win with 4: 0.125. After three turns, only `east` leaves enough turns; after four, none.
#[test]
fn each_candidate_has_the_discounted_returns_of_its_continuations() {
    let episode = looking("plain/3");
    let (found, cost) = branch(&EXPLORER, &episode, &[0, 2, 3, 4], &recipe(), POOL);
    let (quarter, eighth, none) = ([0.25; 2], [0.125; 2], [0.0; 2]);
    let expected: [[&[f64]; 3]; 4] = [
        [&quarter, &eighth, &eighth],
        [&quarter, &eighth, &eighth],
        [&quarter, &none, &none],
        [&none, &none, &none],
    ];
    for (result, expected) in found.iter().zip(expected) {
        let [east, look, west] = expected;
        assert_eq!(
            returns(record(result)),
            [("east", east), ("look", look), ("west", west)]
        );
    }
    assert_eq!(found.len(), 4);
    assert_eq!(cost.continuations, 4 * 3 * 2);
    assert!(
        cost.samples >= 4 * 3 && cost.samples.is_multiple_of(3),
        "{cost:?}"
    );
}

/// The record contains the turns of the episode, and a last turn with what the episode wrote. It is
/// no episode.
#[test]
fn a_record_is_the_beginning_of_its_episode_and_marked() {
    let episode = looking("plain/3");
    let (found, _) = branch(&EXPLORER, &episode, &[2], &recipe(), POOL);
    let record = record(&found[0]);
    let (_, source) = &episode;
    assert_eq!(record.turns[..2], source.turns[..2]);
    let last = Turn {
        candidates: Vec::new(),
        ..record.turns[2].clone()
    };
    assert_eq!((record.turns.len(), &last), (3, &source.turns[2]));
    let identity = |of: &Trajectory| {
        (
            of.game_hash.clone(),
            of.seed,
            of.repetition,
            of.policy.clone(),
        )
    };
    assert_eq!(identity(record), identity(source));
    assert_eq!((record.outcome, record.reward), (Outcome::Failure, 0.0));
    let info = record.branch.clone().unwrap();
    assert_eq!(
        (
            info.source.as_str(),
            info.turn,
            info.policy.as_str(),
            info.discount
        ),
        ("rollouts.jsonl", 2, "explorer", 0.5)
    );
    let text = record.check_episode().unwrap_err();
    assert!(
        text.starts_with("the record of plain/3, repetition 0, is a branch at turn 2 of an episode of rollouts.jsonl")
            && text.contains("\nhint: "),
        "{text}"
    );
    let counts: usize = record.turns[2].candidates.iter().map(|of| of.count).sum();
    assert!((3..=12).contains(&counts), "{counts}");
    let line = serde_json::to_string(record).unwrap();
    assert_eq!(&serde_json::from_str::<Trajectory>(&line).unwrap(), record);
}

/// Completions that differ only in blanks are one command, and so are all malformed ones. If a state
/// has a single command, its candidate is continued after 4 · 3 samples.
#[test]
fn candidates_are_distinct_by_command() {
    let episode = looking("plain/3");
    let two = Explorer(&["east", " east ", "a\nb", "c\nd"]);
    let (found, _) = branch(&two, &episode, &[1], &recipe(), POOL);
    let candidates = &record(&found[0]).turns[1].candidates;
    let mut commands: Vec<Option<&str>> = candidates
        .iter()
        .map(|candidate| parse_command(&candidate.completion))
        .collect();
    commands.sort_unstable();
    assert_eq!(commands, [None, Some("east")]);
    assert_eq!(candidates.iter().map(|of| of.count).sum::<usize>(), 12);
    assert!(candidates.iter().all(|of| of.returns.len() == 2));

    let one = Explorer(&["east", " east "]);
    let (found, cost) = branch(&one, &episode, &[1], &recipe(), POOL);
    let candidates = &record(&found[0]).turns[1].candidates;
    assert_eq!(candidates.len(), 1);
    assert_eq!(
        (candidates[0].count, candidates[0].mean_return()),
        (12, Some(0.25))
    );
    assert_eq!((cost.samples, cost.continuations), (12, 2));
}

/// A command that wins at once has n = 1, so its return is 1. If the environment fails in a sample,
/// or does not repeat an observation, the state has no record.
#[test]
fn a_candidate_may_end_the_game_or_fail() {
    let (found, _) = branch(&EXPLORER, &looking("plain/1"), &[5], &recipe(), POOL);
    let (won, lost) = ([1.0; 2], [0.0; 2]);
    assert_eq!(
        returns(record(&found[0])),
        [("east", &won[..]), ("look", &lost), ("west", &lost)]
    );
    let (found, _) = branch(&EXPLORER, &looking("pitted/5"), &[0], &recipe(), POOL);
    assert!(
        returns(record(&found[0]))
            .iter()
            .all(|(_, of)| *of == [0.0; 2])
    );

    let (found, _) = branch(&EXPLORER, &looking("rotten/5"), &[0], &recipe(), POOL);
    let expected = "the world failed at command \"east\": the floor gave way";
    assert_eq!(found, [BranchResult::Lost(expected.into())]);
    let (task, mut changed) = looking("plain/3");
    changed.turns[1].observation = "You are in a wood.".into();
    let (found, cost) = branch(&EXPLORER, &(task, changed), &[3], &recipe(), POOL);
    assert!(
        matches!(&found[..], [BranchResult::Lost(reason)] if reason.contains("You are in a wood.")),
        "{found:?}"
    );
    assert_eq!(cost.continuations, 0);
}

/// With a model: the ids are those that were sampled, and a record does not depend on what is played
/// at the same time. In some state of these episodes the candidates differ in their returns.
#[test]
fn the_candidates_of_a_model_have_their_token_ids() {
    let player = LmPolicy::new(babbler(3), ValueUse::Skip).unwrap();
    let tasks = [task("plain/1"), task("plain/2")];
    let played = play(&player, &jobs(&tasks, 3), &protocol(), POOL);
    let recipe = BranchRecipe {
        candidates: 3,
        rollouts: 2,
        ..BranchRecipe::default()
    };
    let by_hash: HashMap<&str, &Task> = tasks.iter().map(|of| (of.hash.as_str(), of)).collect();
    let states = branch_states(&played, &by_hash, &recipe, 1);
    let again = branch_states(&played, &by_hash, &recipe, 1);
    assert_eq!(states, again);
    assert_eq!(states.len(), 6, "one state of each episode");
    let few = BranchRecipe {
        episodes: 2,
        ..recipe.clone()
    };
    let seeds: BTreeSet<u64> = branch_states(&played, &by_hash, &few, 1)
        .iter()
        .map(|state| state.episode.seed)
        .collect();
    assert_eq!(seeds.len(), 2);

    let records = |pool: Concurrency| {
        let mut records = Vec::new();
        for state in &states {
            let source = (state.task.clone(), state.episode.clone());
            records.extend(branch(&player, &source, &[state.turn], &recipe, pool).0);
        }
        records
    };
    let together = records(POOL);
    let alone = records(Concurrency {
        workers: 1,
        episodes: 1,
    });
    assert_eq!(alone, together);
    let mut contrasts = 0;
    for result in &together {
        let turn = record(result).turns.last().unwrap();
        assert!(!turn.observation_tokens.is_empty());
        let candidates: &[Candidate] = &turn.candidates;
        for candidate in candidates {
            let ids = candidate.tokens.strip_suffix(&[player.tokenizer.end]);
            let ids = ids.unwrap_or(&candidate.tokens);
            assert_eq!(player.tokenizer.decode(ids), candidate.completion);
            assert!(candidate.logprob.unwrap() < 0.0);
        }
        contrasts += usize::from(
            candidates
                .iter()
                .any(|of| of.mean_return() != candidates[0].mean_return()),
        );
    }
    assert!(contrasts > 0, "{contrasts} of {}", together.len());
}

/// Ordinary training refuses branches.
#[test]
fn a_branch_is_never_trained_on_as_an_episode() {
    let (found, _) = branch(&EXPLORER, &looking("plain/3"), &[2], &recipe(), POOL);
    let model = babbler(1);
    let job = TrainConfig::of(Algorithm::Sft {
        targets: Targets::Actions,
    });
    let folder = tempfile::tempdir().unwrap();
    let error = learn(&job, &model, &[record(&found[0]).clone()], folder.path()).unwrap_err();
    let TrainerError::Data(text) = error else {
        panic!("{error}")
    };
    assert!(text.starts_with("the record of plain/3"), "{text}");
}
