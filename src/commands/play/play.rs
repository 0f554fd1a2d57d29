//! `hearth play`: plays one game in the terminal, by a person, the expert or a model.

use crate::args::policy::{Player, ScorerArgs};
use crate::args::protocol::{OpenedParts, PlayArgs, PlaySetting, SelectionFlags};
use crate::args::search::SearchArgs;
use crate::args::world::WorldArgs;
use crate::commands::data::scenarios::{one_of_each, single};
use crate::scratch::Scratch;
use crate::ui;
use agent::policy::{Policy, TurnRequest, TurnResponse, text_response};
use agent::rollout::{Concurrency, EpisodeJob, play_episodes};
use clap::{Args, ValueHint};
use scenarios::{Protocol, Split, Suite, Task, Trajectory, World};
use std::convert::Infallible;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
pub(crate) struct PlayCommand {
    /// Policy: `person`, `expert`, a model folder, or `openai:URL#MODEL` (a model on a server)
    #[arg(long, default_value = "person")]
    policy: String,
    /// Games: a game file, a folder (ALFWorld's layout, or SPLIT/NAME.z8) or a manifest (.jsonl)
    /// [default: generated games]
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: Option<PathBuf>,
    /// Split of the game
    #[arg(long, default_value = "valid_unseen")]
    split: Split,
    /// Index of the game in the split (zero-based)
    #[arg(long, default_value_t = 0)]
    game: usize,
    #[command(flatten)]
    play: PlayArgs,
    /// K: number of candidates per turn; --scorer selects the best one
    #[arg(long, value_name = "K", default_value_t = 1)]
    best_of: usize,
    #[command(flatten)]
    search: SearchArgs,
    #[command(flatten)]
    scorer: ScorerArgs,
    /// Sampling temperature; 0 is greedy
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Seed of the episode, and of generated games
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the trajectory as one JSON object instead of the transcript
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    world: WorldArgs,
}

/// A person at the terminal, who reads observations and writes commands.
struct Person;

impl Policy for Person {
    type EpisodeState = ();

    fn name(&self) -> String {
        "person".into()
    }

    fn begin(&self, _: u64) {}

    fn respond(&self, requests: &mut [TurnRequest<'_, ()>], _: &Protocol) -> Vec<TurnResponse> {
        requests
            .iter()
            .map(|request| read_command(request.observation))
            .collect()
    }
}

/// Prints an observation and reads a command. Returns `GaveUp` for `quit` and at the end of the
/// input.
fn read_command(observation: &str) -> TurnResponse {
    eprint!("\n{observation}\n> ");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Ok(length) if length > 0 && line.trim() != "quit" => text_response(line.trim().to_string()),
        _ => TurnResponse::GaveUp,
    }
}

impl PlayCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let scratch = Scratch::new();
        let task = self.task(scratch.path())?;
        let trajectory = self.play(&task)?;
        if self.json {
            ui::print_json(&trajectory)?;
        } else {
            self.print(&trajectory);
        }
        Ok(ExitCode::SUCCESS)
    }

    fn task(&self, folder: &Path) -> anyhow::Result<Task> {
        let suite = match &self.suite {
            Some(path) if path.is_file() && path.extension().is_none_or(|e| e != "jsonl") => {
                return single(path);
            }
            Some(path) => Suite::open(path)?,
            None => one_of_each(folder, self.seed)?,
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
        let best_of = [self.best_of];
        let selection = SelectionFlags {
            policy: &self.policy,
            best_of: &best_of,
            scorer: self.scorer.scorer,
            search: self.search.search,
        };
        selection.check(OpenedParts::Nothing)?;
        self.scorer.candidates.check(&[self.scorer.scorer])?;
        let player = self.open_policy()?;
        selection.check(OpenedParts::Policy(player.as_ref()))?;
        let learned = player.as_ref().map(Player::learned).unwrap_or_default();
        let translated_to = self.world.translation(&self.policy, &learned, &[task])?;
        let opened = self.world.open(1)?;
        let versioned = opened.in_version(translated_to);
        let world = versioned.world();
        selection.check(OpenedParts::World {
            player: player.as_ref(),
            opened: &opened,
            world,
            task,
        })?;
        let setting = PlaySetting {
            card: None,
            temperature: self.temperature,
            best_of: self.best_of,
            scorer: self.scorer.scorer,
            candidates: self.scorer.candidates,
            search: self.search.search,
            translated_to,
        };
        let protocol = self.play.protocol(&setting, player.as_ref());
        let game = OneGame {
            world,
            task,
            seed: self.seed,
            protocol: &protocol,
        };
        let trajectory = match player {
            None => game.play(&Person),
            Some(Player::Expert(expert)) => game.play(&expert),
            Some(Player::Model(model)) => game.play(&*model),
            Some(Player::Dagger(dagger)) => game.play(&*dagger),
            Some(Player::Remote(remote)) => game.play(&*remote),
        }?;
        match &trajectory.failure {
            Some(reason) => Err(ui::WrongUse(reason.clone()).into()),
            None => Ok(trajectory),
        }
    }

    /// Opens the policy; `None` is a person.
    fn open_policy(&self) -> anyhow::Result<Option<Player>> {
        if self.policy == "person" {
            self.play.policy.refuse_model_flags("a person")?;
            self.scorer.reference.refuse("a person")?;
            return Ok(None);
        }
        Player::open(
            &self.policy,
            &self.scorer.reference,
            &self.play.policy,
            None,
        )
        .map(Some)
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

/// One episode to play.
struct OneGame<'a> {
    world: &'a dyn World,
    task: &'a Task,
    seed: u64,
    protocol: &'a Protocol,
}

impl OneGame<'_> {
    /// Plays the episode.
    ///
    /// # Errors
    /// If the policy cannot play by the protocol.
    fn play(&self, policy: &impl Policy) -> anyhow::Result<Trajectory> {
        policy.can_play(self.protocol).map_err(ui::WrongUse)?;
        let jobs = [EpisodeJob {
            task: self.task,
            repetition: 0,
            seed: self.seed,
            forced: &[],
        }];
        let concurrency = Concurrency {
            workers: 1,
            episodes: 1,
        };
        let mut played = None;
        let Ok(()) = play_episodes(
            policy,
            self.world,
            &jobs,
            self.protocol,
            concurrency,
            &mut |trajectory| -> Result<(), Infallible> {
                played = Some(trajectory);
                Ok(())
            },
        );
        Ok(played.expect("every job ends with a trajectory"))
    }
}
