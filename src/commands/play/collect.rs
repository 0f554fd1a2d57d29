//! `hearth collect`: plays episodes into a trajectory store.

use crate::args::concurrency::ConcurrencyArgs;
use crate::args::policy::{Player, PolicyKind, ReferenceArgs};
use crate::args::protocol::{PlayArgs, PlaySetting};
use crate::args::server::print_notes;
use crate::args::shard::ShardArgs;
use crate::args::world::WorldArgs;
use crate::commands::data::suite_table::{no_games, report_faults};
use crate::ui;
use agent::policy::ExpertPolicy;
use clap::{Args, ValueHint};
use scenarios::{Split, Suite, Task, Trajectory};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use trainer::pipeline::rounds::Round;

#[derive(Args)]
pub(crate) struct CollectCommand {
    /// Policy: `expert`, a model folder, or `openai:URL#MODEL` (a model on a server)
    #[arg(long)]
    policy: String,
    /// Games: a game file, a folder (ALFWorld's layout, or SPLIT/NAME.z8) or a manifest
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: PathBuf,
    /// Split to play
    #[arg(long, default_value = "train")]
    split: Split,
    /// Number of games, taken from the start of the split; 0 means all
    #[arg(long, default_value_t = 0)]
    games: usize,
    /// Number of episodes per game
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Sampling temperature of a model; 0 is greedy
    #[arg(long, default_value_t = 1.0)]
    temperature: f32,
    /// Probability per turn, from 0 to below 1, that the expert starts to take useless or failing
    /// actions (noise injection, as in DART); these turns are marked and not imitated
    #[arg(long, alias = "slips", value_name = "P", default_value_t = 0.0)]
    expert_noise: f64,
    /// Model folder that acts in some turns while the expert labels the states (DAgger); the
    /// model's turns are marked and not imitated
    #[arg(
        long,
        alias = "student",
        value_name = "MODEL",
        value_hint = ValueHint::DirPath
    )]
    dagger: Option<PathBuf>,
    #[command(flatten)]
    play: PlayArgs,
    #[command(flatten)]
    concurrency: ConcurrencyArgs,
    /// Seed of the episodes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Store to write, JSONL; episodes that it already contains are not played again
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

/// The JSON output of `hearth collect`.
#[derive(Serialize)]
struct CollectOutput {
    episodes: usize,
    successes: usize,
    lost: usize,
    tokens: usize,
    /// What the completions show about the setting.
    notes: Vec<String>,
    store: PathBuf,
}

impl CollectCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let suite = Suite::open(&self.suite)?;
        report_faults(&suite);
        let tasks = self.tasks(&suite)?;
        let player = self.open_policy()?;
        let shard = self.shard.resolve()?;
        let store = shard.store(&self.out);
        let round = Round {
            repetitions: self.repetitions,
            seed: self.seed,
            pool: self.concurrency.resolve(),
            shard,
        };
        let translated_to = self
            .world
            .translation(&self.policy, &player.learned(), &tasks)?;
        let setting = PlaySetting::single(self.temperature, translated_to);
        let protocol = self.play.protocol(&setting, Some(&player));
        let bar = ui::bar("collect");
        let opened = self.world.open(tasks.len() * self.repetitions)?;
        let world = opened.in_version(translated_to);
        let all = player.play(world.world(), &tasks, &protocol, round, &store, &bar)?;
        bar.finish();
        opened.report_replaced();
        let output = CollectOutput {
            episodes: all.len(),
            successes: all.iter().filter(|episode| episode.is_won()).count(),
            lost: ui::report_lost(&all),
            tokens: all.iter().map(Trajectory::tokens).sum(),
            notes: player.notes(&all),
            store,
        };
        if self.json {
            ui::print_json(&output)?;
        } else {
            ui::print(&format!(
                "{} won of {} episodes, {} tokens, in {}\n",
                output.successes,
                output.episodes,
                output.tokens,
                output.store.display()
            ));
        }
        print_notes(&output.notes);
        Ok(ui::exit_of_rounds(&[&all]))
    }

    fn tasks<'a>(&self, suite: &'a Suite) -> anyhow::Result<Vec<&'a Task>> {
        let tasks = suite.first(self.split, self.games);
        if tasks.is_empty() {
            return Err(no_games(suite, &self.suite, self.split));
        }
        Ok(tasks)
    }

    /// Checks the flags of noise and DAgger, and opens the policy.
    fn open_policy(&self) -> anyhow::Result<Player> {
        let noise = self.expert_noise;
        if !(0.0..1.0).contains(&noise) {
            return Err(
                ui::WrongUse(format!("--expert-noise {noise}: must be from 0 to below 1")).into(),
            );
        }
        if let Some(student) = &self.dagger {
            if self.policy != "expert" {
                let text = "--dagger: only works with --policy expert, which labels the states";
                return Err(ui::WrongUse(text.into()).into());
            }
            if noise > 0.0 {
                let text = "--expert-noise: cannot be combined with --dagger, where the model's turns \
                            replace the noise";
                return Err(ui::WrongUse(text.into()).into());
            }
            return Player::dagger(student, &self.play.policy);
        }
        if noise > 0.0 && PolicyKind::of(&self.policy) != PolicyKind::Expert {
            let text = "--expert-noise: only works with --policy expert";
            return Err(ui::WrongUse(text.into()).into());
        }
        match Player::open(
            &self.policy,
            &ReferenceArgs::default(),
            &self.play.policy,
            None,
        )? {
            Player::Expert(_) => Ok(Player::Expert(ExpertPolicy { noise })),
            other => Ok(other),
        }
    }
}
