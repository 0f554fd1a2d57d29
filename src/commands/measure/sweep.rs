//! `hearth lab`: the best of K by every scorer and for every K, with what it cost and how far the value network's numbers
//! can be believed.

use crate::args::policy::{ChoosingArgs, Player, ReferenceArgs, tells_what_remains};
use crate::args::world::{Opened, WorldArgs};
use crate::commands::measure::eval::Played;
use crate::ui;
use agent::policy::Policy;
use agent::policy::lm::LmPolicy;
use agent::rollout::NO_LOOK_AHEAD;
use anyhow::Context;
use clap::{Args, ValueHint};
use scenarios::{History, Protocol, Scorer, Split, Suite, Task, Trajectory, World};
use serde::Serialize;
use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;
use trainer::TrainerError;
use trainer::measure::compare::Baseline;
use trainer::measure::evaluate;
use trainer::measure::sweep::{self, CalibrationRow, Part, SweepRow, SweepSetting};
use trainer::pipeline::rounds::{Round, Shard};
use trainer::pipeline::shard::play_round;

#[derive(Args)]
pub(crate) struct Sweep {
    /// A model folder
    #[arg(long, value_hint = ValueHint::DirPath)]
    policy: String,
    /// Folder of games (ALFWorld's layout, or SPLIT/NAME.z8) or manifest
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: PathBuf,
    /// Splits, with commas between
    #[arg(long, value_delimiter = ',', default_value = "valid_seen,valid_unseen")]
    split: Vec<Split>,
    /// Games to play, the first of each split; 0 = all
    #[arg(long, default_value_t = 0)]
    games: usize,
    /// K, with commas between; greedy play and one sample are always measured
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,4,5,6,7,8")]
    best_of: Vec<usize>,
    /// What the best of K is chosen by, with commas between: `after_value`, `soft_value`, `log_ratio`, `logprob`, `random`,
    /// `oracle` [default: all that the model, `--reference` and the world have]
    #[arg(long, value_name = "CHOOSERS", value_delimiter = ',')]
    scorer: Vec<Scorer>,
    /// Also search with a beam of B = K for each K, in copies of the world: a protocol of its own
    #[arg(long)]
    beam: bool,
    #[command(flatten)]
    looking_on: ReferenceArgs,
    /// Sampling temperature
    #[arg(long, default_value_t = 1.0)]
    temperature: f32,
    #[command(flatten)]
    played: Played,
    /// Seed of the episodes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for lab.csv, calibration.csv and the episodes, one store a scorer and K; episodes that stand there already
    /// are not played again
    #[arg(long, value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Print one JSON object instead of the tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    world: WorldArgs,
}

/// Who plays.
struct Players<'a> {
    best_of: &'a LmPolicy,
    search: &'a LmPolicy,
}

#[derive(Serialize)]
struct Report {
    rows: Vec<SweepRow>,
    calibration: Vec<CalibrationRow>,
    /// That of one sample.
    protocol: Protocol,
    suite: String,
    policy_hash: String,
    seed: u64,
    run: PathBuf,
}

impl Sweep {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if self.best_of.contains(&0) {
            return Err(ui::WrongUse("--best-of: K starts at 1".into()).into());
        }
        if self.temperature <= 0.0 {
            let text = "--temperature: above 0, or all candidates of a turn are the same";
            return Err(ui::WrongUse(text.into()).into());
        }
        let suite = Suite::open(&self.suite)?;
        crate::commands::data::scenarios::say_faults(&suite);
        let tasks = self.tasks(&suite)?;
        let choosing = ChoosingArgs {
            looking_on: self.looking_on.clone(),
            ..ChoosingArgs::default()
        };
        let player = Player::open(&self.policy, 1, &choosing, &self.played.policy)?;
        let translated_to = self
            .world
            .translation(&self.policy, &player.learned(), &tasks)?;
        let protocol = self
            .played
            .protocol(None, player.context(), self.temperature, 1);
        let protocol = Protocol {
            translated_to,
            ..player.protocol(protocol)
        };
        let Player::Model(player) = player else {
            let text = format!(
                "--policy {}: the laboratory wants a model folder",
                self.policy
            );
            return Err(ui::WrongUse(text).into());
        };
        let opened = self.world.open(tasks.len())?;
        let speaking = opened.speaking(translated_to);
        let scorers = self.scorers(&player, speaking.world(), tasks[0])?;
        self.check_beam(&player, &opened, protocol.history)?;
        let alone = self.alone()?;
        std::fs::create_dir_all(&self.out)
            .with_context(|| format!("cannot use {}", self.out.display()))?;
        let mut report = Report {
            rows: Vec::new(),
            calibration: Vec::new(),
            protocol,
            suite: suite.hash(),
            policy_hash: player.name(),
            seed: self.seed,
            run: self.out.clone(),
        };
        let settings = SweepSetting::all(&self.best_of, &scorers, self.beam);
        let players = Players {
            best_of: &player,
            search: alone.as_deref().unwrap_or(&player),
        };
        self.play(&players, speaking.world(), &tasks, &settings, &mut report)?;
        opened.say_losses();
        if self.json {
            ui::print_json(&report)?;
        } else {
            report.print();
        }
        Ok(ExitCode::SUCCESS)
    }

    fn tasks<'a>(&self, suite: &'a Suite) -> anyhow::Result<Vec<&'a Task>> {
        let mut tasks = Vec::new();
        for split in &self.split {
            let mut games = suite.split(*split);
            if games.is_empty() {
                return Err(ui::WrongUse(format!(
                    "{} has no games in {split}",
                    self.suite.display()
                ))
                .into());
            }
            if self.games > 0 {
                games.truncate(self.games);
            }
            tasks.extend(games);
        }
        Ok(tasks)
    }

    /// Those that were asked for, else all that can be had.
    fn scorers(
        &self,
        player: &LmPolicy,
        world: &dyn World,
        task: &Task,
    ) -> anyhow::Result<Vec<Scorer>> {
        let asked = if self.scorer.is_empty() {
            player.scorers()
        } else {
            self.scorer.clone()
        };
        let mut scorers = Vec::new();
        for scorer in asked {
            player
                .can_play(&Protocol {
                    best_of: 2,
                    scorer,
                    ..Protocol::default()
                })
                .map_err(ui::WrongUse)?;
            if scorer == Scorer::Oracle && !tells_what_remains(world, task)? {
                if !self.scorer.is_empty() {
                    return Err(ui::WrongUse(format!("--choose-by oracle: {NO_LOOK_AHEAD}")).into());
                }
                eprintln!("the oracle is left out: this world does not tell how far the goal is");
                continue;
            }
            scorers.push(scorer);
        }
        Ok(scorers)
    }

    /// Refuses a search that cannot be done.
    fn check_beam(
        &self,
        player: &LmPolicy,
        opened: &Opened,
        history: History,
    ) -> anyhow::Result<()> {
        let can_search = player.has_value() && opened.can_be_copied() && history == History::Full;
        if self.beam && !can_search {
            let text = "--beam: a search wants a value network (value/), a world that can be copied (--world native) and \
                        the full history";
            return Err(ui::WrongUse(text.into()).into());
        }
        Ok(())
    }

    /// The model without the reference, of which a search takes none along; `None` where nobody asks for that.
    fn alone(&self) -> anyhow::Result<Option<Box<LmPolicy>>> {
        if !self.beam || self.looking_on.reference.is_none() {
            return Ok(None);
        }
        match Player::open(
            &self.policy,
            1,
            &ChoosingArgs::default(),
            &self.played.policy,
        )? {
            Player::Model(alone) => Ok(Some(alone)),
            _ => unreachable!("it was a model folder before"),
        }
    }

    /// Plays every setting, and writes both tables anew after each.
    fn play(
        &self,
        players: &Players<'_>,
        world: &dyn World,
        tasks: &[&Task],
        settings: &[SweepSetting],
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let mut greedy = Baseline::new("greedy", &[]);
        let (mut last, mut times) = (Vec::new(), 1); // of the games that are repeated
        for setting in settings {
            let protocol = setting.protocol(report.protocol.clone());
            let bar = ui::bar(&format!("{}, K = {}", setting.scorer(), setting.k()));
            let play = |tasks: &[&Task], store: &str, seed: u64| {
                let round = Round {
                    repetitions: 1,
                    seed,
                    pool: self.played.pool(),
                    shard: Shard::WHOLE,
                };
                let player = if protocol.search.is_some() {
                    players.search
                } else {
                    players.best_of
                };
                play_round(
                    player,
                    world,
                    tasks,
                    &protocol,
                    round,
                    &self.out.join(format!("{store}.jsonl")),
                    &bar,
                )
            };
            let played = if let SweepSetting::Repeated(k) = *setting {
                for time in times + 1..=k {
                    let (store, seed) = (
                        SweepSetting::Repeated(time).store(),
                        self.seed.wrapping_add(time as u64),
                    );
                    repeat(&mut last, tasks, |open| play(open, &store, seed))?;
                }
                times = k;
                last.clone()
            } else {
                play(tasks, &setting.store(), self.seed)?
            };
            bar.finish();
            ui::say_lost(&played);
            match setting {
                SweepSetting::Greedy => greedy = Baseline::new("greedy", &played),
                SweepSetting::Sampled => last.clone_from(&played),
                _ => {}
            }
            report.rows.extend(sweep::rows(*setting, &played, &greedy));
            if !matches!(setting, SweepSetting::Repeated(_)) {
                report
                    .calibration
                    .extend(sweep::calibration(*setting, &played));
            }
            evaluate::write_csv(&self.out.join("lab.csv"), &report.rows)?;
            evaluate::write_csv(&self.out.join("calibration.csv"), &report.calibration)?;
        }
        Ok(())
    }
}

/// Plays the games again that are not won yet.
fn repeat(
    last: &mut [Trajectory],
    tasks: &[&Task],
    play: impl Fn(&[&Task]) -> Result<Vec<Trajectory>, TrainerError>,
) -> Result<(), TrainerError> {
    let lost = last
        .iter()
        .filter(|played| !played.is_won())
        .map(|played| played.game_hash.as_str());
    let lost: HashSet<&str> = lost.collect();
    let open: Vec<&Task> = tasks
        .iter()
        .copied()
        .filter(|task| lost.contains(task.hash.as_str()))
        .collect();
    for after in play(&open)? {
        let before = last
            .iter_mut()
            .find(|played| played.game_hash == after.game_hash);
        let before = before.expect("it was played before");
        *before = sweep::again(before, after);
    }
    Ok(())
}

impl Report {
    fn print(&self) {
        let header = [
            "chosen by",
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
        let line = evaluate::protocol_line(&self.protocol);
        let (suite, policy) = (&self.suite[..16], &self.policy_hash);
        ui::print(&format!(
            "K = 1: {line}; above it the best of K, and `repeated` up to K such episodes until one is won, which the reward \
             tells; greedy at temperature 0. Completions, tokens and seconds are those of a game, won/lost alone and p \
             against greedy play\nsuite {suite}, policy {policy}, seed {}; more in {}\n",
            self.seed,
            self.run.join("calibration.csv").display()
        ));
    }

    /// Of every run the whole, and of one sample a turn, whose policy no scorer has changed, the parts.
    fn print_calibration(&self) {
        let shown: Vec<&CalibrationRow> = self
            .calibration
            .iter()
            .filter(|row| row.part == Part::All || row.scorer == "sampled")
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
        ];
        ui::print_table(
            &header,
            &shown.into_iter().map(calibration_cells).collect::<Vec<_>>(),
        );
    }
}

fn cells(row: &SweepRow) -> Vec<String> {
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
        row.p_value
            .map_or_else(|| "-".into(), |p| format!("{p:.3}")),
        format!("{:.1}", row.mean_turns),
        format!("{:.0}", 100.0 * row.distinct_share),
        format!("{:.0}", row.completions),
        format!("{:.0}", row.tokens),
        format!("{:.1}", row.seconds),
    ]
}

fn calibration_cells(row: &CalibrationRow) -> Vec<String> {
    let number =
        |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.3}"));
    let turns = match (row.part, row.from, row.to) {
        (Part::Turns, Some(from), Some(to)) => format!("{from} to {to}"),
        (Part::Turns, Some(from), None) => format!("from {from}"),
        (Part::Bin, Some(from), Some(to)) => format!("value {from:.2} to {to:.2}"),
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
        number(row.calibration_error),
        number(row.auc),
    ]
}
