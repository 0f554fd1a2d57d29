//! A run folder with made-up episodes, and reports of it.

use scenarios::store::Store;
use scenarios::{Candidate, Outcome, Protocol, Spent, Split, TaskType, Trajectory, Turn};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;
use trainer::measure::{csv_file, table};

pub(super) const HOSTILE: &str = "</script><img src=x onerror=\"document.title='taken'\"><!--";

pub(super) const OUTCOMES: [Outcome; 3] =
    [Outcome::Success, Outcome::TurnLimit, Outcome::EnvFailed];

pub(super) fn turn(number: usize, completion: &str) -> Turn {
    Turn {
        observation: format!(
            "You see a cup {number}.\n\nYour task is to: put cup {number} in the safe."
        ),
        observation_tokens: vec![987_654_321],
        completion: completion.into(),
        completion_tokens: vec![987_654_321, 987_654_322],
        logprobs: vec![-0.25, -0.5],
        action: Some(completion.into()),
        value: Some(0.5),
        after_value: Some(0.75),
        ..Turn::default()
    }
}

/// An episode of a seen game (0 to 2) or an unseen game (3 to 5). The completions end in `said`.
pub(super) fn episode(
    game: usize,
    policy: &str,
    best_of: usize,
    said: &str,
    outcome: Outcome,
) -> Trajectory {
    let mut turns = vec![
        turn(game, "go to safe 1"),
        turn(game, &format!("take cup {game} {said}")),
        turn(game, "look"),
    ];
    if best_of > 1 {
        let candidate = |completion: &str, score, count| Candidate {
            completion: completion.into(),
            score,
            count,
            logprob: Some(-0.75),
            log_ratio: Some(0.5),
            after_value: Some(score),
            tokens: Vec::new(),
            returns: Vec::new(),
        };
        turns[0].candidates = vec![
            candidate("go to safe 1", 0.75, 2),
            candidate("examine safe 1", 0.25, 1),
        ];
    }
    if outcome != Outcome::Success {
        turns[2] = Turn {
            action: None,
            completion: "loook".into(),
            ..turns[2].clone()
        };
    }
    let split = if game < 3 {
        Split::ValidSeen
    } else {
        Split::ValidUnseen
    };
    Trajectory {
        format: Trajectory::FORMAT,
        game: format!("{split}/put-{game}"),
        game_hash: format!(
            "{:064x}",
            0xabc_def0_u64.wrapping_mul(game as u64 + 7) << 32
        ),
        split,
        task_type: Some(TaskType::ALL[game % 2]),
        repetition: 0,
        seed: game as u64,
        policy: policy.into(),
        value_policy: None,
        protocol: Protocol {
            best_of,
            temperature: if best_of > 1 { 0.5 } else { 0.0 },
            ..Protocol::default()
        },
        turns,
        last_observation: "Nothing happens.".into(),
        outcome,
        reward: outcome.reward(),
        failure: (outcome == Outcome::EnvFailed).then(|| "the world fell down".into()),
        seconds: 1.5,
        spent: Spent {
            completions: 3 * best_of,
            tokens: 20,
            commands: 3,
        },
        branch: None,
    }
}

pub(super) fn write_store(path: &Path, trajectories: &[Trajectory]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let (mut store, _) = Store::open(path).unwrap();
    trajectories
        .iter()
        .for_each(|trajectory| store.append(trajectory).unwrap());
}

/// Six games from the outcome `first` on, in turn: won, not won, lost because the world failed.
pub(super) fn games(policy: &str, best_of: usize, said: &str, first: usize) -> Vec<Trajectory> {
    (0..6)
        .map(|game| episode(game, policy, best_of, said, OUTCOMES[(game + first) % 3]))
        .collect()
}

/// A run of two iterations with every kind of file that a run can have.
pub(super) fn run() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path();
    let played = [
        (
            "sft",
            "1/eval/sft-k1.jsonl",
            games("sft", 1, "from table 1", 0),
        ),
        (
            "oreo",
            "1/eval/oreo-k1.jsonl",
            games("oreo", 1, "from shelf 1", 1),
        ),
        (
            "oreo",
            "1/eval/oreo-k3.jsonl",
            games("oreo", 3, "from shelf 1", 0),
        ),
        (
            "oreo-2",
            "2/eval/oreo-k1.jsonl",
            games("oreo", 1, "from shelf 1", 0),
        ),
    ];
    let mut rows = Vec::new();
    let baseline = trainer::measure::compare::Baseline::new("sft", &played[0].2);
    for (name, file, trajectories) in &played {
        write_store(&run.join(file), trajectories);
        let mut table = table::table(name, trajectories[0].protocol.best_of, trajectories);
        if *name != "sft" {
            baseline.pair(&mut table, trajectories);
        }
        rows.extend(table);
    }
    csv_file::write_csv(&run.join("eval.csv"), &rows).unwrap();
    write_store(
        &run.join("demonstrations.jsonl"),
        &games("expert", 1, "from bed 1", 0)[..2],
    );
    write_store(
        &run.join("1/rollouts.jsonl"),
        &games("sft", 1, "from box 1", 0)[..1],
    );
    let facts = json!({ "name": "small run", "seed": 7, "suite": "5".repeat(64), "games": 6, "faults": 0, "code": "test", "device": "cpu" });
    fs::write(run.join("run.json"), facts.to_string()).unwrap();
    let recipe = "name = \"small run\"\n[[train]]\nname = \"sft\"\n[[train]]\nname = \"oreo\"\n";
    fs::write(run.join("recipe.toml"), recipe).unwrap();
    fs::write(run.join("suite.jsonl"), "{\"not\":\"a trajectory\"}\n").unwrap();
    for (job, value) in [("sft", ""), ("oreo", "0.5")] {
        fs::create_dir_all(run.join("1").join(job)).unwrap();
        let line = |update: usize| format!("{update},{}.5,{value},{value}\n", 9 - update);
        let text = format!(
            "update,loss/policy,loss/value,kl/exact\n{}",
            (0..9).map(line).collect::<String>()
        );
        fs::write(run.join("1").join(job).join("metrics.csv"), text).unwrap();
    }
    let sweep = "scorer,k,split,n,successes,success_rate,low,high,more\n\
               after_value,1,valid_seen,3,1,0.333,0.06,0.79,x\nafter_value,2,valid_seen,3,2,0.667,0.2,0.94,x\n\
               oracle,1,valid_seen,3,1,0.333,0.06,0.79,x\noracle,2,valid_seen,3,3,1.0,0.44,1.0,x\n";
    fs::write(run.join("sweep.csv"), sweep).unwrap();
    folder
}

pub(super) fn report(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hearth"))
        .arg("report")
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
pub(super) fn written(folder: &Path, more: &[&str]) -> (Value, String) {
    let output = report(&[&[folder.to_str().unwrap(), "--json"], more].concat());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let page = fs::read_to_string(told["path"].as_str().unwrap()).unwrap();
    assert_eq!(told["bytes"], page.len());
    (told, page)
}

#[track_caller]
pub(super) fn refused(arguments: &[&str], expected: &str) {
    let output = report(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.as_str()), (Some(2), expected));
}

pub(super) const DATA: &str = "<script type=\"application/json\" id=\"data\">";

/// The page before, in and after its data.
pub(super) fn parts(page: &str) -> (&str, Value, &str) {
    let (before, rest) = page.split_once(DATA).unwrap();
    let (data, after) = rest.split_once("</script>").unwrap();
    (before, serde_json::from_str(data).unwrap(), after)
}

pub(super) fn titles(data: &Value) -> Vec<&str> {
    data["stores"]
        .as_array()
        .unwrap()
        .iter()
        .map(|store| store["title"].as_str().unwrap())
        .collect()
}

/// A run in which every text from elsewhere is hostile.
pub(super) fn hostile(run: &Path) {
    let mut trajectory = episode(0, HOSTILE, 3, HOSTILE, Outcome::EnvFailed);
    trajectory.game = HOSTILE.into();
    trajectory.failure = Some(HOSTILE.into());
    trajectory.last_observation = HOSTILE.into();
    for turn in &mut trajectory.turns {
        turn.observation = HOSTILE.into();
        turn.completion = HOSTILE.into();
        turn.action = Some(format!("{HOSTILE} "));
        turn.candidates
            .iter_mut()
            .for_each(|candidate| candidate.completion = HOSTILE.into());
    }
    let won = Trajectory {
        outcome: Outcome::Success,
        ..trajectory.clone()
    };
    write_store(
        &run.join("1/eval/<img src=x onerror=alert(1)>-k3.jsonl"),
        &[
            trajectory.clone(),
            Trajectory {
                repetition: 1,
                ..won.clone()
            },
        ],
    );
    write_store(&run.join("episodes-k3.jsonl"), std::slice::from_ref(&won));
    csv_file::write_csv(
        &run.join("eval.csv"),
        &table::table(HOSTILE, 3, std::slice::from_ref(&won)),
    )
    .unwrap();
    fs::write(run.join("recipe.toml"), format!("# {HOSTILE}\n")).unwrap();
    fs::write(
        run.join("run.json"),
        json!({ "name": HOSTILE, "seed": 1, "code": HOSTILE }).to_string(),
    )
    .unwrap();
    let sweep = format!(
        "score,k,split,n,successes,success_rate,low,high\n\"{}\",1,valid_seen,1,1,1,0,1\n",
        HOSTILE.replace('"', "\"\"")
    );
    fs::write(run.join("sweep.csv"), sweep).unwrap();
}
