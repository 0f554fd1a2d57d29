//! The scorers of best-of-K, the networks that they need, and the history of the last turns.

use super::{POOL, player};
use agent::inference::device::Backend;
use agent::inference::{KvCache, PolicyInference, Span, ValueInference};
use agent::model::folder::Model;
use agent::model::weights::{ADVANTAGE_HEAD, VALUE_HEAD};
use agent::policy::Policy;
use agent::policy::lm::{GivenCompletions, LmPolicy, ValueUse, select};
use agent::text::action;
use agent::text::chat::{self, PromptPosition};
use agent::text::tokenizer::Tokenizer;
use scenarios::{
    ActionFormat, Candidate, DistinctBy, History, Outcome, Protocol, Scorer, Task, Trajectory,
    Turn, WeightFormat,
};
use support::corridor::{babbler, jobs, play, protocol, task};

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

/// A policy without a value network, and with a reference if one is given.
fn with_reference(reference: Option<&Model>, model: &Model) -> LmPolicy {
    LmPolicy::with_reference(model.clone(), reference.cloned(), ValueUse::Skip).unwrap()
}

fn turns(played: &[Trajectory]) -> impl Iterator<Item = &Turn> {
    played.iter().flat_map(|trajectory| &trajectory.turns)
}

/// The hidden state after each token, read in one piece.
fn states(trunk: &agent::inference::Trunk, tokens: &[u32]) -> Vec<f32> {
    trunk.extend(&mut [Span::new(tokens, &mut KvCache::default())])
}

/// The completion of a turn is the first of the candidates with the highest score, whatever the
/// scorer is.
#[track_caller]
fn assert_the_best_was_taken(played: &[Trajectory], k: usize) {
    for turn in turns(played) {
        let scores: Vec<f32> = turn
            .candidates
            .iter()
            .map(|candidate| candidate.score)
            .collect();
        let best = &turn.candidates[select::best(&scores).unwrap()];
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
fn the_scorers_without_a_network_need_none() {
    let tasks = tasks();
    let player = with_reference(None, &babbler(1));
    for by in [
        Scorer::Logprob,
        Scorer::Random,
        Scorer::Distinct,
        Scorer::Expert,
    ] {
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

/// A log contains every score that the loaded networks can give, whichever scorer decides.
#[test]
fn one_scorer_decides_and_the_others_are_logged() {
    let tasks = tasks();
    let model = babbler(2);
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
                Scorer::Expert if candidate.completion != "look" => {
                    assert_eq!(candidate.score, known[2]);
                }
                Scorer::Expert => assert_eq!(candidate.score, 1.0 + known[2].exp()),
                _ => assert!((0.0..1.0).contains(&candidate.score)),
            }
        }
    }
}

/// ln π has the weight of the protocol.
#[test]
fn the_factor_of_the_soft_value_is_that_of_the_protocol() {
    let tasks = tasks();
    let player = player(&babbler(2));
    let protocol = Protocol {
        soft_value_beta: 0.02,
        ..best_of(4, Scorer::SoftValue)
    };
    let played = play(&player, &jobs(&tasks, 2), &protocol, POOL);
    assert_the_best_was_taken(&played, 4);
    for candidate in turns(&played).flat_map(|turn| &turn.candidates) {
        let (value, logprob) = (candidate.after_value.unwrap(), candidate.logprob.unwrap());
        assert_eq!(candidate.score, value + 0.02 * logprob);
    }
}

/// In a turn with two distinct candidates of which one was sampled twice, `distinct` selects each
/// equally often, and `random` the repeated one in two thirds of the turns. All turns are first
/// turns, so they do not depend on earlier selections. Three standard deviations are allowed.
#[test]
fn distinct_forgets_how_often_a_candidate_was_sampled() {
    let tasks = [task("plain/9")];
    let player = with_reference(None, &babbler(1));
    let first_turn = |by| Protocol {
        turn_limit: 1,
        ..best_of(3, by)
    };
    let repeated = |by| {
        let played = play(&player, &jobs(&tasks, 400), &first_turn(by), POOL);
        let twice: Vec<bool> = turns(&played)
            .filter(|turn| turn.candidates.len() == 2)
            .map(|turn| {
                let repeated = turn.candidates.iter().find(|one| one.count == 2);
                repeated.unwrap().completion == turn.completion
            })
            .collect();
        let n = twice.len() as f64;
        let share = twice.iter().filter(|taken| **taken).count() as f64 / n;
        (n, share)
    };
    for (by, expected) in [(Scorer::Distinct, 1.0 / 2.0), (Scorer::Random, 2.0 / 3.0)] {
        let (n, share) = repeated(by);
        assert!(n > 50.0, "{n}");
        let deviation = (expected * (1.0 - expected) / n).sqrt();
        assert!((share - expected).abs() < 3.0 * deviation, "{share} of {n}");
    }
}

/// The expert reads no task in a corridor, so it would write `look`. If no candidate is `look`, the
/// most likely candidate is taken.
#[test]
fn the_command_of_the_expert_is_taken_if_it_is_among_the_candidates() {
    let tasks = tasks();
    let player = with_reference(None, &babbler(1));
    let played = play(&player, &jobs(&tasks, 8), &best_of(6, Scorer::Expert), POOL);
    let mut found = [0, 0];
    for turn in turns(&played) {
        let has_look = turn.candidates.iter().any(|one| one.completion == "look");
        assert_eq!(has_look, turn.action.as_deref() == Some("look"), "{turn:?}");
        if !has_look {
            let highest = turn.candidates.iter().filter_map(|one| one.logprob);
            let taken: f32 = turn.logprobs.iter().sum();
            assert_eq!(Some(taken), highest.reduce(f32::max));
        }
        found[usize::from(has_look)] += 1;
    }
    assert!(found.iter().all(|turns| *turns > 0), "{found:?}");
}

/// Candidates that are distinct by command are those that are distinct by tokens, with those of one
/// command merged: the counts are added, and the highest ln π is kept.
#[test]
fn candidates_with_one_command_are_merged() {
    let tasks = [task("plain/9")];
    let player = player(&babbler(1));
    let first_turns = |distinct_by| {
        let protocol = Protocol {
            turn_limit: 1,
            distinct_by,
            ..best_of(8, Scorer::AfterValue)
        };
        play(&player, &jobs(&tasks, 60), &protocol, POOL)
    };
    let by_tokens = first_turns(DistinctBy::Tokens);
    let by_command = first_turns(DistinctBy::Command);
    assert_the_best_was_taken(&by_command, 8);
    let mut merged = 0;
    for (all, fewer) in turns(&by_tokens).zip(turns(&by_command)) {
        let mut left: Vec<&Candidate> = all.candidates.iter().collect();
        for kept in &fewer.candidates {
            let command = action::parse_command(&kept.completion);
            let (same, others): (Vec<&Candidate>, Vec<&Candidate>) = left
                .into_iter()
                .partition(|one| action::parse_command(&one.completion) == command);
            left = others;
            // A cut completion has no command, whatever its text is.
            let highest = same.iter().filter_map(|one| one.logprob).reduce(f32::max);
            if command.is_some() && same.iter().all(|one| one.completion == kept.completion) {
                assert_eq!(kept.logprob, highest);
                assert_eq!(kept.count, same.iter().map(|one| one.count).sum::<usize>());
                merged += same.len() - 1;
            }
        }
    }
    let number = |played: &[Trajectory]| turns(played).map(|turn| turn.candidates.len()).sum();
    let [before, after]: [usize; 2] = [number(&by_tokens), number(&by_command)];
    assert!(after < before, "{after} of {before}");
    assert!(merged > 0, "a command with several tokenizations occurs");
}

/// A value network that returns NaN selects nothing. One candidate is no choice, so it is played.
#[test]
fn a_value_network_that_returns_nan_loses_the_episode_with_a_reason() {
    let tasks = tasks();
    let mut model = babbler(3);
    let head = model.value.as_mut().unwrap().0.get_mut(VALUE_HEAD);
    head.unwrap().data.fill(f32::NAN);
    let player = player(&model);
    for trajectory in play(
        &player,
        &jobs(&tasks, 1),
        &best_of(3, Scorer::AfterValue),
        POOL,
    ) {
        assert_eq!(trajectory.outcome, Outcome::EnvFailed);
        let reason = trajectory.failure.unwrap();
        assert!(
            reason.starts_with("the scorer after_value gave NaN to all")
                && reason.contains("\nhint: "),
            "{reason}"
        );
    }
    for protocol in [best_of(1, Scorer::AfterValue), best_of(3, Scorer::Logprob)] {
        let played = play(&player, &jobs(&tasks, 1), &protocol, POOL);
        assert!(played.iter().all(|one| one.outcome != Outcome::EnvFailed));
    }
}

/// The first k of K candidates are those of K = k. This is checked on the first turn, after which
/// the choices differ.
#[test]
fn samples_are_nested() {
    let tasks = tasks();
    let player = player(&babbler(3));
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

/// If the reference is the policy itself, every log-ratio is exactly 0, whatever was written and
/// however it was read.
#[test]
fn the_log_ratio_of_a_policy_to_itself_is_zero() {
    let tasks = tasks();
    let model = babbler(4);
    let played = play(
        &with_reference(Some(&model), &model),
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

/// ln π − ln π_ref of a completion equals the difference of both log-probabilities of the logged
/// ids, read again in one piece. The reference may have another configuration.
#[test]
fn the_log_ratio_is_that_of_the_logged_tokens() {
    let tasks = tasks();
    let model = babbler(5);
    let mut other = babbler(6);
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
        let player = with_reference(Some(&other), &model);
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
                let logprob: f32 = rows
                    .zip(&turn.completion_tokens)
                    .map(|(row, token)| row[*token as usize])
                    .sum();
                end += turn.completion_tokens.len();
                assert_eq!(
                    turn.log_ratio,
                    Some(turn.logprobs.iter().sum::<f32>() - logprob)
                );
                assert_ne!(turn.log_ratio, Some(0.0));
            }
        }
    }
}

#[test]
fn a_missing_network_is_reported_with_the_available_scorers() {
    let model = babbler(7);
    let reason = |player: &LmPolicy, by| player.can_play(&best_of(3, by)).unwrap_err();
    let alone = with_reference(None, &model);
    assert_eq!(
        reason(&alone, Scorer::AfterValue),
        "the best of 3 by after_value: no value network is loaded\nhint: available scorers are logprob, random, distinct, expert, oracle"
    );
    assert_eq!(
        reason(&player(&model), Scorer::LogRatio),
        "the best of 3 by log_ratio: no reference policy is loaded\nhint: available scorers are after_value, soft_value, logprob, random, distinct, expert, oracle"
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
        panic!("two tokenizers")
    };
    assert!(
        error
            .to_string()
            .contains("the reference has another tokenizer than the policy"),
        "{error}"
    );
}

/// In a corridor the goal is in the east, so the oracle goes east if one of K candidates does. The
/// commands in copies are counted, and they do not change the episode.
#[test]
fn the_oracle_takes_the_candidate_nearest_to_the_goal() {
    let tasks = tasks();
    let player = with_reference(None, &babbler(1));
    let played = play(&player, &jobs(&tasks, 6), &best_of(6, Scorer::Oracle), POOL);
    assert_the_best_was_taken(&played, 6);
    for trajectory in &played {
        let commands = |turn: &Turn| {
            turn.candidates
                .iter()
                .filter(|c| action::parse_command(&c.completion).is_some())
                .count()
        };
        let asked: usize = trajectory.turns.iter().map(commands).sum();
        let done = trajectory.turns.len();
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
fn the_oracle_needs_copies_and_a_distance() {
    let tasks = [task("single/3"), task("dumb/3")];
    let player = with_reference(None, &babbler(1));
    for trajectory in play(&player, &jobs(&tasks, 1), &best_of(3, Scorer::Oracle), POOL) {
        assert_eq!(trajectory.outcome, Outcome::EnvFailed);
        assert_eq!(
            trajectory.failure.as_deref(),
            Some(agent::rollout::NO_LOOK_AHEAD)
        );
    }
}

/// If the history is the last two turns, V belongs to the first observation, these turns, and the
/// current observation. The first observation shares a frame with the one that follows. The ids are
/// not logged. If the window contains all turns, nothing else changes.
#[test]
fn a_window_shows_the_task_and_the_last_turns() {
    let tasks = tasks();
    let model = babbler(3);
    let player = player(&model);
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
    let tokenizer = &model.tokenizer;
    let width = model.config.hidden_size;
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
            let mut place = PromptPosition::Opening;
            let mut tokens = Vec::new();
            for past in &window {
                let (observation, completion, next) =
                    chat::turn_tokens(tokenizer, past, place, ActionFormat::Plain);
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
            // A random text can be tokenized in several ways; a command has one tokenization.
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

/// If the sampled tokens of every turn are given, their scores have the bits of the log. A second
/// completion beside them changes nothing, and it equals the same completion alone.
#[test]
fn given_completions_have_the_scores_of_the_log() {
    let mut model = babbler(2);
    assert_given_scores_are_logged(&model);
    // U = V + A.
    let value = model.value.as_mut().unwrap();
    let head = value.0[VALUE_HEAD].clone();
    value.0.insert(ADVANTAGE_HEAD.into(), head);
    assert_given_scores_are_logged(&model);

    let skip = LmPolicy::new(model.clone(), ValueUse::Skip).unwrap();
    let completion = chat::completion_tokens(&model.tokenizer, "west");
    let state = GivenCompletions {
        prefix: &completion,
        completions: &[&completion],
    };
    let scores = skip.score_given(&[state]).remove(0);
    assert!(scores.value.is_none() && scores.after_values.is_empty());
    assert_eq!(scores.logprobs.len(), 1);
    assert!(scores.reference_logprobs.is_empty());
    // A reference gives the numbers that it gives as the policy.
    let other = babbler(9);
    let alone = with_reference(None, &other).score_given(&[state]).remove(0);
    let beside = with_reference(Some(&other), &model).score_given(&[state]);
    assert_eq!(beside[0].reference_logprobs, alone.logprobs);
    assert_eq!(beside[0].logprobs, scores.logprobs);
}

#[track_caller]
fn assert_given_scores_are_logged(model: &Model) {
    let player = LmPolicy::new(model.clone(), ValueUse::Score).unwrap();
    let played = play(&player, &jobs(&tasks(), 3), &protocol(), POOL);
    let other = chat::completion_tokens(&model.tokenizer, "west");
    let mut checked = 0;
    for trajectory in &played {
        let mut prefix = Vec::new();
        for turn in &trajectory.turns {
            prefix.extend(&turn.observation_tokens);
            let [scores, alone] =
                [&[&turn.completion_tokens[..], &other][..], &[&other[..]]].map(|completions| {
                    let state = GivenCompletions {
                        prefix: &prefix,
                        completions,
                    };
                    player.score_given(&[state]).remove(0)
                });
            assert_eq!(scores.value, turn.value);
            assert_eq!(scores.logprobs[0], turn.logprobs.iter().sum::<f32>());
            assert_eq!(Some(scores.after_values[0]), turn.after_value);
            assert_eq!(alone.logprobs, scores.logprobs[1..]);
            assert_eq!(alone.after_values, scores.after_values[1..]);
            prefix.extend(&turn.completion_tokens);
            checked += 1;
        }
    }
    assert!(checked > 10, "{checked} turns");
}
