//! `hearth eval`: plays every game of the given splits and prints the table with intervals, the
//! causes of lost games, the protocol card of each number, and the findings of the audit.

use crate::args::concurrency::ConcurrencyArgs;
use crate::args::policy::{Player, ScorerArgs};
use crate::args::protocol::{OpenedParts, PlayArgs, PlaySetting, SelectionFlags};
use crate::args::search::SearchArgs;
use crate::args::server::print_notes;
use crate::args::shard::ShardArgs;
use crate::args::world::WorldArgs;
use crate::code::CODE;
use crate::commands::data::suite_table::{no_games, report_faults};
use crate::commands::measure::audit::warn_of_findings;
use crate::ui;
use anyhow::Context;
use clap::{Args, ValueHint};
use scenarios::{Outcome, Protocol, Split, Suite, Task, TextVersion, Trajectory};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use trainer::measure::audit::{Audit, Evidence, MeasuredEpisodes, audit};
use trainer::measure::card::{Card, CardInputs, Lineage, NamedCard, Sheets, run_of};
use trainer::measure::csv_file::write_csv;
use trainer::measure::failures::FailureRow;
use trainer::measure::protocol_line::played_line;
use trainer::measure::table::{EvalRow, table};
use trainer::pipeline::folder::{checkpoint_of, learned_in_run};
use trainer::pipeline::rounds::{Round, Shard};

#[derive(Args)]
pub(crate) struct EvalCommand {
    /// Policy: `expert`, a model folder, or `openai:URL#MODEL` (a model on a server)
    #[arg(long)]
    policy: String,
    /// Games: a game file, a folder (ALFWorld's layout, or SPLIT/NAME.z8) or a manifest
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: PathBuf,
    /// Splits to play, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "valid_seen,valid_unseen")]
    split: Vec<Split>,
    /// K, separated by commas: 1 is greedy; above 1, --scorer selects the best of K sampled
    /// completions
    #[arg(long, value_name = "K", value_delimiter = ',', default_value = "1")]
    best_of: Vec<usize>,
    /// Sampling temperature if K is above 1 [default: 1]
    #[arg(long)]
    temperature: Option<f32>,
    /// Sample if K is 1 too, at the same temperature, instead of greedy play
    #[arg(long)]
    sample: bool,
    /// Published protocol: `oreo` (40 turns, full history, no admissible list, K = 1 greedy) or
    /// `verl` (50 turns, the last 2 turns visible, admissible list, temperature 0.4); contradicting
    /// flags are refused
    #[arg(long)]
    card: Option<NamedCard>,
    #[command(flatten)]
    search: SearchArgs,
    #[command(flatten)]
    scorer: ScorerArgs,
    #[command(flatten)]
    play: PlayArgs,
    #[command(flatten)]
    concurrency: ConcurrencyArgs,
    /// Number of episodes per game and seed
    #[arg(long, default_value_t = 1)]
    repetitions: usize,
    /// Seed of the episodes
    #[arg(long, default_value_t = 1, conflicts_with = "seeds")]
    seed: u64,
    /// Seeds, separated by commas; each game is played with each seed
    #[arg(long, value_delimiter = ',')]
    seeds: Vec<u64>,
    /// How the model's checkpoint was chosen, for the card [default: the record in its folder]
    #[arg(long, value_name = "TEXT")]
    checkpoint: Option<String>,
    /// Folder for eval.csv, eval-card.json, eval-games.csv, eval-failures.csv and one store per K;
    /// episodes that it already contains are not played again
    #[arg(long, value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    world: WorldArgs,
    #[command(flatten)]
    shard: ShardArgs,
}

/// The JSON output of `hearth eval`.
#[derive(Serialize)]
struct EvalOutput {
    rows: Vec<EvalRow>,
    failures: Vec<FailureRow>,
    cards: Vec<Card>,
    protocols: Vec<Protocol>,
    /// What the completions show about the setting.
    notes: Vec<String>,
    suite: String,
    policy_hash: String,
    /// The first of `seeds`.
    seed: u64,
    seeds: Vec<u64>,
    repetitions: usize,
    audit: Audit,
    seconds: f64,
    run: PathBuf,
}

impl EvalCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let started = Instant::now();
        self.check()?;
        let suite = Suite::open(&self.suite)?;
        report_faults(&suite);
        let tasks = tasks_of(&suite, &self.suite, &self.split)?;
        let player = Player::open(
            &self.policy,
            &self.scorer.reference,
            &self.play.policy,
            self.card,
        )?;
        self.selection().check(OpenedParts::Policy(Some(&player)))?;
        let shard = self.shard.resolve()?;
        if shard.is_part() && self.seeds().len() > 1 {
            return Err(ui::WrongUse(
                "--shard: only one seed at a time, each into a folder of its own".into(),
            )
            .into());
        }
        let played = self.play(&player, &tasks, shard)?;
        if shard.is_part() {
            return print_part(&self.out, shard, &played, self.json);
        }
        let played = self.with_cards(&suite, played)?;
        let mut rows = Vec::new();
        let mut sheets = Sheets::default();
        for (card, episodes) in &played {
            rows.extend(table(&self.policy, card.k, episodes));
            sheets.add(card.clone(), episodes);
        }
        write_csv(&self.out.join("eval.csv"), &rows)?;
        sheets.save(&self.out)?;
        let output = EvalOutput {
            rows,
            failures: sheets.failures,
            protocols: sheets
                .cards
                .iter()
                .map(|card| card.protocol.clone())
                .collect(),
            cards: sheets.cards,
            suite: suite.hash(),
            policy_hash: player.name(),
            seed: self.seeds()[0],
            seeds: self.seeds(),
            repetitions: self.repetitions,
            // If the audit fails, the measurement is still printed.
            audit: self.audit(&suite, &played).unwrap_or_else(|error| Audit {
                not_checked: vec![format!("all of it: {error}")],
                ..Audit::default()
            }),
            notes: played
                .iter()
                .flat_map(|(card, episodes)| {
                    let notes = player.notes(episodes).into_iter();
                    notes.map(move |note| format!("K = {}: {note}", card.k))
                })
                .collect(),
            seconds: started.elapsed().as_secs_f64(),
            run: self.out,
        };
        output.save()?;
        if self.json {
            ui::print_json(&output)?;
        } else {
            output.print();
        }
        print_notes(&output.notes);
        warn_of_findings(&output.audit);
        let rounds: Vec<&[Trajectory]> = played.iter().map(|(_, all)| &all[..]).collect();
        Ok(ui::exit_of_rounds(&rounds))
    }

    /// Refuses flags that make no sense, or contradict the card.
    fn check(&self) -> anyhow::Result<()> {
        self.selection().check(OpenedParts::Nothing)?;
        self.scorer.candidates.check(&[self.scorer.scorer])?;
        if self.repetitions == 0 {
            let text = "--repetitions 0: each game is played at least once";
            return Err(ui::WrongUse(text.into()).into());
        }
        ui::refuse_duplicates("--best-of", &self.best_of)?;
        ui::refuse_duplicates("--split", &self.split)?;
        ui::refuse_duplicates("--seeds", &self.seeds)?;
        let Some(card) = self.card else { return Ok(()) };
        for k in &self.best_of {
            let protocol = self.play.protocol(&self.setting(*k, None), None);
            let differences = card.differences(&protocol, self.repetitions * self.seeds().len());
            if !differences.is_empty() {
                return Err(ui::WrongUse(format!(
                    "--card {card}: {}\n\
                     hint: omit the flags or --card; the card of the result then lists the differences",
                    differences.join("; ")
                ))
                .into());
            }
        }
        Ok(())
    }

    fn selection(&self) -> SelectionFlags<'_> {
        SelectionFlags {
            policy: &self.policy,
            best_of: &self.best_of,
            scorer: self.scorer.scorer,
            search: self.search.search,
        }
    }

    fn setting(&self, k: usize, translated_to: Option<TextVersion>) -> PlaySetting {
        PlaySetting {
            card: self.card,
            temperature: self.temperature(k),
            best_of: k,
            scorer: self.scorer.scorer,
            candidates: self.scorer.candidates,
            search: self.search.search,
            translated_to,
        }
    }

    fn seeds(&self) -> Vec<u64> {
        if self.seeds.is_empty() {
            vec![self.seed]
        } else {
            self.seeds.clone()
        }
    }

    fn temperature(&self, k: usize) -> f32 {
        let of_card = self
            .card
            .map(|card| card.temperature(k))
            .filter(|of_card| *of_card > 0.0);
        let is_greedy = k == 1 && !self.sample && of_card.is_none();
        if is_greedy {
            0.0
        } else {
            self.temperature.or(of_card).unwrap_or(1.0)
        }
    }

    /// Plays every K with every seed. Returns the episodes of each K with the name of their store.
    fn play(
        &self,
        player: &Player,
        tasks: &[&Task],
        shard: Shard,
    ) -> anyhow::Result<Vec<(PathBuf, Vec<Trajectory>)>> {
        let translated_to = self
            .world
            .translation(&self.policy, &player.learned(), tasks)?;
        std::fs::create_dir_all(&self.out)
            .with_context(|| format!("cannot use {}", self.out.display()))?;
        let opened = self.world.open(tasks.len())?;
        let versioned = opened.in_version(translated_to);
        let world = versioned.world();
        self.selection().check(OpenedParts::World {
            player: Some(player),
            opened: &opened,
            world,
            task: tasks[0],
        })?;
        let seeds = self.seeds();
        let mut all = Vec::new();
        for k in &self.best_of {
            let setting = self.setting(*k, translated_to);
            let protocol = self.play.protocol(&setting, Some(player));
            if matches!(player, Player::Model(_))
                && protocol.temperature == 0.0
                && self.repetitions * seeds.len() > 1
            {
                eprintln!(
                    "warning: greedy play repeats the same episode in every repetition\nhint: --sample"
                );
            }
            let store = PathBuf::from(self.search.store_name(*k));
            let path = shard.store(&self.out.join(&store));
            let mut episodes = Vec::new();
            for seed in &seeds {
                let title = if seeds.len() > 1 {
                    format!("evaluate, K = {k}, seed {seed}")
                } else {
                    format!("evaluate, K = {k}")
                };
                let bar = ui::bar(&title);
                let round = Round {
                    repetitions: self.repetitions,
                    seed: *seed,
                    pool: self.concurrency.resolve(),
                    shard,
                };
                episodes.extend(player.play(world, tasks, &protocol, round, &path, &bar)?);
                bar.finish();
            }
            ui::report_lost(&episodes);
            all.push((store, episodes));
        }
        opened.report_replaced();
        Ok(all)
    }

    /// Makes the card of each K.
    fn with_cards(
        &self,
        suite: &Suite,
        played: Vec<(PathBuf, Vec<Trajectory>)>,
    ) -> anyhow::Result<Vec<(Card, Vec<Trajectory>)>> {
        let seeds = self.seeds();
        let checkpoint = self.checkpoint()?;
        let lineage = Lineage::open(Path::new(&self.policy))?;
        let permuted_games = lineage
            .as_ref()
            .map_or(0, |lineage| lineage.permuted_games());
        let extensions = lineage.map_or_else(Vec::new, |lineage| lineage.extensions);
        let mut carded = Vec::new();
        for (store, episodes) in played {
            let inputs = CardInputs {
                suite,
                seeds: &seeds,
                repetitions: self.repetitions,
                checkpoint: &checkpoint,
                extensions: &extensions,
                permuted_games,
                code: CODE,
                store: &store,
            };
            carded.push((Card::new(&self.policy, &inputs, &episodes), episodes));
        }
        Ok(carded)
    }

    /// Returns how the checkpoint was chosen.
    fn checkpoint(&self) -> anyhow::Result<String> {
        match &self.checkpoint {
            Some(text) => Ok(text.clone()),
            None if self.policy == "expert" => Ok("the expert learns nothing".into()),
            None => Ok(checkpoint_of(Path::new(&self.policy))?),
        }
    }

    fn audit(&self, suite: &Suite, played: &[(Card, Vec<Trajectory>)]) -> anyhow::Result<Audit> {
        let model = Path::new(&self.policy);
        let learned = run_of(model)
            .map(|run| learned_in_run(&run))
            .transpose()?
            .unwrap_or_default();
        let lineages: Vec<_> = Lineage::open(model)?
            .map(|lineage| (self.policy.clone(), lineage))
            .into_iter()
            .collect();
        let names: Vec<String> = played
            .iter()
            .map(|(card, _)| card.store.display().to_string())
            .collect();
        let measured = played
            .iter()
            .zip(&names)
            .map(|((card, episodes), name)| MeasuredEpisodes {
                name,
                episodes,
                card: Some(card),
            })
            .collect();
        Ok(audit(&Evidence {
            measured,
            learned: &learned,
            lineages: &lineages,
            suite: Some(suite),
        }))
    }
}

/// Returns the games of the given splits.
///
/// # Errors
/// If a split has no games.
pub(super) fn tasks_of<'a>(
    suite: &'a Suite,
    path: &Path,
    splits: &[Split],
) -> anyhow::Result<Vec<&'a Task>> {
    let mut tasks = Vec::new();
    for split in splits {
        let games = suite.split(*split);
        if games.is_empty() {
            return Err(no_games(suite, path, *split));
        }
        tasks.extend(games);
    }
    Ok(tasks)
}

impl EvalOutput {
    fn save(&self) -> anyhow::Result<()> {
        let path = self.run.join("eval.json");
        let text = serde_json::to_string_pretty(self)? + "\n";
        scenarios::files::replace(&path, text.as_bytes())
            .with_context(|| format!("cannot use {}", path.display()))
    }

    fn print(&self) {
        ui::print_rows(&self.rows);
        ui::print_failures(&self.failures);
        for card in &self.cards {
            let line = played_line(&card.protocol, card.times());
            ui::print(&format!("K = {}: {line}; {}\n", card.k, card.likeness()));
        }
        let seeds: Vec<String> = self.seeds.iter().map(ToString::to_string).collect();
        let first = self.cards.first();
        let checkpoint = first.map_or("", |card| card.checkpoint.as_str());
        let practice = first.and_then(Card::practice);
        let practice = practice.map_or(String::new(), |text| format!(", {text}"));
        ui::print(&format!(
            "suite {}, policy {}{practice}, checkpoint: {checkpoint}, seed {}; rows by game in eval-games.csv\n",
            &self.suite[..16],
            self.policy_hash,
            seeds.join(", ")
        ));
    }
}

/// Prints the result of a shard. Its episodes are not a table yet.
fn print_part(
    out: &Path,
    shard: Shard,
    played: &[(PathBuf, Vec<Trajectory>)],
    json: bool,
) -> anyhow::Result<ExitCode> {
    let ended: Vec<&Trajectory> = played
        .iter()
        .flat_map(|(_, all)| all)
        .filter(|episode| episode.outcome != Outcome::EnvFailed)
        .collect();
    let n = ended.len();
    let successes = ended.iter().filter(|episode| episode.is_won()).count();
    if json {
        ui::print_json(
            &serde_json::json!({ "shard": shard, "n": n, "successes": successes, "run": out }),
        )?;
    } else {
        ui::print(&format!("shard {shard}: {successes} won of {n} episodes\n"));
        let out = out.display();
        eprintln!(
            "when all shards are done: hearth merge {out}, then this command with --shard 0/1 for the table"
        );
    }
    Ok(ExitCode::SUCCESS)
}
