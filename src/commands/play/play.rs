//! `hearth play`: one game in the terminal, by a person, the expert or a model.

use crate::args::policy::{ChoosingArgs, Player, PolicyArgs};
use crate::args::search::SearchArgs;
use crate::args::world::WorldArgs;
use crate::scratch::Scratch;
use crate::ui;
use agent::policy::{Policy, TurnRequest, TurnResponse, written};
use agent::rollout::{Concurrency, EpisodeJob, play_episodes};
use clap::{Args, ValueHint};
use scenarios::{Protocol, Split, Suite, Task, Trajectory};
use std::convert::Infallible;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
pub(crate) struct Play {
    /// Who plays: `person`, `expert`, a model folder, or `openai:URL#MODEL`, a model on a server
    #[arg(long, default_value = "person")]
    policy: String,
    /// A game file, a folder of games (ALFWorld's layout, or SPLIT/NAME.z8), or a manifest (.jsonl); without it, a generated game
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: Option<PathBuf>,
    /// Split of the game
    #[arg(long, default_value = "valid_unseen")]
    split: Split,
    /// Which game of the split, from 0
    #[arg(long, default_value_t = 0)]
    game: usize,
    /// Most turns
    #[arg(long, default_value_t = 40)]
    turns: usize,
    /// Most tokens in one completion
    #[arg(long, default_value_t = 24)]
    completion: usize,
    /// Candidates a turn, the best by `--choose-by` played
    #[arg(long, default_value_t = 1)]
    best_of: usize,
    #[command(flatten)]
    search: SearchArgs,
    /// Sampling temperature; 0 is greedy
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Seed of the game, where one is generated, and of the episode
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the trajectory as one JSON object instead of the transcript
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    world: WorldArgs,
    #[command(flatten)]
    choosing: ChoosingArgs,
    #[command(flatten)]
    how: PolicyArgs,
}

/// A person at the terminal: reads observations, writes commands.
struct Person;

impl Policy for Person {
    type EpisodeState = ();

    fn name(&self) -> String {
        "person".into()
    }

    fn begin(&self, _: u64) {}

    fn respond(&self, asked: &mut [TurnRequest<'_, ()>], _: &Protocol) -> Vec<TurnResponse> {
        asked
            .iter()
            .map(|question| ask(question.observation))
            .collect()
    }
}

fn ask(observation: &str) -> TurnResponse {
    eprint!("\n{observation}\n> ");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Ok(length) if length > 0 && line.trim() != "quit" => written(line.trim().to_string()),
        _ => TurnResponse::GaveUp,
    }
}

impl Play {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let scratch = Scratch::new();
        let trajectory = self
            .task(scratch.path())
            .and_then(|task| self.play(&task))?;
        if self.json {
            ui::print_json(&trajectory)?;
        } else {
            self.print(&trajectory);
        }
        Ok(ExitCode::SUCCESS)
    }

    fn task(&self, folder: &std::path::Path) -> anyhow::Result<Task> {
        let suite = match &self.suite {
            Some(path) if path.is_file() && path.extension().is_none_or(|e| e != "jsonl") => {
                return crate::commands::data::scenarios::single(path);
            }
            Some(path) => Suite::open(path)?,
            None => crate::commands::data::scenarios::one_of_each(folder, self.seed)?,
        };
        let games = suite.split(self.split);
        let index = self.game;
        let task = games.get(index).ok_or_else(|| {
            ui::WrongUse(format!(
                "--game {index}: {} has {} games in {}",
                suite.name,
                games.len(),
                self.split
            ))
        })?;
        Ok((*task).clone())
    }

    fn play(&self, task: &Task) -> anyhow::Result<Trajectory> {
        let mut played = None;
        let mut keep = |trajectory| -> Result<(), Infallible> {
            played = Some(trajectory);
            Ok(())
        };
        let jobs = [EpisodeJob {
            task,
            repetition: 0,
            seed: self.seed,
            forced: &[],
        }];
        let player = match self.policy.as_str() {
            "person" => {
                self.how.refuse_device("a person")?;
                self.choosing.looking_on.refuse("a person")?;
                None
            }
            policy => Some(Player::open(
                policy,
                self.best_of,
                &self.choosing,
                &self.how,
            )?),
        };
        let learned = player.as_ref().map(Player::learned).unwrap_or_default();
        let translated_to = self.world.translation(&self.policy, &learned, &[task])?;
        let (opened, pool) = (
            self.world.open(1)?,
            Concurrency {
                workers: 1,
                episodes: 1,
            },
        );
        self.search
            .check(&self.policy, player.as_ref(), self.best_of, &opened)?;
        let speaking = opened.speaking(translated_to);
        let world = speaking.world();
        self.choosing.check_world(self.best_of, world, task)?;
        let protocol = self.how.onto(self.choosing.onto(Protocol {
            turn_limit: self.turns,
            context_limit: player.as_ref().map_or(0, Player::context),
            completion_limit: self.completion,
            temperature: self.temperature,
            best_of: self.best_of,
            search: self.search.search,
            translated_to,
            ..Protocol::default()
        }));
        let protocol = player
            .as_ref()
            .map_or(protocol.clone(), |player| player.protocol(protocol));
        let Ok(()) = match player {
            None => play_episodes(&Person, world, &jobs, &protocol, pool, &mut keep),
            Some(Player::Expert(expert)) => {
                play_episodes(&expert, world, &jobs, &protocol, pool, &mut keep)
            }
            Some(Player::Model(player)) => {
                play_episodes(&*player, world, &jobs, &protocol, pool, &mut keep)
            }
            Some(Player::DaggerPolicy(guided)) => {
                play_episodes(&*guided, world, &jobs, &protocol, pool, &mut keep)
            }
            Some(Player::Remote(policy)) => {
                play_episodes(&*policy, world, &jobs, &protocol, pool, &mut keep)
            }
        };
        let trajectory = played.expect("every job ends with a trajectory");
        if let Some(reason) = &trajectory.failure {
            return Err(ui::WrongUse(reason.clone()).into());
        }
        Ok(trajectory)
    }

    fn print(&self, trajectory: &Trajectory) {
        if self.policy == "person" {
            eprintln!("\n{}", trajectory.last_observation);
        } else {
            for turn in &trajectory.turns {
                let value = turn
                    .value
                    .map(|v| format!("   [V {v:.2}]"))
                    .unwrap_or_default();
                ui::print(&format!(
                    "{}\n\n> {}{value}\n",
                    turn.observation, turn.completion
                ));
            }
            ui::print(&format!("{}\n", trajectory.last_observation));
        }
        let outcome = serde_json::to_value(trajectory.outcome)
            .ok()
            .and_then(|v| v.as_str().map(str::to_string));
        ui::print(&format!(
            "\n{} after {} turns\n",
            outcome.unwrap_or_default(),
            trajectory.turns.len()
        ));
    }
}
