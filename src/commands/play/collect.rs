//! `hearth collect`: play episodes into a trajectory store.

use crate::args::policy::{ChoosingArgs, Player};
use crate::args::shard::ShardArgs;
use crate::args::world::WorldArgs;
use crate::commands::measure::eval::Played;
use crate::ui;
use agent::policy::ExpertPolicy;
use clap::{Args, ValueHint};
use scenarios::{Protocol, Split, Suite, Task};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use trainer::pipeline::rounds::Round;

#[derive(Args)]
pub(crate) struct Collect {
    /// Who plays: `expert`, a model folder, or `openai:URL#MODEL`, a model on a server
    #[arg(long)]
    policy: String,
    /// Folder of games (ALFWorld's layout, or SPLIT/NAME.z8) or manifest
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: PathBuf,
    /// Split to play
    #[arg(long, default_value = "train")]
    split: Split,
    /// Games to play, the first of the split; 0 = all
    #[arg(long, default_value_t = 0)]
    games: usize,
    /// Episodes a game
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Sampling temperature of a model; 0 is greedy
    #[arg(long, default_value_t = 1.0)]
    temperature: f32,
    /// Share of turns in which the expert begins to go astray, so that imitators see the way back; these turns are marked
    /// and not imitated
    #[arg(long, default_value_t = 0.0)]
    slips: f64,
    /// A model folder whose player takes turns with the expert, which shows the way back from where it goes astray; its own
    /// turns are marked and not imitated
    #[arg(long, value_hint = ValueHint::DirPath)]
    student: Option<PathBuf>,
    #[command(flatten)]
    played: Played,
    /// Seed of the episodes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The store, JSONL; episodes that stand there already are not played again
    #[arg(long, value_hint = ValueHint::FilePath)]
    out: PathBuf,
    /// Print one JSON object instead of a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    shard: ShardArgs,
    #[command(flatten)]
    world: WorldArgs,
}

#[derive(Serialize)]
struct Collected {
    episodes: usize,
    successes: usize,
    lost: usize,
    tokens: usize,
    store: PathBuf,
}

impl Collect {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let suite = Suite::open(&self.suite)?;
        crate::commands::data::scenarios::say_faults(&suite);
        let mut tasks: Vec<&Task> = suite.split(self.split);
        if tasks.is_empty() {
            return Err(ui::WrongUse(format!(
                "{} has no games in {}",
                self.suite.display(),
                self.split
            ))
            .into());
        }
        if self.games > 0 {
            tasks.truncate(self.games);
        }
        if !(0.0..1.0).contains(&self.slips) {
            return Err(
                ui::WrongUse(format!("--slips {}: a share from 0 to below 1", self.slips)).into(),
            );
        }
        let refuse = |text: &str| Err(ui::WrongUse(text.into()).into());
        let player = match &self.student {
            Some(_) if self.policy != "expert" => {
                return refuse("--student: only the expert guides one");
            }
            Some(_) if self.slips > 0.0 => {
                return refuse(
                    "--slips: beside a --student the student goes astray, and the expert does not",
                );
            }
            Some(student) => Player::guided(student, &self.played.policy)?,
            None => match Player::open(
                &self.policy,
                1,
                &ChoosingArgs::default(),
                &self.played.policy,
            )? {
                Player::Expert(_) => Player::Expert(ExpertPolicy { noise: self.slips }),
                _ if self.slips > 0.0 => {
                    return refuse("--slips: only the expert goes astray when it is told to");
                }
                model => model,
            },
        };
        let shard = self.shard.resolve()?;
        let (store, pool) = (shard.store(&self.out), self.played.pool());
        let round = Round {
            repetitions: self.repetitions,
            seed: self.seed,
            pool,
            shard,
        };
        let translated_to = self
            .world
            .translation(&self.policy, &player.learned(), &tasks)?;
        let protocol =
            player.protocol(
                self.played
                    .protocol(None, player.context(), self.temperature, 1),
            );
        let protocol = Protocol {
            translated_to,
            ..protocol
        };
        let bar = ui::bar("collect");
        let opened = self.world.open(tasks.len() * self.repetitions)?;
        let all = player.play(
            opened.speaking(translated_to).world(),
            &tasks,
            &protocol,
            round,
            &store,
            &bar,
        )?;
        bar.finish();
        opened.say_losses();
        let lost = ui::say_lost(&all);
        let collected = Collected {
            episodes: all.len(),
            successes: all.iter().filter(|t| t.is_won()).count(),
            lost,
            tokens: all.iter().map(scenarios::Trajectory::tokens).sum(),
            store,
        };
        if self.json {
            ui::print_json(&collected)?;
        } else {
            let Collected {
                episodes,
                successes,
                tokens,
                store,
                ..
            } = collected;
            ui::print(&format!(
                "{successes} won of {episodes} episodes, {tokens} tokens, in {}\n",
                store.display()
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}
