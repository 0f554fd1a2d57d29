//! The measure: every game of the named splits exactly once, success counted by split and task type with Wilson 95 %
//! intervals, the protocol beside the number.

use crate::error::TrainerError;
use crate::statistics::{discordant, mcnemar_exact, wilson_interval};
use agent::episode::{Job, Pool, play_episodes};
use agent::player::Policy;
use indicatif::ProgressBar;
use scenarios::store::Store;
use scenarios::{Outcome, Protocol, Search, Spent, Split, Task, TaskType, Trajectory, World};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What the policy is called in the table.
    pub policy: String,
    /// The split.
    pub split: Split,
    /// The kind of task; `None` = all.
    pub task_type: Option<TaskType>,
    /// Candidates a turn.
    pub k: usize,
    /// Games that were played to an end.
    pub n: usize,
    /// Games won.
    pub successes: usize,
    /// Share of them won; 0 where there are none.
    pub success_rate: f64,
    /// Lower end of the Wilson 95 % interval.
    pub low: f64,
    /// Upper end of the Wilson 95 % interval.
    pub high: f64,
    /// Mean turns of an episode.
    pub mean_turns: f64,
    /// Share of turns that held no command.
    pub malformed_share: f64,
    /// Games lost to the world, or to a server that was to play; they count in no other column.
    pub env_failed: usize,
    /// The policy that this one is paired with, greedy, on the games that both played to an end; empty where there is none.
    #[serde(default)]
    pub against: Option<String>,
    /// Games that only this one won.
    #[serde(default)]
    pub won_alone: Option<u32>,
    /// Games that only the other won.
    #[serde(default)]
    pub lost_alone: Option<u32>,
    /// Exact McNemar test of the two, two-sided.
    #[serde(default)]
    pub p_value: Option<f64>,
    /// The search with copies of the world, where there was one.
    #[serde(default)]
    pub search: Option<String>,
    /// Mean completions written a game, those that were not acted on included; empty where the episodes do not tell.
    #[serde(default)]
    pub mean_completions: Option<f64>,
    /// Mean tokens of them.
    #[serde(default)]
    pub mean_tokens: Option<f64>,
    /// Mean commands a game that the world, or a copy of it, performed.
    #[serde(default)]
    pub mean_commands: Option<f64>,
}

/// What a policy did on each game, for others to be paired with: by split and game.
#[derive(Debug, Clone)]
pub struct Baseline {
    policy: String,
    won: BTreeMap<(Split, String), (bool, Option<TaskType>)>,
}

impl Baseline {
    /// Of episodes, one a game; those lost to the world stand for nothing.
    #[must_use]
    pub fn new(policy: &str, trajectories: &[Trajectory]) -> Self {
        let ended = trajectories.iter().filter(|t| t.outcome != Outcome::EnvFailed);
        let place = |t: &Trajectory| ((t.split, t.game_hash.clone()), (t.outcome == Outcome::Success, t.task_type));
        Self { policy: policy.into(), won: ended.map(place).collect() }
    }

    /// Pairs another policy's rows with this one.
    pub fn pair(&self, rows: &mut [Row], trajectories: &[Trajectory]) {
        let other = Self::new("", trajectories);
        for row in rows {
            let counts = |((split, game), (won, task_type)): (&(Split, String), &(bool, Option<TaskType>))| {
                let is_of_row = *split == row.split && (row.task_type.is_none() || *task_type == row.task_type);
                let (this, _) = other.won.get(&(*split, game.clone())).filter(|_| is_of_row)?;
                Some((*this, *won))
            };
            let (this, that): (Vec<bool>, Vec<bool>) = self.won.iter().filter_map(counts).unzip();
            let (won_alone, lost_alone) = discordant(&this, &that);
            row.against = Some(self.policy.clone());
            (row.won_alone, row.lost_alone) = (Some(won_alone), Some(lost_alone));
            row.p_value = Some(mcnemar_exact(won_alone, lost_alone));
        }
    }
}

/// Counts trajectories into rows: for each split all task types together, then each on its own.
#[must_use]
pub fn table(policy: &str, k: usize, trajectories: &[Trajectory]) -> Vec<Row> {
    let mut groups: BTreeMap<(Split, Option<TaskType>), Vec<&Trajectory>> = BTreeMap::new();
    for trajectory in trajectories {
        groups.entry((trajectory.split, None)).or_default().push(trajectory);
        if trajectory.task_type.is_some() {
            groups.entry((trajectory.split, trajectory.task_type)).or_default().push(trajectory);
        }
    }
    groups.into_iter().map(|((split, task_type), group)| row(policy, k, split, task_type, &group)).collect()
}

fn row(policy: &str, k: usize, split: Split, task_type: Option<TaskType>, group: &[&Trajectory]) -> Row {
    let (lost, ended): (Vec<&Trajectory>, Vec<&Trajectory>) =
        group.iter().partition(|t| t.outcome == Outcome::EnvFailed);
    let n = ended.len();
    let successes = ended.iter().filter(|t| t.outcome == Outcome::Success).count();
    let turns: usize = ended.iter().map(|t| t.turns.len()).sum();
    let malformed: usize = ended.iter().map(|t| t.malformed_turns()).sum();
    let count = |number: usize| u32::try_from(number).expect("fewer than four billion games");
    let (low, high) = wilson_interval(count(successes), count(n), 0.95);
    Row {
        policy: policy.into(),
        split,
        task_type,
        k,
        n,
        successes,
        success_rate: successes as f64 / n.max(1) as f64,
        low,
        high,
        mean_turns: turns as f64 / n.max(1) as f64,
        malformed_share: malformed as f64 / turns.max(1) as f64,
        env_failed: lost.len(),
        against: None,
        won_alone: None,
        lost_alone: None,
        p_value: None,
        search: group[0].protocol.search.map(|search| search.to_string()),
        mean_completions: mean_spent(&ended, |spent| spent.completions),
        mean_tokens: mean_spent(&ended, |spent| spent.tokens),
        mean_commands: mean_spent(&ended, |spent| spent.commands),
    }
}

/// What was spent on a game in the mean; `None` where the episodes are from before anybody counted.
fn mean_spent(ended: &[&Trajectory], part: impl Fn(&Spent) -> usize) -> Option<f64> {
    let told = ended.iter().all(|t| t.spent != Spent::default() || t.turns.is_empty());
    let total: usize = ended.iter().map(|t| part(&t.spent)).sum();
    (told && !ended.is_empty()).then(|| total as f64 / ended.len() as f64)
}

/// Seeds and repetitions of a round of episodes.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Episodes a game.
    pub repetitions: usize,
    /// Seed of the round; each episode's own comes from it, the game's place and the repetition.
    pub seed: u64,
    /// How many at once.
    pub pool: Pool,
}

/// Plays `round.repetitions` episodes of every task into the store at `path`, leaves out those that stand there
/// already, and returns all of them in the order of tasks and repetitions.
///
/// # Errors
/// When the store cannot be read or written, or holds episodes of another round; [`TrainerError::Gone`] when the policy
/// answers no more.
pub fn play_round<P: Policy>(
    policy: &P,
    world: &dyn World,
    tasks: &[&Task],
    protocol: &Protocol,
    round: Round,
    path: &Path,
    progress: &ProgressBar,
) -> Result<Vec<Trajectory>, TrainerError> {
    let (mut store, mut finished) = Store::open(path)?;
    let jobs = jobs(tasks, round);
    let foreign =
        |t: &Trajectory| t.policy != policy.name() || t.value_policy != policy.value_name() || t.protocol != *protocol;
    if let Some(other) = finished.iter().find(|trajectory| foreign(trajectory)) {
        let reason = format!(
            "holds episodes of policy {} under another protocol or policy than {}\nhint: choose another --out, or remove it",
            other.policy,
            policy.name()
        );
        return Err(TrainerError::content(path, reason));
    }
    let done: HashSet<(String, u64)> = finished.iter().map(|t| (t.game_hash.clone(), t.seed)).collect();
    let open: Vec<Job<'_>> =
        jobs.iter().filter(|job| !done.contains(&(job.task.hash.clone(), job.seed))).cloned().collect();
    progress.set_length(jobs.len() as u64);
    progress.set_position((jobs.len() - open.len()) as u64);
    let mut wins = finished.iter().filter(|t| t.reward() > 0.0).count();
    play_episodes(policy, world, &open, protocol, round.pool, |trajectory| {
        if let Some(reason) = policy.gone().filter(|_| trajectory.outcome == Outcome::EnvFailed) {
            return Err(TrainerError::Gone(reason));
        }
        store.append(&trajectory)?;
        wins += usize::from(trajectory.reward() > 0.0);
        finished.push(trajectory);
        progress.inc(1);
        progress.set_message(format!("won {wins} of {}", finished.len()));
        Ok::<(), TrainerError>(())
    })?;
    let place: BTreeMap<(&str, u64), usize> =
        jobs.iter().enumerate().map(|(index, job)| ((job.task.hash.as_str(), job.seed), index)).collect();
    finished.retain(|t| place.contains_key(&(t.game_hash.as_str(), t.seed)));
    finished.sort_by_key(|t| place[&(t.game_hash.as_str(), t.seed)]);
    Ok(finished)
}

fn jobs<'a>(tasks: &[&'a Task], round: Round) -> Vec<Job<'a>> {
    let job = |(index, task): (usize, &&'a Task), repetition: usize| {
        let seed = round.seed.wrapping_mul(1_000_003).wrapping_add((index * round.repetitions + repetition) as u64);
        Job { task, repetition, seed, forced: &[] }
    };
    let repetitions = 0..round.repetitions;
    repetitions.flat_map(|repetition| tasks.iter().enumerate().map(move |place| job(place, repetition))).collect()
}

/// Writes rows as CSV.
///
/// # Errors
/// When the file cannot be written.
pub fn write_csv(path: &Path, rows: &[Row]) -> Result<(), TrainerError> {
    let mut writer = csv::Writer::from_path(path).map_err(|e| TrainerError::content(path, e))?;
    for row in rows {
        writer.serialize(row).map_err(|e| TrainerError::content(path, e))?;
    }
    writer.flush().map_err(TrainerError::file(path))
}

/// Reads rows back.
///
/// # Errors
/// When the file is missing or a row is damaged.
pub fn read_csv(path: &Path) -> Result<Vec<Row>, TrainerError> {
    let mut reader = csv::Reader::from_path(path).map_err(|e| TrainerError::content(path, e))?;
    reader.deserialize().map(|row| row.map_err(|e| TrainerError::content(path, e))).collect()
}

fn decoding(protocol: &Protocol) -> String {
    let (k, temperature) = (protocol.best_of, protocol.temperature);
    let kind = match protocol.search {
        None if (k, temperature) == (1, 0.0) => return "greedy".to_string(),
        None if k == 1 => return format!("temperature {temperature}"),
        None => return format!("best of {k} by value at temperature {temperature}"),
        Some(Search::Beam { width }) => format!("a beam of {width}"),
        Some(Search::BestFirst { budget }) => format!("best first, at most {budget} completions"),
    };
    format!(
        "searched with copies of the world ({kind}, by value after the observation), {k} candidates a state at \
         temperature {temperature}"
    )
}

/// The protocol in one line, to stand beside a number.
#[must_use]
pub fn protocol_line(protocol: &Protocol) -> String {
    let decoding = decoding(protocol);
    let shown = if protocol.admissible_shown { "admissible commands shown" } else { "no admissible list" };
    let translated = protocol.translated_to.map(|text| format!(", translated to text {text}")).unwrap_or_default();
    let told = if protocol.instructions.is_some() { ", with instructions" } else { "" };
    let stop = if protocol.stop.is_empty() { String::new() } else { format!(", stopped at {:?}", protocol.stop) };
    format!(
        "each game once, {} turns, {} history, {shown}{translated}{told}, {decoding}{stop}, malformed = {}, success = won",
        protocol.turn_limit, protocol.history, protocol.malformed
    )
}
