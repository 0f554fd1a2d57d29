//! Speed of the Python world through the bridge, and the overhead of the bridge against the same
//! loop in plain Python.

use super::parallel::for_each_index;
use super::report::{BridgeOverhead, ProcessScaling, WorldSpeed};
use super::walk::GameWalk;
use crate::args::world::PythonArgs;
use crate::bench::measure::median;
use crate::ui;
use anyhow::Context;
use env_bridge::python::{BARE_LOOP, PYTHON_EXECUTABLE, PythonWorld, Venv};
use scenarios::World;
use serde::Deserialize;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// Times of one game, in seconds.
#[derive(Debug, Clone, Copy, Deserialize)]
struct GameTimes {
    load: f64,
    reset: f64,
    steps: f64,
}

impl GameTimes {
    fn total(self) -> f64 {
        self.load + self.reset + self.steps
    }
}

pub(super) fn measure(
    arguments: &PythonArgs,
    walks: &[GameWalk<'_>],
) -> anyhow::Result<(Option<WorldSpeed>, Option<BridgeOverhead>)> {
    let world =
        PythonWorld::start(arguments.options(1)?).map_err(|e| ui::WrongUse(e.to_string()))?;
    let python = arguments
        .venv()?
        .as_ref()
        .map_or_else(|| PathBuf::from(PYTHON_EXECUTABLE), Venv::python);
    let mut bare = BareLoop::start(&python)?;
    // A warm-up that does not count: the first game imports the planner.
    bare.play(&walks[0])?;
    play_through_bridge(&world, &walks[0])?;
    let bar = ui::bar("python world");
    bar.set_length(walks.len() as u64);
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for (index, walk) in walks.iter().enumerate() {
        if index % 2 == 0 {
            ours.push(play_through_bridge(&world, walk)?);
        }
        theirs.push(bare.play(walk)?);
        if index % 2 == 1 {
            ours.push(play_through_bridge(&world, walk)?);
        }
        bar.inc(1);
    }
    bar.finish();
    let memory_mib = world.idle().iter().sum();
    drop((world, bare));
    let commands: usize = walks.iter().map(|walk| walk.commands.len()).sum();
    let speed = WorldSpeed {
        commands_per_s: commands as f64 / ours.iter().map(|times| times.steps).sum::<f64>(),
        load_ms: 1e3 * median(ours.iter().map(|times| times.load).collect()),
        reset_ms: 1e3 * median(ours.iter().map(|times| times.reset).collect()),
        memory_mib,
        clone_ns: None,
    };
    let bridge_seconds = total_seconds(&ours);
    let bare_seconds = total_seconds(&theirs);
    let scaling = (1..=arguments.processes(walks.len()))
        .map(|processes| scaling(arguments, walks, processes))
        .collect::<anyhow::Result<_>>()?;
    let bridge = BridgeOverhead {
        bare_seconds,
        bridge_seconds,
        overhead: bridge_seconds / bare_seconds - 1.0,
        scaling,
    };
    Ok((Some(speed), Some(bridge)))
}

fn total_seconds(times: &[GameTimes]) -> f64 {
    times.iter().map(|times| times.total()).sum()
}

fn play_through_bridge(world: &PythonWorld, walk: &GameWalk<'_>) -> anyhow::Result<GameTimes> {
    let start = Instant::now();
    let mut environment = world.open(walk.task)?;
    let load = start.elapsed().as_secs_f64();
    let start = Instant::now();
    environment.reset()?;
    let reset = start.elapsed().as_secs_f64();
    let start = Instant::now();
    for command in &walk.commands {
        environment.step(command)?;
        environment.admissible_commands()?;
    }
    Ok(GameTimes {
        load,
        reset,
        steps: start.elapsed().as_secs_f64(),
    })
}

/// The same loop without hearth, in a separate Python process.
struct BareLoop {
    child: Child,
}

impl BareLoop {
    fn start(python: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(python);
        command
            .args(["-c", BARE_LOOP])
            .env("PYTHONHASHSEED", "0")
            .env("OMP_NUM_THREADS", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", python.display()))?;
        let mut bare = Self { child };
        let ready = bare.read_line()?;
        anyhow::ensure!(
            ready.trim() == "ready",
            "the plain Python loop returned {ready:?} instead of `ready`"
        );
        Ok(bare)
    }

    fn play(&mut self, walk: &GameWalk<'_>) -> anyhow::Result<GameTimes> {
        let job =
            serde_json::json!({"game": walk.task.path.canonicalize()?, "commands": walk.commands});
        let pipe = self.child.stdin.as_mut().context("stdin is closed")?;
        writeln!(pipe, "{job}")?;
        pipe.flush()?;
        let line = self.read_line()?;
        serde_json::from_str(&line)
            .with_context(|| format!("the plain Python loop returned {line:?}"))
    }

    /// Reads one line. The process writes nothing more before the next request, so no bytes are
    /// lost with the buffer.
    fn read_line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        BufReader::new(self.child.stdout.as_mut().context("stdout is closed")?)
            .read_line(&mut line)?;
        Ok(line)
    }
}

impl Drop for BareLoop {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Plays all games with `processes` workers at once.
fn scaling(
    arguments: &PythonArgs,
    walks: &[GameWalk<'_>],
    processes: usize,
) -> anyhow::Result<ProcessScaling> {
    let mut options = arguments.options(processes)?;
    options.workers = processes;
    let world = PythonWorld::start(options).map_err(|e| ui::WrongUse(e.to_string()))?;
    let commands: usize = walks.iter().map(|walk| walk.commands.len()).sum();
    for_each_index(processes, processes, |index| {
        play_through_bridge(&world, &walks[index % walks.len()]).map(drop)
    })?;
    let start = Instant::now();
    for_each_index(walks.len(), processes, |index| {
        play_through_bridge(&world, &walks[index]).map(drop)
    })?;
    Ok(ProcessScaling {
        processes,
        commands_per_s: commands as f64 / start.elapsed().as_secs_f64(),
    })
}
