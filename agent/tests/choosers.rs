//! What the best of K is chosen by, who looks on while it is, and what a window over the last turns leaves to read.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod corridor;

use agent::inference::device::Backend;
use agent::inference::{KvCache, PolicyInference, Span, ValueInference};
use agent::model::folder::Model;
use agent::policy::Policy;
use agent::policy::lm::select;
use agent::policy::lm::{LmPolicy, ValueUse};
use agent::rollout::Concurrency;
use agent::text::chat::{self, Place};
use agent::text::tokenizer::Tokenizer;
use corridor::{babbler, jobs, play, protocol, task};
use scenarios::{
    Candidate, History, Outcome, Protocol, Scorer, Task, Trajectory, Turn, WeightFormat,
};

const POOL: Concurrency = Concurrency {
    workers: 2,
    episodes: 8,
};

fn tasks() -> Vec<Task> {
    vec![task("plain/3"), task("plain/9")]
}

fn best_of(k: usize, scorer: Scorer) -> Protocol {
    Protocol {
        best_of: k,
        scorer,
        ..protocol()
    }
}

/// A policy with nobody but the reference looking on.
fn beside(reference: Option<&Model>, model: &Model) -> LmPolicy {
    LmPolicy::with_reference(model.clone(), reference.cloned(), ValueUse::Skip).unwrap()
}

fn watched(model: &Model) -> LmPolicy {
    LmPolicy::new(model.clone(), ValueUse::Score).unwrap()
}

fn turns(played: &[Trajectory]) -> impl Iterator<Item = &Turn> {
    played.iter().flat_map(|trajectory| &trajectory.turns)
}

/// The state after each token, read in one piece.
fn states(trunk: &agent::inference::Trunk, tokens: &[u32]) -> Vec<f32> {
    trunk.extend(&mut [Span::new(tokens, &mut KvCache::default())])
}

/// A turn's choice is the first of the candidates with the highest score, whatever the score is.
#[track_caller]
fn assert_the_best_was_taken(played: &[Trajectory], k: usize) {
    for turn in turns(played) {
        let scores: Vec<f32> = turn
            .candidates
            .iter()
            .map(|candidate| candidate.score)
            .collect();
        let best = &turn.candidates[select::best(&scores)];
        assert_eq!(turn.completion, best.completion);
        assert_eq!(
            (turn.after_value, turn.log_ratio),
            (best.after_value, best.log_ratio)
        );
        assert_eq!(turn.logprobs.iter().sum::<f32>(), best.logprob.unwrap());
        assert_eq!(
            turn.candidates
                .iter()
                .map(|candidate| candidate.count)
                .sum::<usize>(),
            k,
            "each sample counts"
        );
    }
    assert!(turns(played).any(|turn| {
        turn.candidates
            .iter()
            .any(|candidate| candidate.score > turn.candidates[0].score)
    }));
}

#[test]
fn the_likeliest_and_a_random_candidate_need_nobody_to_look_on() {
    let (tasks, player) = (tasks(), beside(None, &babbler(1)));
    for by in [Scorer::Logprob, Scorer::Random] {
        let played = play(&player, &jobs(&tasks, 4), &best_of(4, by), POOL);
        assert_the_best_was_taken(&played, 4);
        assert!(turns(&played).all(|turn| turn.after_value.is_none() && turn.log_ratio.is_none()));
        if by == Scorer::Logprob {
            assert!(
                turns(&played)
                    .flat_map(|turn| &turn.candidates)
                    .all(|c| Some(c.score) == c.logprob)
            );
        }
    }
}

/// One log can be looked at by every score: whoever looks on is written down, whether it decides or not.
#[test]
fn the_chooser_decides_and_the_others_are_logged() {
    let (tasks, model) = (tasks(), babbler(2));
    let player =
        LmPolicy::with_reference(model.clone(), Some(babbler(9)), ValueUse::Score).unwrap();
    assert_eq!(player.scorers(), Scorer::ALL);
    for by in Scorer::ALL.into_iter().filter(|by| *by != Scorer::Oracle) {
        let played = play(&player, &jobs(&tasks, 4), &best_of(4, by), POOL);
        assert_the_best_was_taken(&played, 4);
        for candidate in turns(&played).flat_map(|turn| &turn.candidates) {
            let known = [
                candidate.after_value,
                candidate.log_ratio,
                candidate.logprob,
            ]
            .map(Option::unwrap);
            match by {
                Scorer::AfterValue => assert_eq!(candidate.score, known[0]),
                Scorer::SoftValue => assert_eq!(candidate.score, known[0] + 0.1 * known[2]),
                Scorer::LogRatio => assert_eq!(candidate.score, known[1]),
                Scorer::Logprob => assert_eq!(candidate.score, known[2]),
                _ => assert!((0.0..1.0).contains(&candidate.score)),
            }
        }
    }
}

/// The first k of K' candidates are those of K = k: on the first turn, before the choices part.
#[test]
fn samples_are_nested() {
    let (tasks, player) = (tasks(), watched(&babbler(3)));
    let first = |k: usize, by: Scorer| -> Vec<Vec<Candidate>> {
        let played = play(&player, &jobs(&tasks, 6), &best_of(k, by), POOL);
        let sampled = |candidate: &Candidate| Candidate {
            score: 0.0,
            count: 1,
            ..candidate.clone()
        };
        played
            .iter()
            .map(|trajectory| trajectory.turns[0].candidates.iter().map(sampled).collect())
            .collect()
    };
    let eight = first(8, Scorer::AfterValue);
    for (k, by) in [
        (2, Scorer::AfterValue),
        (3, Scorer::Random),
        (5, Scorer::Logprob),
    ] {
        for (few, all) in first(k, by).iter().zip(&eight) {
            assert_eq!(few[..], all[..few.len()], "{k} by {}", by.name());
        }
    }
    assert!(
        eight.iter().any(|candidates| candidates.len() > 5),
        "they differ"
    );
}

/// Held against itself a policy has no advantage, to the bit, whatever it wrote and however it was read.
#[test]
fn a_policy_has_no_advantage_over_itself() {
    let (tasks, model) = (tasks(), babbler(4));
    let played = play(
        &beside(Some(&model), &model),
        &jobs(&tasks, 4),
        &best_of(3, Scorer::LogRatio),
        POOL,
    );
    assert!(turns(&played).all(|turn| turn.log_ratio == Some(0.0)));
    assert!(
        turns(&played)
            .flat_map(|turn| &turn.candidates)
            .all(|candidate| candidate.log_ratio == Some(0.0))
    );
}

/// ln π − ln π_ref of a completion is what both say of the logged ids, read from scratch in one piece; a reference of
/// another shape reads them too.
#[test]
fn the_log_ratio_is_that_of_the_logged_tokens() {
    let (tasks, model, mut other) = (tasks(), babbler(5), babbler(6));
    other.config.num_hidden_layers = 1;
    let reference = PolicyInference::from_weights(
        &other.config,
        &mut other.policy.clone(),
        WeightFormat::Exact,
        &Backend::Cpu,
    )
    .unwrap();
    let vocab = other.config.vocab_size;
    for protocol in [best_of(1, Scorer::AfterValue), best_of(3, Scorer::LogRatio)] {
        let player = beside(Some(&other), &model);
        for played in play(&player, &jobs(&tasks, 3), &protocol, POOL) {
            let ids = played.turns.iter().flat_map(|turn| {
                turn.observation_tokens
                    .iter()
                    .chain(&turn.completion_tokens)
            });
            let tokens: Vec<u32> = ids.copied().collect();
            let logprobs = reference.logprobs(&states(&reference.trunk, &tokens));
            let mut end = 0;
            for turn in &played.turns {
                end += turn.observation_tokens.len();
                let rows = logprobs[(end - 1) * vocab..].chunks_exact(vocab);
                let said: f32 = rows
                    .zip(&turn.completion_tokens)
                    .map(|(row, token)| row[*token as usize])
                    .sum();
                end += turn.completion_tokens.len();
                assert_eq!(
                    turn.log_ratio,
                    Some(turn.logprobs.iter().sum::<f32>() - said)
                );
                assert_ne!(turn.log_ratio, Some(0.0));
            }
        }
    }
}

#[test]
fn who_cannot_choose_so_says_what_would_help() {
    let model = babbler(7);
    let reason = |player: &LmPolicy, by| player.can_play(&best_of(3, by)).unwrap_err();
    let alone = beside(None, &model);
    assert_eq!(
        reason(&alone, Scorer::AfterValue),
        "the best of 3 by after_value: no value network looks on\nhint: it can be chosen by logprob, random, oracle"
    );
    assert_eq!(
        reason(&watched(&model), Scorer::LogRatio),
        "the best of 3 by log_ratio: no reference looks on\nhint: it can be chosen by after_value, soft_value, logprob, random, oracle"
    );
    assert_eq!(
        alone.can_play(&best_of(1, Scorer::LogRatio)),
        Ok(()),
        "one candidate is no choice"
    );
    let failed = play(
        &alone,
        &jobs(&tasks(), 1),
        &best_of(2, Scorer::AfterValue),
        POOL,
    );
    assert!(
        failed
            .iter()
            .all(|trajectory| trajectory.outcome == Outcome::EnvFailed)
    );

    let tokenizer =
        Tokenizer::train(["go to desk 1\nYou arrive at desk 1."; 4].into_iter(), 300).unwrap();
    let mut foreign = babbler(8);
    foreign.config.vocab_size = tokenizer.vocab_size();
    foreign.tokenizer = tokenizer;
    let Err(error) = LmPolicy::with_reference(model, Some(foreign), ValueUse::Skip) else {
        panic!("two languages")
    };
    assert!(
        error
            .to_string()
            .contains("the reference has another tokenizer than the policy"),
        "{error}"
    );
}

/// In a corridor the goal lies east, so the oracle goes east as soon as one of K candidates does; what it looked at is
/// counted, and the episode does not notice.
#[test]
fn the_oracle_knows_the_way() {
    let (tasks, player) = (tasks(), beside(None, &babbler(1)));
    let played = play(&player, &jobs(&tasks, 6), &best_of(6, Scorer::Oracle), POOL);
    assert_the_best_was_taken(&played, 6);
    for trajectory in &played {
        let commands = |turn: &Turn| {
            turn.candidates
                .iter()
                .filter(|c| chat::parse_command(&c.completion).is_some())
                .count()
        };
        let (asked, done) = (
            trajectory.turns.iter().map(commands).sum::<usize>(),
            trajectory.turns.len(),
        );
        assert!(
            (done..=asked + done).contains(&trajectory.spent.commands),
            "{:?}",
            trajectory.spent
        );
        assert_eq!(trajectory.spent.completions, 6 * done);
        for turn in &trajectory.turns {
            let has_east = turn
                .candidates
                .iter()
                .any(|candidate| candidate.completion == "east");
            assert_eq!(has_east, turn.action.as_deref() == Some("east"), "{turn:?}");
        }
    }
    let short = played
        .iter()
        .filter(|trajectory| trajectory.game == "plain/3");
    assert!(short.clone().all(|trajectory| trajectory.is_won()));
}

#[test]
fn an_oracle_needs_a_world_that_tells() {
    let (tasks, player) = (
        vec![task("single/3"), task("dumb/3")],
        beside(None, &babbler(1)),
    );
    for trajectory in play(&player, &jobs(&tasks, 1), &best_of(3, Scorer::Oracle), POOL) {
        assert_eq!(trajectory.outcome, Outcome::EnvFailed);
        assert_eq!(
            trajectory.failure.as_deref(),
            Some(agent::rollout::NO_LOOK_AHEAD)
        );
    }
}

/// Of an episode under a window, V is that of the first observation, the last two turns and the observation to answer,
/// in one frame where nobody answered. Its ids are not logged. A window that holds everything changes nothing else.
#[test]
fn a_window_shows_the_task_and_the_last_turns() {
    let (tasks, model) = (tasks(), babbler(3));
    let player = watched(&model);
    let playing = |history, times| {
        play(
            &player,
            &jobs(&tasks, times),
            &Protocol {
                history,
                ..best_of(6, Scorer::Oracle)
            },
            POOL,
        )
    };
    let value = ValueInference::from_weights(
        &model.config,
        &mut model.value.clone().unwrap(),
        WeightFormat::Exact,
        &Backend::Cpu,
    )
    .unwrap();
    let (tokenizer, width) = (&model.tokenizer, model.config.hidden_size);
    let mut moved = 0;
    for played in playing(History::Last(2), 24) {
        for (now, turn) in played.turns.iter().enumerate() {
            let first = now.saturating_sub(2);
            let mut window = played.turns[first..=now].to_vec();
            if first > 0 {
                window[0].observation = format!(
                    "{}\n\n{}",
                    played.turns[0].observation, window[0].observation
                );
            }
            let (mut place, mut tokens) = (Place::Opening, Vec::new());
            for past in &window {
                let (observation, completion, next) = chat::turn_tokens(tokenizer, past, place);
                tokens.extend(observation.into_iter().chain(completion));
                place = next;
            }
            tokens.truncate(
                tokens.len() - chat::completion_tokens(tokenizer, &turn.completion).len(),
            );
            assert!(
                turn.observation_tokens.is_empty()
                    && turn.completion_tokens.is_empty()
                    && turn.logprobs.is_empty()
            );
            // A babbled text has more than one spelling in tokens; a command has one.
            if window.iter().all(|past| {
                ["east", "look"].contains(&past.completion.as_str()) && past.action.is_some()
            }) {
                let states = states(&value.trunk, &tokens);
                assert_eq!(
                    turn.value,
                    Some(value.value(&states[states.len() - width..])),
                    "turn {now}"
                );
                moved += usize::from(first > 0);
            }
        }
        assert!(played.spent.tokens >= played.turns.len());
    }
    assert!(moved > 5, "{moved}");
    let texts = |played: &[Trajectory]| {
        turns(played)
            .map(|turn| (turn.completion.clone(), turn.value))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        texts(&playing(History::Last(50), 4)),
        texts(&playing(History::Full, 4))
    );
    assert_ne!(
        texts(&playing(History::Last(1), 4)),
        texts(&playing(History::Full, 4))
    );
}
