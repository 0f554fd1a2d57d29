//! `hearth eval`: every game of the named splits, once or so many times: the table with intervals, why games were lost, the
//! protocol card beside the number, and what the audit finds.

use crate::args::policy::{ChoosingArgs, Player, PolicyArgs};
use crate::args::search::SearchArgs;
use crate::args::shard::ShardArgs;
use crate::args::world::WorldArgs;
use crate::commands::measure::audit;
use crate::commands::train::pipeline::CODE;
use crate::ui;
use agent::rollout::Concurrency;
use anyhow::Context;
use clap::{Args, ValueHint};
use scenarios::{History, Outcome, Protocol, Split, Suite, Task, Trajectory};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use trainer::measure::audit::{Audit, Evidence, Measured, audit};
use trainer::measure::card::{Card, Lineage, Made, NamedCard, Sheets, run_of};
use trainer::measure::evaluate::{self, Row};
use trainer::measure::failures::FailureRow;
use trainer::pipeline::folder::{checkpoint_of, learned_in_run};
use trainer::pipeline::rounds::{Round, Shard};

#[derive(Args)]
pub(crate) struct Eval {
    /// Who plays: `expert`, a model folder, or `openai:URL#MODEL`, a model on a server
    #[arg(long)]
    policy: String,
    /// Folder of games (ALFWorld's layout, or SPLIT/NAME.z8) or manifest
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: PathBuf,
    /// Splits, with commas between
    #[arg(long, value_delimiter = ',', default_value = "valid_seen,valid_unseen")]
    split: Vec<Split>,
    /// K, with commas between: 1 is greedy, above 1 the best of K sampled completions by `--choose-by`
    #[arg(long, value_delimiter = ',', default_value = "1")]
    best_of: Vec<usize>,
    /// Sampling temperature for K above 1 [default: 1]
    #[arg(long)]
    temperature: Option<f32>,
    /// Sample for K = 1 too, at the same temperature, instead of greedily
    #[arg(long)]
    sample: bool,
    /// Protocol that others measure by: `oreo` (40 turns, full history, no admissible list, K = 1 greedy) or `verl` (50
    /// turns, the last 2 in sight, admissible list, temperature 0.4); flags that contradict it are refused
    #[arg(long)]
    card: Option<NamedCard>,
    #[command(flatten)]
    search: SearchArgs,
    #[command(flatten)]
    choosing: ChoosingArgs,
    #[command(flatten)]
    played: Played,
    /// Episodes of each game
    #[arg(long, default_value_t = 1)]
    repetitions: usize,
    /// Seed of the episodes
    #[arg(long, default_value_t = 1, conflicts_with = "seeds")]
    seed: u64,
    /// Seeds, with commas between: each game is played with each
    #[arg(long, value_delimiter = ',')]
    seeds: Vec<u64>,
    /// How the model's checkpoint was chosen, for the card [default: what its folder says]
    #[arg(long, value_name = "TEXT")]
    checkpoint: Option<String>,
    /// Folder for eval.csv, eval-card.json, eval-games.csv, eval-failures.csv and the episodes, one store a K with all seeds;
    /// episodes that stand there already are not played again
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

/// How episodes are played, for `eval` and `collect`.
#[derive(Args)]
pub(crate) struct Played {
    /// Most turns in an episode [default: 40]
    #[arg(long)]
    turns: Option<usize>,
    /// Most tokens in one completion
    #[arg(long, default_value_t = 24)]
    completion: usize,
    /// Show the admissible commands to the policy: a different protocol
    #[arg(long)]
    show_admissible: bool,
    /// How much of the episode the policy sees: `full`, or `last_N` for the first observation and N turns before its own
    /// [default: full]
    #[arg(long)]
    history: Option<History>,
    /// Episodes at once; changes the speed, not the result [default: 32 a core]
    #[arg(long)]
    episodes: Option<usize>,
    #[command(flatten)]
    pub(crate) policy: PolicyArgs,
}

#[derive(Serialize)]
struct Report {
    rows: Vec<Row>,
    failures: Vec<FailureRow>,
    cards: Vec<Card>,
    protocols: Vec<Protocol>,
    suite: String,
    policy_hash: String,
    /// The first of them.
    seed: u64,
    seeds: Vec<u64>,
    repetitions: usize,
    audit: Audit,
    seconds: f64,
    run: PathBuf,
}

impl Played {
    pub(crate) fn pool(&self) -> Concurrency {
        let pool = Concurrency::default();
        Concurrency {
            episodes: self.episodes.unwrap_or(pool.episodes),
            ..pool
        }
    }

    /// What the flags say, then the card, then the default.
    pub(crate) fn protocol(
        &self,
        card: Option<NamedCard>,
        context_limit: usize,
        temperature: f32,
        best_of: usize,
    ) -> Protocol {
        let default = Protocol::default();
        self.policy.onto(Protocol {
            turn_limit: self
                .turns
                .or(card.map(NamedCard::turn_limit))
                .unwrap_or(default.turn_limit),
            context_limit,
            completion_limit: self.completion,
            temperature,
            best_of,
            admissible_shown: self.show_admissible || card.is_some_and(NamedCard::admissible_shown),
            history: self
                .history
                .or(card.map(NamedCard::history))
                .unwrap_or(default.history),
            ..default
        })
    }
}

impl Eval {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let started = Instant::now();
        self.check()?;
        let suite = Suite::open(&self.suite)?;
        crate::commands::data::scenarios::say_faults(&suite);
        let tasks = self.tasks(&suite)?;
        let player = Player::open(
            &self.policy,
            self.highest_k(),
            &self.choosing,
            &self.played.policy,
        )?;
        let shard = self.shard.resolve()?;
        if shard.is_part() && self.seeds().len() > 1 {
            return Err(ui::WrongUse(
                "--shard: one seed at a time, each into a folder of its own".into(),
            )
            .into());
        }
        let played = self.play(&player, &tasks, shard)?;
        if shard.is_part() {
            return say_part(&self.out, shard, &played, self.json);
        }
        let played = self.with_cards(&suite, played)?;
        let mut rows = Vec::new();
        let mut sheets = Sheets::default();
        for (card, episodes) in &played {
            rows.extend(evaluate::table(&self.policy, card.k, episodes));
            sheets.add(card.clone(), episodes);
        }
        evaluate::write_csv(&self.out.join("eval.csv"), &rows)?;
        sheets.save(&self.out)?;
        let report = Report {
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
            audit: self.audit(&suite, &played).unwrap_or_else(|error| Audit {
                not_checked: vec![format!("all of it: {error}")], // what was measured is not lost for that
                ..Audit::default()
            }),
            seconds: started.elapsed().as_secs_f64(),
            run: self.out,
        };
        report.save()?;
        if self.json {
            ui::print_json(&report)?;
        } else {
            report.print();
        }
        audit::say(&report.audit);
        Ok(ExitCode::SUCCESS)
    }

    /// Refuses flags that make no sense, or contradict the card.
    fn check(&self) -> anyhow::Result<()> {
        let refuse = |text: String| Err(ui::WrongUse(text).into());
        if self.best_of.contains(&0) {
            return refuse("--best-of: K starts at 1".into());
        }
        if self.repetitions == 0 {
            return refuse("--repetitions 0: each game is played at least once".into());
        }
        ui::refuse_twice("--best-of", &self.best_of)?;
        ui::refuse_twice("--split", &self.split)?;
        ui::refuse_twice("--seeds", &self.seeds)?;
        let Some(card) = self.card else { return Ok(()) };
        for k in &self.best_of {
            let differences =
                card.differences(&self.protocol(0, *k), self.repetitions * self.seeds().len());
            if !differences.is_empty() {
                let hint = "leave out either the flags or --card: the result's card then says what makes it another";
                return refuse(format!(
                    "--card {card}: {}\nhint: {hint}",
                    differences.join("; ")
                ));
            }
        }
        Ok(())
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

    /// What the flags say of how K is played.
    fn protocol(&self, context: usize, k: usize) -> Protocol {
        let protocol = self
            .played
            .protocol(self.card, context, self.temperature(k), k);
        self.choosing.onto(Protocol {
            search: self.search.search,
            ..protocol
        })
    }

    fn highest_k(&self) -> usize {
        self.best_of.iter().copied().max().unwrap_or(1)
    }

    fn tasks<'a>(&self, suite: &'a Suite) -> anyhow::Result<Vec<&'a Task>> {
        let mut tasks = Vec::new();
        for split in &self.split {
            let games = suite.split(*split);
            if games.is_empty() {
                return Err(ui::WrongUse(format!(
                    "{} has no games in {split}",
                    self.suite.display()
                ))
                .into());
            }
            tasks.extend(games);
        }
        Ok(tasks)
    }

    /// Plays every K with every seed; the episodes' file, from the folder, beside them.
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
        self.search
            .check(&self.policy, Some(player), self.highest_k(), &opened)?;
        let speaking = opened.speaking(translated_to);
        let seeds = self.seeds();
        self.choosing
            .check_world(self.highest_k(), speaking.world(), tasks[0])?;
        let mut all = Vec::new();
        for k in &self.best_of {
            let protocol = Protocol {
                translated_to,
                ..player.protocol(self.protocol(player.context(), *k))
            };
            if matches!(player, Player::Model(_))
                && protocol.temperature == 0.0
                && self.repetitions * seeds.len() > 1
            {
                eprintln!(
                    "warning: a model that plays greedily does the same again in every repetition; see --sample"
                );
            }
            let store = PathBuf::from(self.search.store_name(*k));
            let mut episodes = Vec::new();
            for seed in &seeds {
                let title = if seeds.len() > 1 {
                    format!(", seed {seed}")
                } else {
                    String::new()
                };
                let bar = ui::bar(&format!("evaluate, K = {k}{title}"));
                let round = Round {
                    repetitions: self.repetitions,
                    seed: *seed,
                    pool: self.played.pool(),
                    shard,
                };
                let path = shard.store(&self.out.join(&store));
                episodes.extend(player.play(
                    speaking.world(),
                    tasks,
                    &protocol,
                    round,
                    &path,
                    &bar,
                )?);
                bar.finish();
            }
            ui::say_lost(&episodes);
            all.push((store, episodes));
        }
        opened.say_losses();
        Ok(all)
    }

    /// Lays its card beside the episodes of each K.
    fn with_cards(
        &self,
        suite: &Suite,
        played: Vec<(PathBuf, Vec<Trajectory>)>,
    ) -> anyhow::Result<Vec<(Card, Vec<Trajectory>)>> {
        let (seeds, checkpoint) = (self.seeds(), self.checkpoint()?);
        let card = |(store, episodes): (PathBuf, Vec<Trajectory>)| {
            let made = Made {
                suite,
                seeds: &seeds,
                repetitions: self.repetitions,
                checkpoint: &checkpoint,
                code: CODE,
                store: &store,
            };
            (Card::new(&self.policy, &made, &episodes), episodes)
        };
        Ok(played.into_iter().map(card).collect())
    }

    /// How the checkpoint was chosen.
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
        let measured = played.iter().zip(&names);
        let measured = measured
            .map(|((card, episodes), name)| Measured {
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

impl Report {
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
            let line = evaluate::played_line(&card.protocol, card.times());
            ui::print(&format!("K = {}: {line}; {}\n", card.k, card.likeness()));
        }
        let seeds: Vec<String> = self.seeds.iter().map(ToString::to_string).collect();
        let checkpoint = self
            .cards
            .first()
            .map_or("", |card| card.checkpoint.as_str());
        ui::print(&format!(
            "suite {}, policy {}, checkpoint: {checkpoint}, seed {}; rows by game in eval-games.csv\n",
            &self.suite[..16],
            self.policy_hash,
            seeds.join(", ")
        ));
    }
}

/// What a shard has to tell: its episodes, which are no table yet.
fn say_part(
    out: &Path,
    shard: Shard,
    played: &[(PathBuf, Vec<Trajectory>)],
    json: bool,
) -> anyhow::Result<ExitCode> {
    let ended = || {
        played
            .iter()
            .flat_map(|(_, all)| all)
            .filter(|episode| episode.outcome != Outcome::EnvFailed)
    };
    let (n, successes) = (
        ended().count(),
        ended().filter(|episode| episode.is_won()).count(),
    );
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
