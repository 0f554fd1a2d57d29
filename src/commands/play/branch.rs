//! `hearth branch`: writes a store with the Monte-Carlo returns of several actions of one state.
//!
//! Each state is written at once. If a call is interrupted, the next one continues with the states
//! that are not in OUT yet, and the records are the same. OUT.settings.json records the settings; if
//! they differ, the call is refused.

use crate::args::concurrency::ConcurrencyArgs;
use crate::args::policy::{LoadArgs, ReferenceArgs};
use crate::args::world::ReplayWorldArgs;
use crate::commands::data::suite_table::report_faults;
use crate::commands::play::completed::{ContinuedArgs, Refusals, by_protocol, key, open_resumable};
use crate::ui;
use agent::policy::Policy;
use agent::policy::lm::{LmPolicy, ValueUse};
use clap::{Args, ValueHint};
use scenarios::store::Store;
use scenarios::{KvFormat, Split, Trajectory, WeightFormat};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use trainer::measure::branch::{
    BranchCost, BranchRecipe, BranchResult, BranchState, Branching, branch_states, play_branches,
};
use trainer::pipeline::run::tokenize_texts;

#[derive(Args)]
pub(crate) struct BranchCommand {
    #[command(flatten)]
    source: ContinuedArgs,
    /// Number of episodes, drawn at random with the seed; 0 means all
    #[arg(long, default_value_t = 0)]
    limit: usize,
    #[command(flatten)]
    sampling: BranchArgs,
    #[command(flatten)]
    concurrency: ConcurrencyArgs,
    /// Seed of the choice of states, of the candidates and of the continuations
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Store to write, JSONL; states that it already contains are not played again
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

/// What is sampled for each state.
#[derive(Args)]
struct BranchArgs {
    /// Number of states of each episode; half of them follow a repeated or refused command
    #[arg(long, default_value_t = 1)]
    states: usize,
    /// Number of candidates of each state, distinct by command
    #[arg(long, value_name = "K", default_value_t = 4)]
    candidates: usize,
    /// Number of continuations of each candidate
    #[arg(long, value_name = "M", default_value_t = 4)]
    rollouts: usize,
    /// Sampling temperature of the candidates
    #[arg(long, default_value_t = 1.5)]
    proposal_temperature: f32,
    /// Sampling temperature of the continuations
    #[arg(long, default_value_t = 1.0)]
    temperature: f32,
    /// Sample candidates among tokens with at least this share of the highest token probability
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    /// Discount γ per turn of the returns: a win after n turns returns γ^(n−1)
    #[arg(long, default_value_t = 0.95)]
    discount: f64,
}

impl BranchArgs {
    fn recipe(&self, episodes: usize) -> BranchRecipe {
        BranchRecipe {
            states: self.states,
            episodes,
            candidates: self.candidates,
            rollouts: self.rollouts,
            proposal_temperature: self.proposal_temperature,
            temperature: self.temperature,
            min_p: self.min_p,
            discount: self.discount,
        }
    }
}

/// What the records of a store depend on besides the episodes; recorded in OUT.settings.json.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct BranchStoreSettings {
    policy: String,
    weights: WeightFormat,
    #[serde(default, skip_serializing_if = "KvFormat::is_exact")]
    kv: KvFormat,
    /// Choices about the frames of turns, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frames: Option<String>,
    data: String,
    splits: Vec<Split>,
    games: usize,
    branch: BranchRecipe,
    seed: u64,
    world: String,
}

/// The JSON output of `hearth branch`.
#[derive(Serialize)]
struct BranchOutput {
    /// States in the store.
    states: usize,
    /// States with a single distinct command.
    single: usize,
    /// States whose candidates have different mean returns.
    contrasts: usize,
    /// Mean return over all continuations of the store, reward units.
    mean_return: f64,
    /// States that are not in the store, because a sample failed.
    lost: usize,
    /// Samples drawn for candidates by this call.
    samples: usize,
    /// Continuations played by this call.
    continuations: usize,
    /// Turns that the policy generated in both.
    turns: usize,
    store: PathBuf,
}

impl BranchCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let recipe = self.sampling.recipe(self.limit);
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
        let (mut out, mut all) = self.open_out(&player, &recipe)?;
        let states = branch_states(&episodes, &tasks, &recipe, self.seed);
        let left = unfinished(&states, &all, &self.out)?;
        let source = self.source.source();
        let pool = self.concurrency.resolve();
        let opened = self.world.open(pool.episodes)?;
        let bar = ui::bar("branch");
        bar.set_length(states.len() as u64);
        bar.set_position((states.len() - left.len()) as u64);
        let mut cost = BranchCost::default();
        let mut lost = Vec::new();
        let sources: Vec<&Trajectory> = left.iter().map(|state| state.episode).collect();
        for (protocol, _) in by_protocol(&sources) {
            let of_protocol: Vec<BranchState<'_>> = left
                .iter()
                .filter(|state| state.episode.protocol == *protocol)
                .copied()
                .collect();
            let versioned = opened.in_version(protocol.translated_to);
            let branching = Branching {
                recipe: &recipe,
                source: &source,
                context_limit: player.context_limit(),
                seed: self.seed,
                pool,
            };
            let spent = play_branches(
                &player,
                versioned.world(),
                &of_protocol,
                protocol,
                branching,
                |_, found| {
                    bar.inc(1);
                    match found {
                        BranchResult::Record(record) => {
                            out.append(&record)?;
                            all.push(*record);
                        }
                        BranchResult::Lost(reason) => lost.push(reason),
                    }
                    Ok(())
                },
            )?;
            cost.add(spent);
        }
        bar.finish();
        opened.report_replaced();
        if let Some(reason) = lost.last() {
            eprintln!(
                "{} states are not in {}, because a sample failed; the last: {reason}",
                lost.len(),
                self.out.display()
            );
        }
        self.print(&all, lost.len(), cost)
    }

    /// Opens the store to write. Refuses it if its records were made with other settings.
    fn open_out(
        &self,
        player: &LmPolicy,
        recipe: &BranchRecipe,
    ) -> anyhow::Result<(Store, Vec<Trajectory>)> {
        let settings = BranchStoreSettings {
            policy: player.name(),
            weights: self.load.weights,
            kv: self.load.kv,
            frames: player.chosen_frames(),
            data: self.source.source(),
            splits: self.source.split.clone(),
            games: self.source.games,
            branch: recipe.clone(),
            seed: self.seed,
            world: self.world.name.world.clone(),
        };
        let refusals = Refusals {
            other: "contains branches of another policy, or with other settings",
            unknown: "contains records, and no record of how they were made",
        };
        open_resumable(&self.out, &settings, refusals)
    }

    fn print(self, all: &[Trajectory], lost: usize, cost: BranchCost) -> anyhow::Result<ExitCode> {
        let mut returns = (0.0, 0);
        let mut single = 0;
        let mut contrasts = 0;
        for record in all {
            let candidates = record.turns.last().map_or(&[][..], |turn| &turn.candidates);
            let means: Vec<f64> = candidates
                .iter()
                .filter_map(scenarios::Candidate::mean_return)
                .collect();
            single += usize::from(candidates.len() < 2);
            contrasts += usize::from(means.iter().any(|mean| *mean != means[0]));
            for value in candidates.iter().flat_map(|candidate| &candidate.returns) {
                returns = (returns.0 + value, returns.1 + 1);
            }
        }
        let output = BranchOutput {
            states: all.len(),
            single,
            contrasts,
            mean_return: returns.0 / f64::from(returns.1.max(1)),
            lost,
            samples: cost.samples,
            continuations: cost.continuations,
            turns: cost.turns,
            store: self.out,
        };
        if self.json {
            ui::print_json(&output)?;
        } else {
            ui::print(&format!(
                "{} states, {} with different returns of their actions, {} with one action, by {} \
                 samples and {} continuations ({} turns), in {}\n",
                output.states,
                output.contrasts,
                output.single,
                output.samples,
                output.continuations,
                output.turns,
                output.store.display()
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns the states that have no record yet.
fn unfinished<'a>(
    states: &[BranchState<'a>],
    finished: &[Trajectory],
    out: &Path,
) -> anyhow::Result<Vec<BranchState<'a>>> {
    let mut done: HashMap<_, usize> = HashMap::new();
    for record in finished {
        let turn = record.turns.len().saturating_sub(1);
        *done.entry((key(record)?, turn)).or_default() += 1;
    }
    let mut left = Vec::new();
    for state in states {
        match done
            .get_mut(&(key(state.episode)?, state.turn))
            .filter(|count| **count > 0)
        {
            Some(count) => *count -= 1,
            None => left.push(*state),
        }
    }
    let foreign: usize = done.values().sum();
    if foreign > 0 {
        let text = format!(
            "{}: contains {foreign} states of another store\nhint: choose another --out, or remove it",
            out.display()
        );
        return Err(ui::WrongUse(text).into());
    }
    Ok(left)
}
