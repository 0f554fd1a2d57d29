//! `hearth eval`: every game of the named splits once, the table with intervals, the protocol beside the number.

use crate::policy::{Player, PolicyArgs};
use crate::search::SearchArgs;
use crate::ui;
use crate::worlds::WorldArgs;
use agent::episode::Pool;
use anyhow::Context;
use clap::{Args, ValueHint};
use scenarios::{Protocol, Split, Suite, Task};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use trainer::evaluate::{self, Round, Row};

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
    /// K, with commas between: 1 is greedy, above 1 the best of K sampled completions by the model's value network
    #[arg(long, value_delimiter = ',', default_value = "1")]
    best_of: Vec<usize>,
    /// Sampling temperature for K above 1
    #[arg(long, default_value_t = 1.0)]
    temperature: f32,
    #[command(flatten)]
    search: SearchArgs,
    #[command(flatten)]
    played: Played,
    /// Seed of the episodes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for eval.csv and the episodes; episodes that stand there already are not played again
    #[arg(long, value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    world: WorldArgs,
}

/// How episodes are played, for `eval` and `collect`.
#[derive(Args)]
pub(crate) struct Played {
    /// Most turns in an episode
    #[arg(long, default_value_t = 40)]
    turns: usize,
    /// Most tokens in one completion
    #[arg(long, default_value_t = 24)]
    completion: usize,
    /// Show the admissible commands to the policy: a different protocol
    #[arg(long)]
    show_admissible: bool,
    /// Episodes at once; changes the speed, not the result [default: 32 a core]
    #[arg(long)]
    episodes: Option<usize>,
    #[command(flatten)]
    pub(crate) policy: PolicyArgs,
}

#[derive(Serialize)]
struct Measured {
    rows: Vec<Row>,
    protocols: Vec<Protocol>,
    suite: String,
    policy_hash: String,
    seed: u64,
    seconds: f64,
    run: PathBuf,
}

impl Played {
    pub(crate) fn pool(&self) -> Pool {
        let pool = Pool::default();
        Pool { episodes: self.episodes.unwrap_or(pool.episodes), ..pool }
    }

    pub(crate) fn protocol(&self, context_limit: usize, temperature: f32, best_of: usize) -> Protocol {
        self.policy.onto(Protocol {
            turn_limit: self.turns,
            context_limit,
            completion_limit: self.completion,
            temperature,
            best_of,
            admissible_shown: self.show_admissible,
            ..Protocol::default()
        })
    }
}

impl Eval {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let started = Instant::now();
        let highest = self.best_of.iter().copied().max().unwrap_or(1);
        if self.best_of.contains(&0) {
            return Err(ui::WrongUse("--best-of: K starts at 1".into()).into());
        }
        let suite = Suite::open(&self.suite)?;
        crate::games::say_faults(&suite);
        let mut tasks: Vec<&Task> = Vec::new();
        for split in &self.split {
            let games = suite.split(*split);
            if games.is_empty() {
                return Err(ui::WrongUse(format!("{} has no games in {split}", self.suite.display())).into());
            }
            tasks.extend(games);
        }
        let player = Player::open(&self.policy, highest, &self.played.policy)?;
        let translated_to = self.world.translation(&self.policy, &player.learned(), &tasks)?;
        std::fs::create_dir_all(&self.out).with_context(|| format!("cannot use {}", self.out.display()))?;
        let opened = self.world.open(tasks.len())?;
        self.search.check(&self.policy, Some(&player), highest, &opened)?;
        let speaking = opened.speaking(translated_to);
        let (mut rows, mut protocols) = (Vec::new(), Vec::new());
        for k in &self.best_of {
            let temperature = if *k == 1 { 0.0 } else { self.temperature };
            let protocol = player.protocol(self.played.protocol(player.context(), temperature, *k));
            let protocol = Protocol { translated_to, search: self.search.search, ..protocol };
            let round = Round { repetitions: 1, seed: self.seed, pool: self.played.pool() };
            let bar = ui::bar(&format!("evaluate, K = {k}"));
            let store = self.out.join(self.search.store_name(*k));
            let played = player.play(speaking.world(), &tasks, &protocol, round, &store, &bar)?;
            bar.finish();
            ui::say_lost(&played);
            rows.extend(evaluate::table(&self.policy, *k, &played));
            protocols.push(protocol);
        }
        opened.say_losses();
        evaluate::write_csv(&self.out.join("eval.csv"), &rows)?;
        let measured = Measured {
            rows,
            protocols,
            suite: suite.hash(),
            policy_hash: player.name(),
            seed: self.seed,
            seconds: started.elapsed().as_secs_f64(),
            run: self.out,
        };
        let path = measured.run.join("eval.json");
        let text = serde_json::to_string_pretty(&measured)?;
        std::fs::write(&path, text + "\n").with_context(|| format!("cannot use {}", path.display()))?;
        if self.json {
            ui::print_json(&measured)?;
        } else {
            ui::print_rows(&measured.rows);
            for protocol in &measured.protocols {
                ui::print(&format!("K = {}: {}\n", protocol.best_of, evaluate::protocol_line(protocol)));
            }
            ui::print(&format!(
                "suite {}, policy {}, seed {}\n",
                &measured.suite[..16],
                measured.policy_hash,
                measured.seed
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}
