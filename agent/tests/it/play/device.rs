//! The inference backend on burn plays the same episodes as the CPU backend, up to rounding. It runs
//! on burn's CPU backend, or on the GPU that `HEARTH_TEST_DEVICE` names.

use super::POOL;
use agent::inference::device::{Backend, DeviceChoice};
use agent::inference::{KvCache, PolicyInference, Span};
use agent::model::decoder::Precision;
use agent::model::folder::Model;
use agent::policy::lm::{LmPolicy, LoadOptions, ValueUse};
use agent::rollout::{Concurrency, EpisodeJob, play_episodes};

use scenarios::{Protocol, Search, Trajectory, WeightFormat};
use support::corridor::{Corridors, babbler, jobs, play, protocol, task, tasks};
use support::device::{backend, choice, device, tolerance};

const CORRIDORS: [&str; 4] = ["plain/9", "plain/2", "plain/5", "plain/7"];

fn player(
    model: &Model,
    backend: Backend,
    value_use: ValueUse,
    token_budget: Option<usize>,
) -> LmPolicy {
    LmPolicy::new(
        model.clone(),
        LoadOptions {
            backend,
            token_budget,
            ..value_use.into()
        },
    )
    .unwrap()
}

/// The tokens are the same, and the numbers differ only by rounding.
#[track_caller]
fn assert_alike(found: &[Trajectory], expected: &[Trajectory]) {
    let close = |a: f32, b: f32| (a - b).abs() < tolerance(1e-4);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(
            (&found.game, found.outcome),
            (&expected.game, expected.outcome)
        );
        assert_eq!(found.turns.len(), expected.turns.len());
        for (found, expected) in found.turns.iter().zip(&expected.turns) {
            assert_eq!(found.observation_tokens, expected.observation_tokens);
            assert_eq!(found.completion_tokens, expected.completion_tokens);
            assert!(
                found
                    .logprobs
                    .iter()
                    .zip(&expected.logprobs)
                    .all(|(a, b)| close(*a, *b))
            );
            for (a, b) in [
                (found.value, expected.value),
                (found.after_value, expected.after_value),
            ] {
                assert_eq!(a.is_some(), b.is_some());
                assert!(a.zip(b).is_none_or(|(a, b)| close(a, b)), "{a:?} and {b:?}");
            }
            assert_eq!(found.candidates.len(), expected.candidates.len());
        }
    }
}

/// Episodes of a task. A software GPU needs seconds for each.
fn repetitions() -> usize {
    match choice() {
        DeviceChoice::Cpu => 4,
        DeviceChoice::Gpu(..) => 1,
    }
}

#[test]
fn a_device_plays_the_same_episodes_as_the_cpu() {
    let tasks = CORRIDORS.map(task);
    let model = babbler(11);
    let jobs = jobs(&tasks, repetitions());
    let own = player(&model, Backend::Cpu, ValueUse::Score, None);
    let device = player(&model, backend(), ValueUse::Score, None);
    let greedy = Protocol {
        temperature: 0.0,
        ..protocol()
    };
    let beam = Protocol {
        search: Some(Search::Beam { width: 2 }),
        best_of: 3,
        ..protocol()
    };
    for protocol in [
        greedy,
        protocol(),
        Protocol {
            best_of: 3,
            ..protocol()
        },
        beam,
    ] {
        assert_alike(
            &play(&device, &jobs, &protocol, POOL),
            &play(&own, &jobs, &protocol, POOL),
        );
    }
    let alone = |backend| player(&model, backend, ValueUse::Skip, None);
    assert_alike(
        &play(&alone(backend()), &jobs, &protocol(), POOL),
        &play(&alone(Backend::Cpu), &jobs, &protocol(), POOL),
    );
}

/// The budget is one full context: episodes wait, give up their caches and read their sequence
/// again, into rows that other episodes held before.
#[test]
fn a_small_token_budget_changes_no_episode_on_a_device() {
    let tasks = tasks(&CORRIDORS[..3]);
    let model = babbler(12);
    let jobs = jobs(&tasks, 6);
    let protocol = Protocol {
        turn_limit: 12,
        best_of: 2,
        ..protocol()
    };
    let budget = 2 * model.config.max_position_embeddings;
    let small = player(&model, backend(), ValueUse::Score, Some(budget));
    let pool = Concurrency {
        workers: 2,
        episodes: 18,
    };
    let mut found = played_within(&small, &jobs, &protocol, pool, budget);
    let place = |t: &Trajectory| {
        jobs.iter()
            .position(|job| job.task.id == t.game && job.repetition == t.repetition)
    };
    found.sort_by_key(place);
    let held: usize = found.iter().map(Trajectory::tokens).sum();
    assert!(held > budget, "{held} tokens would fit into the budget");
    assert_alike(
        &found,
        &play(
            &player(&model, Backend::Cpu, ValueUse::Score, None),
            &jobs,
            &protocol,
            pool,
        ),
    );
}

fn played_within(
    player: &LmPolicy,
    jobs: &[EpisodeJob<'_>],
    protocol: &Protocol,
    pool: Concurrency,
    budget: usize,
) -> Vec<Trajectory> {
    let mut played = Vec::new();
    play_episodes(
        player,
        &Corridors::default(),
        jobs,
        protocol,
        pool,
        |trajectory| -> Result<(), ()> {
            assert!(
                player.tokens_held() <= budget,
                "{} tokens in a budget of {budget}",
                player.tokens_held()
            );
            played.push(trajectory);
            Ok(())
        },
    )
    .unwrap();
    played
}

/// Log-probabilities after prompts of many lengths read together, and after three more tokens of
/// each, one by one.
fn logprobs(backend: &Backend, format: WeightFormat) -> Vec<f32> {
    let model = babbler(31);
    let vocab = model.config.vocab_size;
    let policy =
        PolicyInference::from_weights(&model.config, &mut model.policy.clone(), format, backend)
            .unwrap();
    let prompt = |length: usize| {
        (0..length)
            .map(|at| ((at * 31 + length * 7) % vocab) as u32)
            .collect::<Vec<u32>>()
    };
    let mut texts: Vec<Vec<u32>> = [1, 5, 33, 64, 200].map(prompt).into();
    let mut caches: Vec<KvCache> = texts.iter().map(|_| KvCache::default()).collect();
    let mut found = Vec::new();
    for round in 0..4 {
        let mut spans: Vec<Span<'_>> = texts
            .iter()
            .zip(&mut caches)
            .map(|(tokens, cache)| Span::new(tokens, cache))
            .collect();
        found.extend(policy.logprobs(&policy.trunk.last_states(&mut spans)));
        texts = (0..texts.len())
            .map(|sequence| vec![((sequence * 11 + round * 3) % vocab) as u32])
            .collect();
    }
    found
}

/// The tolerances are in nats. On a GPU, f32 products may be computed in TF32, whose mantissa has
/// ten bits; that of bf16 has seven.
#[test]
fn a_device_has_the_logprobs_of_the_cpu() {
    let exact = match choice() {
        DeviceChoice::Cpu => 1e-4,
        DeviceChoice::Gpu(..) => 1e-2,
    };
    for (format, tolerance) in [(WeightFormat::Exact, exact), (WeightFormat::Bf16, 1e-1)] {
        let precision = Precision::of(format).unwrap();
        if precision.check(&device()).is_err() {
            continue;
        }
        let found = logprobs(&backend(), format);
        let expected = logprobs(&Backend::Cpu, format);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (found - expected).abs() < tolerance,
                "{format:?}: {found}, on the CPU {expected}"
            );
        }
    }
}
