//! Rescues in corridors: which continuations are kept, and how an interruption is continued.

use agent::policy::{Policy, ScriptedPolicy, TurnRequest, TurnResponse, text_response};
use agent::rollout::Concurrency;
use scenarios::store::Store;
use scenarios::{Protocol, Task, Trajectory, Turn};
use std::collections::HashMap;
use std::fs;
use support::corridor::{Corridors, jobs, play, protocol, task};
use trainer::TrainerError;
use trainer::measure::rescue::{
    LostBeginning, RescueRecipe, RescueResult, Rescuing, lost_beginnings, play_rescues,
};
use trainer::pipeline::rescue_store::RescueStore;

const POOL: Concurrency = Concurrency {
    workers: 2,
    episodes: 8,
};

/// A policy that always walks east if its seed has the remainder, and looks otherwise.
struct Lucky {
    modulus: u64,
}

impl Policy for Lucky {
    type EpisodeState = u64;

    fn name(&self) -> String {
        "lucky".into()
    }

    fn begin(&self, seed: u64) -> u64 {
        seed % self.modulus
    }

    fn replay(&self, _: &mut u64, _: &Turn) -> Result<(), String> {
        Ok(())
    }

    fn respond(&self, asked: &mut [TurnRequest<'_, u64>], _: &Protocol) -> Vec<TurnResponse> {
        let command = |request: &TurnRequest<'_, u64>| {
            if *request.episode == 0 {
                "east"
            } else {
                "look"
            }
        };
        asked
            .iter()
            .map(|request| text_response(command(request).into()))
            .collect()
    }
}

/// Episodes of these commands, one of each corridor.
fn episodes(ids: &[&str], commands: &[&str]) -> (Vec<Task>, Vec<Trajectory>) {
    let tasks: Vec<Task> = ids.iter().map(|id| task(id)).collect();
    let script = ScriptedPolicy(commands.iter().map(ToString::to_string).collect());
    let played = play(&script, &jobs(&tasks, 1), &protocol(), POOL);
    (tasks, played)
}

fn rescue(
    policy: &Lucky,
    (tasks, episodes): &(Vec<Task>, Vec<Trajectory>),
    recipe: &RescueRecipe,
    mut record: impl FnMut(&LostBeginning<'_>, RescueResult) -> Result<(), TrainerError>,
) -> usize {
    let by_hash: HashMap<&str, &Task> = tasks.iter().map(|of| (of.hash.as_str(), of)).collect();
    let beginnings = lost_beginnings(episodes, &by_hash, recipe);
    let rescuing = Rescuing {
        recipe,
        context_limit: 512,
        seed: 1,
        pool: POOL,
    };
    let world = Corridors::default();
    let cost = play_rescues(
        policy,
        &world,
        &beginnings,
        &protocol(),
        rescuing,
        &mut record,
    );
    assert_eq!(world.open_and_most().0, 0);
    cost.unwrap().completions
}

fn results(
    policy: &Lucky,
    of: &(Vec<Task>, Vec<Trajectory>),
    recipe: &RescueRecipe,
) -> Vec<(String, usize, RescueResult)> {
    let mut found = Vec::new();
    rescue(policy, of, recipe, |beginning, result| {
        found.push((beginning.episode.game.clone(), beginning.turns, result));
        Ok(())
    });
    found
}

/// The third `look` in room 0 closes the circle, so three turns are replayed and three remain. That is
/// enough for a corridor of three rooms and not for one of four. A corridor of zero rooms was won.
#[test]
fn a_rescue_is_a_marked_beginning_and_a_won_continuation() {
    let lost = episodes(&["plain/3", "plain/4", "plain/0"], &["look"; 6]);
    let recipe = RescueRecipe {
        keep: 3,
        ..RescueRecipe::default()
    };
    let found = results(&Lucky { modulus: 1 }, &lost, &recipe);
    let [
        (first, 3, RescueResult::Rescues(rescues)),
        (second, 3, RescueResult::Rescues(none)),
    ] = &found[..]
    else {
        panic!("{found:?}")
    };
    assert_eq!((first.as_str(), second.as_str()), ("plain/3", "plain/4"));
    assert_eq!((rescues.len(), none.len()), (3, 0));
    for rescue in rescues {
        assert!(rescue.is_won() && rescue.branch.is_none());
        let turns: Vec<(&str, bool)> = rescue
            .turns
            .iter()
            .map(|turn| (turn.completion.as_str(), turn.perturbed))
            .collect();
        let [look, east] = [("look", true), ("east", false)];
        assert_eq!(turns, [look, look, look, east, east, east]);
        assert_eq!((rescue.policy.as_str(), rescue.repetition), ("lucky", 0));
    }
}

/// About a third of the continuations win. A beginning is rescued only if enough of them do, and which of
/// them are kept follows from the seed.
#[test]
fn enough_continuations_must_win() {
    let lost = episodes(&["plain/3"], &["look"; 6]);
    let policy = Lucky { modulus: 3 };
    let kept = |wins: usize, keep: usize| {
        let recipe = RescueRecipe {
            wins,
            keep,
            completions: 30,
            ..RescueRecipe::default()
        };
        match results(&policy, &lost, &recipe).remove(0).2 {
            RescueResult::Rescues(rescues) => rescues.iter().map(|of| of.seed).collect::<Vec<_>>(),
            RescueResult::Lost(reason) => panic!("{reason}"),
        }
    };
    let won = kept(1, 30);
    assert!((4..20).contains(&won.len()), "{won:?}");
    assert!(won.iter().all(|seed| seed % 3 == 0));
    assert_eq!(kept(won.len(), 2), won[..2], "drawn in one random order");
    assert!(kept(won.len() + 1, 2).is_empty());
}

#[test]
fn a_beginning_whose_continuation_fails_has_no_rescue() {
    let lost = episodes(&["rotten/5"], &["look"; 6]);
    let found = results(&Lucky { modulus: 1 }, &lost, &RescueRecipe::default());
    let expected = "the world failed at command \"east\": the floor gave way";
    assert!(
        matches!(&found[..], [(_, 3, RescueResult::Lost(reason))] if reason == expected),
        "{found:?}"
    );
}

/// An interruption after the first of three beginnings, which has been added to the store and whose line is cut
/// off: it is played again, and nothing is added twice.
#[test]
fn an_interrupted_store_is_continued_without_duplicates() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rescues.jsonl");
    let lost = episodes(&["plain/1", "plain/2", "plain/3"], &["look"; 6]);
    let recipe = RescueRecipe::default();
    let policy = Lucky { modulus: 2 };
    let whole = |path: &std::path::Path, most: usize| {
        let mut store = RescueStore::open(path).unwrap();
        let mut added = 0;
        rescue(&policy, &lost, &recipe, |beginning, result| {
            if let RescueResult::Rescues(rescues) = result
                && !store.has_played(beginning)
                && added < most
            {
                added += 1;
                store.add(beginning, rescues)?;
            }
            Ok(())
        });
        (added, store)
    };
    let (added, store) = whole(&path, 1);
    assert_eq!(
        (added, store.rescues().len(), store.is_new()),
        (1, 2, false)
    );
    drop(store);
    let log = folder.path().join("rescues.jsonl.played.jsonl");
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(text.lines().count(), 1);
    fs::write(&log, &text[..text.len() - 9]).unwrap();
    let (added, store) = whole(&path, 3);
    assert_eq!((added, store.rescues().len()), (3, 6));
    drop(store);
    let (added, store) = whole(&path, 3);
    assert_eq!(added, 0, "nothing is played twice");
    let rescues = store.finish().unwrap();
    assert_eq!(Store::read(&path).unwrap(), rescues);
    assert!(!log.exists());
}
