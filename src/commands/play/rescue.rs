//! `hearth rescue`: writes a store with won continuations of lost episodes, for imitation.
//!
//! The rescues of each beginning are written at once. If a call is interrupted, the next one continues
//! with the beginnings that were not played, and the store is the same. OUT.settings.json records the
//! settings; if they differ, the call is refused.

use crate::args::concurrency::ConcurrencyArgs;
use crate::args::policy::{LoadArgs, ReferenceArgs};
use crate::args::world::ReplayWorldArgs;
use crate::commands::data::suite_table::report_faults;
use crate::commands::play::completed::{ContinuedArgs, Refusals, by_protocol, claim_settings};
use crate::ui;
use agent::policy::Policy;
use agent::policy::lm::{LmPolicy, ValueUse};
use clap::{Args, ValueHint};
use scenarios::{KvFormat, Split, Trajectory, WeightFormat};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::process::ExitCode;
use trainer::measure::rescue::{
    LostBeginning, RescueCost, RescueRecipe, RescueResult, Rescuing, lost_beginnings, play_rescues,
};
use trainer::pipeline::rescue_store::RescueStore;
use trainer::pipeline::run::tokenize_texts;
use trainer::pipeline::shard::episodes_hash;

#[derive(Args)]
pub(crate) struct RescueCommand {
    #[command(flatten)]
    source: ContinuedArgs,
    #[command(flatten)]
    sampling: RescueArgs,
    #[command(flatten)]
    concurrency: ConcurrencyArgs,
    /// Seed of the continuations, and of the choice among those that won
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Store to write, JSONL; beginnings that were played for it before are not played again
    #[arg(long, value_hint = ValueHint::FilePath)]
    out: PathBuf,
    /// Print one JSON object instead of a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    world: ReplayWorldArgs,
}

/// What is sampled for each beginning.
#[derive(Args)]
struct RescueArgs {
    /// Number of continuations of each beginning
    #[arg(long, default_value_t = 8)]
    completions: usize,
    /// Number of continuations that must win, so that a beginning is rescued
    #[arg(long, default_value_t = 2)]
    wins: usize,
    /// Number of won continuations that are kept of each beginning, drawn at random
    #[arg(long, default_value_t = 2)]
    keep: usize,
    /// Turns between the beginnings of an episode that does not go in a circle
    #[arg(long, default_value_t = 8)]
    stride: usize,
    /// Sampling temperature of the continuations
    #[arg(long, default_value_t = 1.0)]
    temperature: f32,
}

impl RescueArgs {
    fn recipe(&self) -> RescueRecipe {
        RescueRecipe {
            completions: self.completions,
            wins: self.wins,
            keep: self.keep,
            stride: self.stride,
            temperature: self.temperature,
        }
    }
}

/// What the rescues of a store depend on besides the episodes; recorded in OUT.settings.json.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct RescueSettings {
    policy: String,
    weights: WeightFormat,
    #[serde(default, skip_serializing_if = "KvFormat::is_exact")]
    kv: KvFormat,
    /// Choices about the frames of turns, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frames: Option<String>,
    data: String,
    /// Hash of the episodes of these splits and games.
    episodes: String,
    splits: Vec<Split>,
    games: usize,
    rescue: RescueRecipe,
    seed: u64,
    world: String,
}

/// The JSON output of `hearth rescue`.
#[derive(Serialize)]
struct RescueOutput {
    /// Rescues in the store.
    rescues: usize,
    /// Lost episodes with at least one beginning.
    episodes: usize,
    /// Their beginnings.
    beginnings: usize,
    /// Beginnings without a result, because a continuation failed.
    failed: usize,
    /// Continuations played by this call.
    completions: usize,
    /// Turns that the policy generated in them.
    turns: usize,
    store: PathBuf,
}

impl RescueCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let recipe = self.sampling.recipe();
        recipe.check().map_err(ui::WrongUse)?;
        self.source.check()?;
        let suite = self.source.open_suite()?;
        report_faults(&suite);
        let tasks = self.source.tasks(&suite);
        let mut episodes = self.source.episodes(&suite, &tasks)?;
        let player = self.load.open(
            &self.source.policy,
            ValueUse::Skip,
            &ReferenceArgs::default(),
        )?;
        tokenize_texts(&player.tokenizer, &mut episodes);
        let mut store = RescueStore::open(&self.out)?;
        self.claim(&player, &recipe, &episodes, &store)?;
        let beginnings = lost_beginnings(&episodes, &tasks, &recipe);
        let left: Vec<LostBeginning<'_>> = beginnings
            .iter()
            .filter(|beginning| !store.has_played(beginning))
            .copied()
            .collect();
        let pool = self.concurrency.resolve();
        let opened = self.world.open(pool.episodes)?;
        let bar = ui::bar("rescue");
        bar.set_length(beginnings.len() as u64);
        bar.set_position((beginnings.len() - left.len()) as u64);
        let mut cost = RescueCost::default();
        let mut failed = Vec::new();
        let lost: Vec<&Trajectory> = left.iter().map(|beginning| beginning.episode).collect();
        for (protocol, _) in by_protocol(&lost) {
            let of_protocol: Vec<LostBeginning<'_>> = left
                .iter()
                .filter(|beginning| beginning.episode.protocol == *protocol)
                .copied()
                .collect();
            let versioned = opened.in_version(protocol.translated_to);
            let rescuing = Rescuing {
                recipe: &recipe,
                context_limit: player.context_limit(),
                seed: self.seed,
                pool,
            };
            let spent = play_rescues(
                &player,
                versioned.world(),
                &of_protocol,
                protocol,
                rescuing,
                |beginning, result| {
                    bar.inc(1);
                    match result {
                        RescueResult::Rescues(rescues) => store.add(beginning, rescues)?,
                        RescueResult::Lost(reason) => failed.push(reason),
                    }
                    Ok(())
                },
            )?;
            cost.completions += spent.completions;
            cost.turns += spent.turns;
        }
        bar.finish();
        opened.report_replaced();
        if let Some(reason) = failed.last() {
            eprintln!(
                "{} beginnings have no result, because a continuation failed; the last: {reason}",
                failed.len()
            );
        }
        let mut of_episodes: Vec<*const Trajectory> = beginnings
            .iter()
            .map(|beginning| std::ptr::from_ref(beginning.episode))
            .collect();
        of_episodes.dedup();
        let output = RescueOutput {
            rescues: store.rescues().len(),
            episodes: of_episodes.len(),
            beginnings: beginnings.len(),
            failed: failed.len(),
            completions: cost.completions,
            turns: cost.turns,
            store: self.out,
        };
        print(self.json, &output)
    }

    /// Refuses the store if its rescues were made with other settings.
    fn claim(
        &self,
        player: &LmPolicy,
        recipe: &RescueRecipe,
        episodes: &[Trajectory],
        store: &RescueStore,
    ) -> anyhow::Result<()> {
        let settings = RescueSettings {
            policy: player.name(),
            weights: self.load.weights,
            kv: self.load.kv,
            frames: player.chosen_frames(),
            data: self.source.source(),
            episodes: episodes_hash(episodes),
            splits: self.source.split.clone(),
            games: self.source.games,
            rescue: recipe.clone(),
            seed: self.seed,
            world: self.world.name.world.clone(),
        };
        let refusals = Refusals {
            other: "contains rescues of other episodes, by another policy or with other settings",
            unknown: "contains episodes, and no record of how they were made",
        };
        claim_settings(&self.out, &settings, store.is_new(), refusals)
    }
}

fn print(as_json: bool, output: &RescueOutput) -> anyhow::Result<ExitCode> {
    if as_json {
        ui::print_json(output)?;
    } else {
        ui::print(&format!(
            "{} rescues of {} beginnings of {} lost episodes, by {} continuations ({} turns), in {}\n",
            output.rescues,
            output.beginnings,
            output.episodes,
            output.completions,
            output.turns,
            output.store.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}
