//! The log of an episode: what is logged is what the policy has read and written, whatever the
//! cache budget.

use super::{POOL, best_of, player, tokens};
use agent::inference::device::Backend;
use agent::inference::{KvCache, PolicyInference, Span, ValueInference};
use agent::policy::lm::{LmPolicy, LoadOptions, ValueUse, select};
use agent::rollout::{Concurrency, play_episodes};
use agent::text::action;
use agent::text::tokenizer::BEGIN;
use scenarios::{Protocol, Search, Trajectory, WeightFormat};
use support::corridor::{Corridors, babbler, jobs, play, protocol, tasks};

/// If the logged tokens are read again in one piece, they give exactly the log-probabilities and
/// values that were logged turn by turn: the policy has read this concatenation and nothing else,
/// at any temperature and K.
#[test]
fn the_logged_tokens_are_what_the_policy_read() {
    let tasks = tasks(&["plain/3", "plain/9"]);
    let model = babbler(3);
    let policy = PolicyInference::from_weights(
        &model.config,
        &mut model.policy.clone(),
        WeightFormat::Exact,
        &Backend::Cpu,
    )
    .unwrap();
    let value = ValueInference::from_weights(
        &model.config,
        &mut model.value.clone().unwrap(),
        WeightFormat::Exact,
        &Backend::Cpu,
    )
    .unwrap();
    let width = model.config.hidden_size;
    let vocab = model.config.vocab_size;
    for protocol in [
        best_of(1),
        best_of(3),
        Protocol {
            temperature: 2.5,
            ..best_of(2)
        },
        Protocol {
            temperature: 0.0,
            ..best_of(1)
        },
        Protocol {
            search: Some(Search::Beam { width: 3 }),
            ..best_of(2)
        },
        Protocol {
            search: Some(Search::BestFirst { budget: 24 }),
            ..best_of(3)
        },
    ] {
        for played in play(&player(&model), &jobs(&tasks, 2), &protocol, POOL) {
            let tokens = tokens(&played);
            assert_eq!(Some(tokens[0]), model.tokenizer.id(BEGIN));
            let read = |trunk: &agent::inference::Trunk| {
                trunk.extend(&mut [Span::new(&tokens, &mut KvCache::default())])
            };
            let states = read(&policy.trunk);
            let value_states = read(&value.trunk);
            let logprobs = policy.logprobs(&states);
            let value_at = |position: usize| {
                value.value(&value_states[position * width..(position + 1) * width])
            };
            let mut end = 0;
            for turn in &played.turns {
                end += turn.observation_tokens.len();
                assert_eq!(
                    turn.value,
                    Some(value_at(end - 1)),
                    "V just before the completion"
                );
                for (token, logged) in turn.completion_tokens.iter().zip(&turn.logprobs) {
                    let row = &logprobs[(end - 1) * vocab..end * vocab];
                    assert_eq!(*logged, row[*token as usize], "under the untempered policy");
                    if protocol.temperature == 0.0 {
                        assert!(
                            row.iter().all(|other| other <= logged),
                            "greedy play takes the most probable token"
                        );
                    }
                    end += 1;
                }
                assert_eq!(
                    turn.after_value,
                    Some(value_at(end - 1)),
                    "U just after the completion"
                );
                assert_eq!(turn.logprobs.len(), turn.completion_tokens.len());
            }
        }
    }
}

#[test]
fn the_best_of_k_is_the_candidate_with_the_highest_value() {
    let tasks = tasks(&["plain/9"]);
    let model = babbler(4);
    let played = play(&player(&model), &jobs(&tasks, 4), &best_of(4), POOL);
    let turns: Vec<_> = played.iter().flat_map(|t| &t.turns).collect();
    for turn in &turns {
        let scores: Vec<f32> = turn
            .candidates
            .iter()
            .map(|candidate| candidate.score)
            .collect();
        assert!((1..=4).contains(&scores.len()));
        assert_eq!(turn.after_value, scores.iter().copied().reduce(f32::max));
        let winner = select::best(&scores).unwrap();
        assert_eq!(turn.completion, turn.candidates[winner].completion);
    }
    assert!(
        turns.iter().any(|turn| turn.candidates.len() == 4),
        "four different completions occur"
    );
    assert!(
        turns
            .iter()
            .any(|turn| turn.after_value != Some(turn.candidates[0].score)),
        "the best is not always the first"
    );
}

/// At temperature 0 all K candidates are equal. They are scored once, and K changes nothing.
#[test]
fn equal_candidates_are_scored_once() {
    let tasks = tasks(&["plain/9"]);
    let model = babbler(4);
    let greedy = |k: usize| {
        play(
            &player(&model),
            &jobs(&tasks, 2),
            &Protocol {
                temperature: 0.0,
                ..best_of(k)
            },
            POOL,
        )
    };
    let one = greedy(1);
    let three = greedy(3);
    assert!(
        three
            .iter()
            .flat_map(|t| &t.turns)
            .all(|turn| turn.candidates.len() == 1)
    );
    assert!(
        one.iter()
            .flat_map(|t| &t.turns)
            .all(|turn| turn.candidates.is_empty())
    );
    assert_eq!(
        one.iter().map(tokens).collect::<Vec<_>>(),
        three.iter().map(tokens).collect::<Vec<_>>()
    );
    assert_eq!(
        one[0].turns, one[1].turns,
        "greedy play does not depend on the seed"
    );
}

/// The budget is one full context: most episodes wait, and some give up their caches and read their
/// sequence again. The results are the same, and the caches never hold more than the budget.
#[test]
fn a_small_token_budget_changes_no_result() {
    let tasks = tasks(&["plain/9", "plain/5", "plain/7"]);
    let model = babbler(6);
    let jobs = jobs(&tasks, 8);
    let protocol = Protocol {
        turn_limit: 12,
        ..best_of(2)
    };
    let budget = 2 * model.config.max_position_embeddings;
    let options = |token_budget| LoadOptions {
        token_budget,
        ..LoadOptions::from(ValueUse::Score)
    };
    let small = LmPolicy::new(model.clone(), options(Some(budget))).unwrap();
    let pool = Concurrency {
        workers: 2,
        episodes: 24,
    };
    let mut played = Vec::new();
    play_episodes(
        &small,
        &Corridors::default(),
        &jobs,
        &protocol,
        pool,
        |trajectory| -> Result<(), ()> {
            assert!(
                small.tokens_held() <= budget,
                "{} tokens in a budget of {budget}",
                small.tokens_held()
            );
            played.push(trajectory);
            Ok(())
        },
    )
    .unwrap();
    let held: usize = played.iter().map(Trajectory::tokens).sum();
    assert!(
        2 * held > 3 * budget,
        "{held} tokens would fit into the budget"
    );
    for trajectory in play(&player(&model), &jobs, &protocol, pool) {
        let same =
            |t: &&Trajectory| (&t.game, t.repetition) == (&trajectory.game, trajectory.repetition);
        assert_eq!(played.iter().find(same).unwrap().turns, trajectory.turns);
    }
    let Err(error) = LmPolicy::new(model, options(Some(budget - 1))) else {
        panic!("no episode fits")
    };
    assert!(
        error.to_string().contains("one episode may hold 1024"),
        "{error}"
    );
}

/// The text ends before the stop text, the tokens are those that were sampled, and the next
/// observation contains the end.
#[test]
fn a_stop_text_ends_a_completion() {
    let tasks = tasks(&["plain/9"]);
    let model = babbler(7);
    let stopping = Protocol {
        stop: vec!["k".into(), "as".into()],
        ..protocol()
    };
    let mut stopped = 0;
    for played in play(&player(&model), &jobs(&tasks, 6), &stopping, POOL) {
        for (place, turn) in played.turns.iter().enumerate() {
            let written = model.tokenizer.decode(&turn.completion_tokens);
            let at = [written.find('k'), written.find("as")]
                .into_iter()
                .flatten()
                .min();
            let Some(at) = at else { continue };
            assert_eq!(turn.completion, written[..at]);
            assert_eq!(
                turn.action.as_deref(),
                action::parse_command(&turn.completion)
            );
            assert_eq!(turn.completion_tokens.len(), turn.logprobs.len());
            if let Some(next) = played.turns.get(place + 1) {
                assert_eq!(next.observation_tokens[0], model.tokenizer.end);
            }
            stopped += 1;
        }
    }
    assert!(stopped > 5, "{stopped}");
}

/// If the sampling distribution differs from the policy, both log-probabilities of a token are
/// logged. At top-2, the two most probable tokens share the whole probability.
#[test]
fn the_sampling_distribution_is_logged_if_it_is_not_the_policy() {
    let tasks = tasks(&["plain/9"]);
    let model = babbler(8);
    let played = |protocol: &Protocol| play(&player(&model), &jobs(&tasks, 3), protocol, POOL);
    for same in [
        protocol(),
        Protocol {
            temperature: 0.0,
            top_k: 5,
            ..protocol()
        },
    ] {
        assert!(
            played(&same)
                .iter()
                .flat_map(|t| &t.turns)
                .all(|turn| turn.sampling_logprobs.is_empty())
        );
    }
    let two = Protocol {
        top_k: 2,
        ..protocol()
    };
    for turn in played(&two).iter().flat_map(|t| &t.turns) {
        for (policy, sampling) in turn.logprobs.iter().zip(&turn.sampling_logprobs) {
            assert!(
                sampling > policy && *sampling <= 0.0,
                "{sampling} of two, {policy} of all"
            );
        }
        assert_eq!(turn.sampling_logprobs.len(), turn.completion_tokens.len());
    }
}

#[test]
fn samples_depend_only_on_the_seed() {
    let tasks = tasks(&["plain/9"]);
    let model = babbler(5);
    let without_value = LmPolicy::new(model.clone(), ValueUse::Skip).unwrap();
    let alone = play(&without_value, &jobs(&tasks, 3), &best_of(1), POOL);
    assert_ne!(
        tokens(&alone[0]),
        tokens(&alone[1]),
        "another seed, another episode"
    );
    let with_value = play(&player(&model), &jobs(&tasks, 3), &best_of(1), POOL);
    for (alone, scored) in alone.iter().zip(&with_value) {
        assert_eq!(
            tokens(alone),
            tokens(scored),
            "the value network changes no sample"
        );
        assert!(
            alone
                .turns
                .iter()
                .all(|turn| turn.value.is_none() && turn.after_value.is_none())
        );
        assert_eq!(
            (alone.value_policy.is_some(), scored.value_policy.is_some()),
            (false, true)
        );
    }
}

#[test]
fn a_vocabulary_larger_than_the_embedding_is_refused() {
    let mut model = babbler(1);
    let has = model.tokenizer.vocab_size();
    let fits = has - 1;
    model.config.vocab_size = fits;
    let Err(error) = LmPolicy::new(model, ValueUse::Skip) else {
        panic!("{has} tokens do not fit into {fits}")
    };
    let expected = format!("has the id {fits}, and the model's vocab_size is {fits}");
    assert!(error.to_string().contains(&expected), "{error}");
}
