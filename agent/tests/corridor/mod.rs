//! A world small enough to reason about, and a random decoder that babbles its commands: shared by tests of several
//! crates. A corridor of N rooms is won by N times `east`.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "every test takes what it needs, and may panic"
)]

use agent::model::config::DecoderConfig;
use agent::model::folder::{Companions, Model};
use agent::model::weights::{HostTensor, VALUE_HEAD, Weights};
use agent::policy::Policy;
use agent::rollout::{Concurrency, EpisodeJob, play_episodes};
use agent::text::chat::MALFORMED_ANSWER;
use agent::text::tokenizer::Tokenizer;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use scenarios::{
    Environment, EnvironmentError, Observation, Protocol, Split, Status, Task, Trajectory, World,
};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Corridors. The word before the `/` of a task's id says what is wrong with it; the number behind is its length.
#[derive(Default)]
pub struct Corridors {
    capacity: Option<usize>,
    open: Arc<Mutex<(usize, usize)>>,
    released: Mutex<bool>,
    release: Condvar,
}

impl Corridors {
    /// A world that says how many it can hold.
    pub fn of_capacity(capacity: usize) -> Self {
        Self {
            capacity: Some(capacity),
            ..Self::default()
        }
    }

    /// Corridors open now, and the most that ever were.
    pub fn open_and_most(&self) -> (usize, usize) {
        *self.open.lock().unwrap()
    }

    /// Lets the `slow` corridors answer.
    pub fn release(&self) {
        *self.released.lock().unwrap() = true;
        self.release.notify_all();
    }

    fn wait(&self) -> bool {
        let released = self.released.lock().unwrap();
        let (released, _) = self
            .release
            .wait_timeout_while(released, Duration::from_secs(20), |released| !*released)
            .unwrap();
        *released
    }
}

pub struct Corridor {
    kind: String,
    length: usize,
    at: usize,
    open: Arc<Mutex<(usize, usize)>>,
}

impl Drop for Corridor {
    fn drop(&mut self) {
        self.open.lock().unwrap().0 -= 1;
    }
}

impl World for Corridors {
    fn open(&self, task: &Task) -> Result<Box<dyn Environment>, EnvironmentError> {
        let (kind, length) = task.id.split_once('/').unwrap();
        let refuse = |reason: &str| {
            Err(EnvironmentError::Load {
                path: task.path.clone(),
                reason: reason.into(),
            })
        };
        match kind {
            "walled" => return refuse("walled up"),
            "slow" if !self.wait() => return refuse("nobody released it"),
            _ => {}
        }
        let mut open = self.open.lock().unwrap();
        *open = (open.0 + 1, open.1.max(open.0 + 1));
        Ok(Box::new(Corridor {
            kind: kind.into(),
            length: length.parse().unwrap(),
            at: 0,
            open: Arc::clone(&self.open),
        }))
    }

    fn capacity(&self) -> Option<usize> {
        self.capacity
    }
}

impl Corridor {
    fn here(&self, text: String) -> Observation {
        let lost = self.kind == "pitted" && self.at >= 2;
        Observation {
            text,
            status: if lost {
                Status::Lost
            } else {
                Status::of_goal(self.at >= self.length)
            },
        }
    }
}

impl Environment for Corridor {
    fn reset(&mut self) -> Result<Observation, EnvironmentError> {
        self.at = 0;
        Ok(self.here(format!(
            "You are in room 0 of {}.\n\nYour task is to walk east.",
            self.length
        )))
    }

    fn step(&mut self, command: &str) -> Result<Observation, EnvironmentError> {
        match command {
            "east" => self.at += 1,
            "west" => self.at = self.at.saturating_sub(1),
            "look" => {}
            _ => return Ok(self.here("Nothing happens.".into())),
        }
        if self.kind == "rotten" && self.at >= 2 {
            return Err(EnvironmentError::Step {
                command: command.into(),
                reason: "the floor gave way".into(),
            });
        }
        assert!(self.kind != "buggy" || self.at < 2, "a defect of the world");
        Ok(self.here(format!("You are in room {}.", self.at)))
    }

    fn admissible_commands(&mut self) -> Result<Vec<String>, EnvironmentError> {
        Ok(["east", "look", "west"].map(String::from).into())
    }

    /// The room; a `dumb` corridor does not tell.
    fn state_hash(&self) -> Option<u64> {
        (self.kind != "dumb").then_some(self.at as u64)
    }

    /// Rooms to go; a `dumb` corridor does not tell.
    fn remaining(&self) -> Option<usize> {
        (self.kind != "dumb").then_some(self.length.saturating_sub(self.at))
    }

    /// A `single` corridor cannot be copied.
    fn fork(&self) -> Option<Box<dyn Environment>> {
        if self.kind == "single" {
            return None;
        }
        let mut open = self.open.lock().unwrap();
        *open = (open.0 + 1, open.1.max(open.0 + 1));
        Some(Box::new(Self {
            kind: self.kind.clone(),
            open: Arc::clone(&self.open),
            ..*self
        }))
    }
}

/// The task of that id.
pub fn task(id: &str) -> Task {
    let hash = format!(
        "{:0>64}",
        id.bytes()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    );
    Task {
        id: id.into(),
        split: Split::Train,
        task_type: None,
        path: id.into(),
        hash,
    }
}

/// `repetitions` episodes of every task, each with its own seed.
pub fn jobs(tasks: &[Task], repetitions: usize) -> Vec<EpisodeJob<'_>> {
    let of = |(index, task)| {
        (0..repetitions).map(move |repetition| EpisodeJob {
            task,
            repetition,
            seed: (100 * index + repetition) as u64,
            forced: &[],
        })
    };
    tasks.iter().enumerate().flat_map(of).collect()
}

/// Six turns of at most four tokens, sampled as they come.
pub fn protocol() -> Protocol {
    Protocol {
        turn_limit: 6,
        context_limit: 1000,
        completion_limit: 4,
        temperature: 1.0,
        best_of: 1,
        ..Protocol::default()
    }
}

/// Plays the jobs; the trajectories in the jobs' order, without their wall-clock seconds.
pub fn play(
    policy: &impl Policy,
    jobs: &[EpisodeJob<'_>],
    protocol: &Protocol,
    pool: Concurrency,
) -> Vec<Trajectory> {
    let (world, mut played) = (Corridors::default(), Vec::new());
    let Ok(()) = play_episodes(
        policy,
        &world,
        jobs,
        protocol,
        pool,
        |trajectory| -> Result<(), Infallible> {
            played.push(Trajectory {
                seconds: 0.0,
                ..trajectory
            });
            Ok(())
        },
    );
    let place = |t: &Trajectory| {
        jobs.iter()
            .position(|job| job.task.id == t.game && job.repetition == t.repetition)
    };
    played.sort_by_key(place);
    played
}

/// A vocabulary of corridor words.
pub fn tokenizer() -> Tokenizer {
    let corridor =
        "You are in room 1 of 3.\n\nYour task is to walk east.\nNothing happens.\neast\nwest\nlook";
    Tokenizer::train([corridor, MALFORMED_ANSWER].repeat(8).into_iter(), 400).unwrap()
}

/// A random two-layer decoder, with a value network, that is fond of commands and of ending its turn.
pub fn babbler(seed: u64) -> Model {
    let tokenizer = tokenizer();
    let config = DecoderConfig {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 512,
        ..DecoderConfig::default()
    };
    let mut policy = noise(&config, seed);
    let fondness = [("east", 3.4), ("look", 2.8)]
        .map(|(command, fondness)| (tokenizer.encode(command), fondness));
    let embedding = policy.0.get_mut("model.embed_tokens.weight").unwrap();
    embedding
        .data
        .chunks_exact_mut(config.hidden_size)
        .for_each(|row| row[0] = 1.0);
    for (ids, fondness) in fondness.into_iter().chain([(vec![tokenizer.end], 3.5)]) {
        assert_eq!(ids.len(), 1, "a command is one token");
        embedding.data[ids[0] as usize * config.hidden_size] = fondness;
    }
    let mut value = noise(&config, seed + 1);
    let head = (0..config.hidden_size)
        .map(|i| (i as f32).sin() / 4.0)
        .collect();
    value.0.insert(
        VALUE_HEAD.into(),
        HostTensor {
            shape: vec![1, config.hidden_size],
            data: head,
        },
    );
    Model {
        config,
        tokenizer,
        policy,
        value: Some(value),
        text_versions: BTreeSet::new(),
        companions: Companions::default(),
    }
}

/// Weights of which every one matters: nothing starts as zero.
pub fn noise(config: &DecoderConfig, seed: u64) -> Weights {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tensor = |(name, shape): (String, Vec<usize>)| {
        let size: usize = shape.iter().product();
        let writes_the_stream =
            name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
        let spread = if shape.len() == 1 || writes_the_stream {
            0.2
        } else {
            0.6
        };
        let centre = if shape.len() == 1 { 1.0 } else { 0.0 };
        let data = (0..size)
            .map(|_| centre + spread * (rng.random::<f32>() - 0.5))
            .collect();
        (name, HostTensor { shape, data })
    };
    Weights(config.tensors().into_iter().map(&mut tensor).collect())
}
