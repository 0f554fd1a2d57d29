//! An environment of your own: implement `Environment` and `World`, then play it with the same rollout loop, protocol and
//! trajectory log as every other world.
//!
//! ```sh
//! cargo run --example own_environment
//! ```

use agent::policy::ScriptedPolicy;
use agent::rollout::{Concurrency, EpisodeJob, play_episodes};
use scenarios::{Environment, EnvironmentError, Observation, Protocol, Split, Status, Task, World};

/// A number from 1 to 100 must be guessed. Every answer is "higher" or "lower".
struct GuessTheNumber {
    secret: u32,
}

impl Environment for GuessTheNumber {
    fn reset(&mut self) -> Result<Observation, EnvironmentError> {
        Ok(Observation {
            text: "I think of a number from 1 to 100. Your task is to: guess it.".into(),
            status: Status::Playing,
        })
    }

    // A command that makes no sense is answered, not refused: an error means that the world itself failed.
    fn step(&mut self, command: &str) -> Result<Observation, EnvironmentError> {
        let guess = command
            .strip_prefix("guess ")
            .and_then(|number| number.parse::<u32>().ok());
        let text = match guess {
            None => "Write: guess NUMBER",
            Some(guess) if guess < self.secret => "Higher.",
            Some(guess) if guess > self.secret => "Lower.",
            Some(_) => "You found it.",
        };
        Ok(Observation {
            text: text.into(),
            status: Status::of_goal(guess == Some(self.secret)),
        })
    }

    fn admissible_commands(&mut self) -> Result<Vec<String>, EnvironmentError> {
        let mut commands: Vec<String> = (1..=100).map(|number| format!("guess {number}")).collect();
        commands.sort();
        Ok(commands)
    }

    // Optional. A state hash lets hearth recognise states that it has seen.
    fn state_hash(&self) -> Option<u64> {
        Some(u64::from(self.secret))
    }
}

/// Opens a game for a task. Here the file name of the task is the secret number.
struct GuessingWorld;

impl World for GuessingWorld {
    fn open(&self, task: &Task) -> Result<Box<dyn Environment>, EnvironmentError> {
        let secret = task.id.parse().map_err(|_| EnvironmentError::Load {
            path: task.path.clone(),
            reason: "the id of a task must be a number\nhint: for example 42".into(),
        })?;
        Ok(Box::new(GuessTheNumber { secret }))
    }
}

fn main() -> anyhow::Result<()> {
    let task = Task {
        id: "42".into(),
        split: Split::Train,
        task_type: None,
        path: "42".into(),
        hash: String::new(),
    };
    let job = EpisodeJob {
        task: &task,
        repetition: 0,
        seed: 1,
        forced: &[],
    };
    // A policy that always writes the same commands. A language model is `agent::policy::lm::LmPolicy`.
    let guesses = [50, 25, 37, 43, 40, 41, 42];
    let policy = ScriptedPolicy(guesses.map(|guess| format!("guess {guess}")).to_vec());
    play_episodes(
        &policy,
        &GuessingWorld,
        &[job],
        &Protocol::default(),
        Concurrency::default(),
        |episode| -> anyhow::Result<()> {
            println!("won: {}, {} turns", episode.is_won(), episode.turns.len());
            println!("{}", serde_json::to_string_pretty(&episode)?);
            Ok(())
        },
    )
}
