//! `hearth sweep`: measures the best of K for every scorer and every K, with the cost, and the
//! calibration of the value network.

use crate::args::concurrency::ConcurrencyArgs;
use crate::args::policy::{CandidateArgs, Player, PolicyKind, ReferenceArgs};
use crate::args::protocol::{OpenedParts, PlayArgs, PlaySetting, SelectionFlags, reports_distance};
use crate::args::world::{OpenedWorld, WorldArgs};
use crate::commands::data::suite_table::report_faults;
use crate::ui;
use agent::policy::Policy;
use agent::policy::lm::LmPolicy;
use anyhow::Context;
use clap::{Args, ValueHint};
use scenarios::{DistinctBy, Protocol, Scorer, Search, Split, Suite, Task, Trajectory, World};
use serde::Serialize;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use trainer::TrainerError;
use trainer::measure::compare::Baseline;
use trainer::measure::csv_file::write_csv;
use trainer::measure::protocol_line::protocol_line;
use trainer::measure::sweep::{
    self, CalibrationGroup, CalibrationRow, SweepSetting, SweepTableRow,
};
use trainer::pipeline::rounds::{Round, Shard};
use trainer::pipeline::shard::play_round;

/// The table of a sweep.
pub(super) const TABLE: &str = "sweep.csv";

/// The name of the table in folders of older versions.
const OLD_TABLE: &str = "lab.csv";

#[derive(Args)]
pub(crate) struct SweepCommand {
    /// Policy: a model folder
    #[arg(long, value_hint = ValueHint::DirPath)]
    policy: String,
    /// Games: a game file, a folder (ALFWorld's layout, or SPLIT/NAME.z8) or a manifest
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: PathBuf,
    /// Splits to play, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "valid_seen,valid_unseen")]
    split: Vec<Split>,
    /// Number of games, taken from the start of each split; 0 means all
    #[arg(long, default_value_t = 0)]
    games: usize,
    /// K, separated by commas; greedy play and one sample are always measured
    #[arg(
        long,
        value_name = "K",
        value_delimiter = ',',
        default_value = "1,2,3,4,5,6,7,8"
    )]
    best_of: Vec<usize>,
    /// Scorers that select the best of K, separated by commas: `after_value`, `soft_value`,
    /// `log_ratio`, `logprob`, `random`, `distinct` (the null of the others), `expert` (reads text
    /// alone), `oracle` (clairvoyant) [default: all but `expert` that the model, --reference and the
    /// world support]
    #[arg(
        long,
        alias = "choose-by",
        value_name = "SCORERS",
        value_delimiter = ','
    )]
    scorer: Vec<Scorer>,
    /// Also search with a beam of B = K for each K, in copies of the environment; a different
    /// protocol
    #[arg(long)]
    beam: bool,
    #[command(flatten)]
    candidates: CandidateArgs,
    #[command(flatten)]
    reference: ReferenceArgs,
    /// Sampling temperature
    #[arg(long, default_value_t = 1.0)]
    temperature: f32,
    #[command(flatten)]
    play: PlayArgs,
    #[command(flatten)]
    concurrency: ConcurrencyArgs,
    /// Seed of the episodes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for sweep.csv, calibration.csv and one store per scorer and K; episodes that it
    /// already contains are not played again
    #[arg(long, value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Print one JSON object instead of the tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    world: WorldArgs,
}

/// The policies and the games of a sweep.
struct Contest<'a> {
    best_of: &'a LmPolicy,
    /// The policy of searches, which has no reference.
    search: &'a LmPolicy,
    world: &'a dyn World,
    tasks: &'a [&'a Task],
}

/// The JSON output of `hearth sweep`.
#[derive(Serialize)]
struct SweepOutput {
    rows: Vec<SweepTableRow>,
    calibration: Vec<CalibrationRow>,
    /// The protocol of one sample per turn.
    protocol: Protocol,
    suite: String,
    policy_hash: String,
    seed: u64,
    /// The factor of ln π in the scorer `soft_value`.
    soft_value_beta: f32,
    /// Which candidates count as equal.
    distinct_by: DistinctBy,
    run: PathBuf,
}

impl SweepCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if PolicyKind::of(&self.policy) != PolicyKind::Folder {
            let text = format!("--policy {}: a sweep needs a model folder", self.policy);
            return Err(ui::WrongUse(text).into());
        }
        self.selection(Scorer::default(), &self.best_of)
            .check(OpenedParts::Nothing)?;
        if self.temperature <= 0.0 {
            let text = "--temperature: must be above 0, or all candidates of a turn are the same";
            return Err(ui::WrongUse(text.into()).into());
        }
        let suite = Suite::open(&self.suite)?;
        report_faults(&suite);
        let tasks = self.tasks(&suite)?;
        let player = Player::open(&self.policy, &self.reference, &self.play.policy, None)?;
        let translated_to = self
            .world
            .translation(&self.policy, &player.learned(), &tasks)?;
        let setting = PlaySetting::single(self.temperature, translated_to);
        let protocol = self.play.protocol(&setting, Some(&player));
        let opened = self.world.open(tasks.len())?;
        let versioned = opened.in_version(translated_to);
        let world = versioned.world();
        let scorers = self.scorers(&player, &opened, world, tasks[0])?;
        self.candidates.check(&scorers)?;
        let without_reference = self.without_reference()?;
        let searching = without_reference.as_ref().unwrap_or(&player);
        self.check_beam(searching, &opened, world, tasks[0], &protocol)?;
        std::fs::create_dir_all(&self.out)
            .with_context(|| format!("cannot use {}", self.out.display()))?;
        rename_old_table(&self.out)?;
        let mut output = SweepOutput {
            rows: Vec::new(),
            calibration: Vec::new(),
            protocol,
            suite: suite.hash(),
            policy_hash: player.name(),
            seed: self.seed,
            soft_value_beta: self
                .candidates
                .soft_value_beta
                .unwrap_or(Protocol::SOFT_VALUE_BETA),
            distinct_by: self.candidates.distinct_by.unwrap_or_default(),
            run: self.out.clone(),
        };
        let settings = SweepSetting::all(&self.best_of, &scorers, self.beam);
        let contest = Contest {
            best_of: model_of(&player),
            search: model_of(searching),
            world,
            tasks: &tasks,
        };
        self.play(&contest, &settings, &mut output)?;
        opened.report_replaced();
        if self.json {
            ui::print_json(&output)?;
        } else {
            output.print();
        }
        Ok(ExitCode::SUCCESS)
    }

    fn tasks<'a>(&self, suite: &'a Suite) -> anyhow::Result<Vec<&'a Task>> {
        let mut tasks = Vec::new();
        for split in &self.split {
            let mut games = super::eval::tasks_of(suite, &self.suite, &[*split])?;
            if self.games > 0 {
                games.truncate(self.games);
            }
            tasks.extend(games);
        }
        Ok(tasks)
    }

    fn selection<'a>(&'a self, scorer: Scorer, best_of: &'a [usize]) -> SelectionFlags<'a> {
        SelectionFlags {
            policy: &self.policy,
            best_of,
            scorer,
            search: None,
        }
    }

    /// Returns the scorers of `--scorer`, else all but the expert that the model and the world
    /// support.
    fn scorers(
        &self,
        player: &Player,
        opened: &OpenedWorld,
        world: &dyn World,
        task: &Task,
    ) -> anyhow::Result<Vec<Scorer>> {
        for scorer in &self.scorer {
            self.selection(*scorer, &[2]).check(OpenedParts::World {
                player: Some(player),
                opened,
                world,
                task,
            })?;
        }
        if !self.scorer.is_empty() {
            return Ok(self.scorer.clone());
        }
        let mut scorers = model_of(player).scorers();
        scorers.retain(|scorer| *scorer != Scorer::Expert);
        if scorers.contains(&Scorer::Oracle) && !reports_distance(world, task)? {
            eprintln!(
                "the scorer oracle is left out: this world does not report its distance to the goal"
            );
            scorers.retain(|scorer| *scorer != Scorer::Oracle);
        }
        Ok(scorers)
    }

    /// Refuses `--beam` if the policy or the world cannot search.
    fn check_beam(
        &self,
        player: &Player,
        opened: &OpenedWorld,
        world: &dyn World,
        task: &Task,
        protocol: &Protocol,
    ) -> anyhow::Result<()> {
        if !self.beam {
            return Ok(());
        }
        let search = Some(Search::Beam { width: 2 });
        let selection = SelectionFlags {
            search,
            ..self.selection(Scorer::default(), &[2])
        };
        selection
            .check(OpenedParts::World {
                player: Some(player),
                opened,
                world,
                task,
            })
            .map_err(|error| ui::WrongUse(format!("--beam: {error}")))?;
        let protocol = Protocol {
            search,
            best_of: 2,
            ..protocol.clone()
        };
        model_of(player)
            .can_play(&protocol)
            .map_err(|reason| ui::WrongUse(format!("--beam: {reason}")))?;
        Ok(())
    }

    /// Opens the model again without the reference, because a search cannot use one. Returns `None`
    /// if there is no search, or no reference.
    fn without_reference(&self) -> anyhow::Result<Option<Player>> {
        if !self.beam || self.reference.reference.is_none() {
            return Ok(None);
        }
        Player::open(
            &self.policy,
            &ReferenceArgs::default(),
            &self.play.policy,
            None,
        )
        .map(Some)
    }

    /// Plays every setting, and writes both tables after each.
    fn play(
        &self,
        contest: &Contest<'_>,
        settings: &[SweepSetting],
        output: &mut SweepOutput,
    ) -> anyhow::Result<()> {
        let mut greedy = Baseline::new("greedy", &[]);
        let mut last = Vec::new(); // The latest episode of each game that is repeated.
        let mut times = 1; // How often these games were played.
        for setting in settings {
            let protocol = self
                .candidates
                .apply(setting.protocol(output.protocol.clone()));
            let bar = ui::bar(&format!("{}, K = {}", setting.scorer(), setting.k()));
            let played = if let SweepSetting::Repeated(k) = *setting {
                for time in times + 1..=k {
                    let round = self.round(self.seed.wrapping_add(time as u64));
                    let store = self.store(SweepSetting::Repeated(time));
                    let open = not_won(&last, contest.tasks);
                    let again = contest.play(&open, &protocol, round, &store, &bar)?;
                    replace_repeated(&mut last, again);
                }
                times = k;
                last.clone()
            } else {
                let round = self.round(self.seed);
                contest.play(contest.tasks, &protocol, round, &self.store(*setting), &bar)?
            };
            bar.finish();
            ui::report_lost(&played);
            match setting {
                SweepSetting::Greedy => greedy = Baseline::new("greedy", &played),
                SweepSetting::Sampled => last.clone_from(&played),
                _ => {}
            }
            output.rows.extend(sweep::rows(*setting, &played, &greedy));
            if !matches!(setting, SweepSetting::Repeated(_)) {
                output
                    .calibration
                    .extend(sweep::calibration(*setting, &played));
            }
            write_csv(&self.out.join(TABLE), &output.rows)?;
            write_csv(&self.out.join("calibration.csv"), &output.calibration)?;
        }
        Ok(())
    }

    fn round(&self, seed: u64) -> Round {
        Round {
            repetitions: 1,
            seed,
            pool: self.concurrency.resolve(),
            shard: Shard::WHOLE,
        }
    }

    fn store(&self, setting: SweepSetting) -> PathBuf {
        self.out.join(format!("{}.jsonl", setting.store()))
    }
}

impl Contest<'_> {
    fn play(
        &self,
        tasks: &[&Task],
        protocol: &Protocol,
        round: Round,
        store: &Path,
        bar: &indicatif::ProgressBar,
    ) -> Result<Vec<Trajectory>, TrainerError> {
        let policy = if protocol.search.is_some() {
            self.search
        } else {
            self.best_of
        };
        play_round(policy, self.world, tasks, protocol, round, store, bar)
    }
}

/// Returns the model of a player that was opened from a model folder.
fn model_of(player: &Player) -> &LmPolicy {
    match player {
        Player::Model(model) => model,
        _ => unreachable!("`run` refuses every other kind of policy"),
    }
}

/// Renames the table of an older version, so that the folder contains one table.
fn rename_old_table(folder: &Path) -> anyhow::Result<()> {
    let old = folder.join(OLD_TABLE);
    let new = folder.join(TABLE);
    if old.is_file() && !new.exists() {
        std::fs::rename(&old, &new).with_context(|| format!("cannot rename {}", old.display()))?;
    }
    Ok(())
}

/// Returns the games that are not won yet.
fn not_won<'a>(last: &[Trajectory], tasks: &[&'a Task]) -> Vec<&'a Task> {
    let lost: HashSet<&str> = last
        .iter()
        .filter(|played| !played.is_won())
        .map(|played| played.game_hash.as_str())
        .collect();
    tasks
        .iter()
        .copied()
        .filter(|task| lost.contains(task.hash.as_str()))
        .collect()
}

/// Replaces the episodes of games that were played again.
fn replace_repeated(last: &mut [Trajectory], again: Vec<Trajectory>) {
    for after in again {
        let before = last
            .iter_mut()
            .find(|played| played.game_hash == after.game_hash)
            .expect("only games that were played before are repeated");
        *before = sweep::merge_attempts(before, after);
    }
}

impl SweepOutput {
    fn print(&self) {
        let header = [
            "scorer",
            "K",
            "split",
            "n",
            "success %, Wilson 95 %",
            "won/lost alone",
            "p",
            "turns",
            "distinct %",
            "completions",
            "tokens",
            "seconds",
        ];
        ui::print_table(&header, &self.rows.iter().map(cells).collect::<Vec<_>>());
        self.print_calibration();
        ui::print(&format!(
            "K = 1: {}; above it the best of K. `repeated`: up to K such episodes per game, until one is \
             won. `greedy`: temperature 0. `distinct`: a random one of the distinct candidates, the null of \
             every scorer. `soft_value`: U + {} ln π. `oracle`: clairvoyant. Candidates are distinct by {}. \
             Completions, tokens and seconds are per game. Won/lost \
             alone and p compare with greedy play.\nsuite {}, policy {}, seed {}; more in {}\n",
            protocol_line(&self.protocol),
            self.soft_value_beta,
            self.distinct_by.name(),
            &self.suite[..16],
            self.policy_hash,
            self.seed,
            self.run.join("calibration.csv").display()
        ));
    }

    /// Prints the calibration over all turns of every setting, and that of parts of the turns for
    /// `sampled`, whose policy is not changed by a scorer.
    fn print_calibration(&self) {
        let shown: Vec<Vec<String>> = self
            .calibration
            .iter()
            .filter(|row| row.part == CalibrationGroup::All || row.scorer == "sampled")
            .map(calibration_cells)
            .collect();
        if shown.is_empty() {
            return;
        }
        let header = [
            "calibration",
            "K",
            "of",
            "turns",
            "n",
            "mean",
            "won %",
            "Brier",
            "calibration error",
            "AUC (won or not)",
            "AUC given the turn",
        ];
        ui::print_table(&header, &shown);
    }
}

fn cells(row: &SweepTableRow) -> Vec<String> {
    let against = row
        .won_alone
        .zip(row.lost_alone)
        .map(|(won, lost)| format!("{won}/{lost}"));
    vec![
        row.scorer.to_string(),
        row.k.to_string(),
        row.split.to_string(),
        row.n.to_string(),
        format!(
            "{:.1} [{:.1}, {:.1}]",
            100.0 * row.success_rate,
            100.0 * row.low,
            100.0 * row.high
        ),
        against.unwrap_or_else(|| "-".into()),
        three_decimals(row.p_value),
        format!("{:.1}", row.mean_turns),
        format!("{:.0}", 100.0 * row.distinct_share),
        format!("{:.0}", row.completions),
        format!("{:.0}", row.tokens),
        format!("{:.1}", row.seconds),
    ]
}

fn calibration_cells(row: &CalibrationRow) -> Vec<String> {
    let turns = match (row.part, row.from, row.to) {
        (CalibrationGroup::Turns, Some(from), Some(to)) => format!("{from} to {to}"),
        (CalibrationGroup::Turns, Some(from), None) => format!("from {from}"),
        (CalibrationGroup::Bin, Some(from), Some(to)) => format!("value {from:.2} to {to:.2}"),
        _ => "all".into(),
    };
    vec![
        row.scorer.to_string(),
        row.k.to_string(),
        format!("{:?}", row.reading),
        turns,
        row.n.to_string(),
        format!("{:.3}", row.mean_prediction),
        format!("{:.1}", 100.0 * row.success_rate),
        format!("{:.3}", row.brier),
        three_decimals(row.calibration_error),
        three_decimals(row.auc),
        three_decimals(row.auc_given_turn),
    ]
}

/// Formats a number with three decimals, or `-` if there is none.
fn three_decimals(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_an_older_version_is_renamed() {
        let folder = tempfile::tempdir().unwrap();
        rename_old_table(folder.path()).unwrap();
        std::fs::write(folder.path().join(OLD_TABLE), "old").unwrap();
        rename_old_table(folder.path()).unwrap();
        let table = folder.path().join(TABLE);
        assert_eq!(std::fs::read_to_string(&table).unwrap(), "old");
        assert!(!folder.path().join(OLD_TABLE).exists());
        std::fs::write(folder.path().join(OLD_TABLE), "older").unwrap();
        rename_old_table(folder.path()).unwrap();
        assert_eq!(std::fs::read_to_string(&table).unwrap(), "old");
    }
}
