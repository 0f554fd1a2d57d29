//! `hearth bench`: speed, always as a ratio against a named peer in the same run.

mod inference;
mod train;

use crate::args::world::PythonArgs;
use crate::scratch::Scratch;
use crate::ui;
use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueHint};
use env_bridge::NativeWorld;
use scenarios::household::{self, GenerateOptions, Size};
use scenarios::{Environment, Suite, Task, World};
use serde::Serialize;
use std::hint::black_box;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// The native world against the Python world, and the bridge against the same Python loop without it
    World(BenchWorld),
    /// Reading, writing and whole episodes of a model, against llama.cpp and transformers on the same weights
    #[command(name = "inference", alias = "mind")]
    Mind(inference::BenchMind),
    /// Learning on the CPU: speed and memory of jobs, against PyTorch with the same weights, batch and optimizer
    Train(train::BenchTrain),
    /// Memory, processes and files of a pool of Python workers over many resets
    Concurrency(BenchPool),
}

#[derive(Args)]
pub(crate) struct BenchWorld {
    /// Folder of games (ALFWorld's layout), manifest or game.tw-pddl; without it, generated games of ALFWorld's size
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: Option<PathBuf>,
    /// Games to play, spread evenly
    #[arg(long, default_value_t = 12)]
    games: usize,
    /// Commands a game: its walkthrough, then random admissible ones
    #[arg(long, default_value_t = 30)]
    turns: usize,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    python: PythonArgs,
}

#[derive(Args)]
pub(crate) struct BenchPool {
    /// Folder of games (ALFWorld's layout), manifest or game.tw-pddl; without it, generated games of ALFWorld's size
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: Option<PathBuf>,
    /// Games to load and reset, each followed by one command
    #[arg(long, default_value_t = 1000)]
    resets: usize,
    /// Games to go round in, spread evenly over the suite; a reading is taken after each round, so that every reading
    /// is of the same work
    #[arg(long, default_value_t = 20)]
    games: usize,
    /// Where to write the readings, CSV
    #[arg(long, value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    python: PythonArgs,
}

/// A game and the commands to play in it.
struct Walk<'a> {
    task: &'a Task,
    commands: Vec<String>,
}

/// What one world takes.
#[derive(Debug, Clone, Copy, Serialize)]
struct Speed {
    /// With observation, admissible list and status of each; one environment.
    commands_per_s: f64,
    /// Median over games.
    load_ms: f64,
    /// Median over games.
    reset_ms: f64,
    /// Resident memory of the process.
    memory_mib: u64,
    /// Time to copy a state; only where a world can do that.
    #[serde(skip_serializing_if = "Option::is_none")]
    clone_ns: Option<f64>,
}

#[derive(Serialize)]
struct Report {
    games: usize,
    commands: usize,
    native: Speed,
    python: Option<Speed>,
    /// Commands a second, native against Python.
    ratio: Option<f64>,
    bridge: Option<Bridge>,
}

/// The bridge beside the same loop in plain Python, game by game in turn.
#[derive(Serialize)]
struct Bridge {
    bare_seconds: f64,
    bridge_seconds: f64,
    /// (bridge − bare) / bare over loads, resets and commands of all games.
    overhead: f64,
    /// Commands, loads and resets included, by number of worker processes.
    scaling: Vec<Scaling>,
}

#[derive(Serialize)]
struct Scaling {
    processes: usize,
    commands_per_s: f64,
}

impl Bench {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::World(command) => command.run(),
            Self::Mind(command) => command.run(),
            Self::Train(command) => command.run(),
            Self::Concurrency(command) => command.run(),
        }
    }
}

/// The games to play; generated ones go with this.
struct Games {
    suite: Suite,
    _scratch: Option<Scratch>,
}

impl Games {
    fn open(suite: Option<&PathBuf>) -> anyhow::Result<Self> {
        if let Some(path) = suite {
            return Ok(Self {
                suite: crate::commands::data::scenarios::open(path)?,
                _scratch: None,
            });
        }
        let scratch = Scratch::new();
        let options = GenerateOptions {
            size: Size::Full,
            train: 24,
            valid_train: 6,
            seen: 6,
            unseen: 6,
            ..Default::default()
        };
        Ok(Self {
            suite: household::generate(scratch.path(), &options)?,
            _scratch: Some(scratch),
        })
    }

    /// As many tasks, spread evenly.
    fn tasks(&self, games: usize) -> Vec<&Task> {
        let all: Vec<&Task> = self.suite.tasks.iter().collect();
        let games = games.min(all.len());
        (0..games)
            .map(|index| all[index * all.len() / games])
            .collect()
    }
}

impl BenchWorld {
    fn run(self) -> anyhow::Result<ExitCode> {
        let games = Games::open(self.suite.as_ref())?;
        let world = NativeWorld::new();
        let tasks = games.tasks(self.games);
        let walks = tasks
            .into_iter()
            .map(|task| walk(&world, task, self.turns))
            .collect::<anyhow::Result<Vec<_>>>()?;
        if walks.is_empty() {
            return Err(ui::WrongUse("there are no games to play".into()).into());
        }
        let native = native(&walks)?;
        let (python, bridge) = python::measure(&self.python, &walks)?;
        let ratio = python.map(|python| native.commands_per_s / python.commands_per_s);
        let commands = walks.iter().map(|walk| walk.commands.len()).sum();
        let report = Report {
            games: walks.len(),
            commands,
            native,
            python,
            ratio,
            bridge,
        };
        if self.json {
            ui::print_json(&report)?;
        } else {
            print(&report);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The game's walkthrough, then admissible commands picked by a fixed rule.
fn walk<'a>(world: &NativeWorld, task: &'a Task, turns: usize) -> anyhow::Result<Walk<'a>> {
    let game = world.game(&task.path)?;
    let mut environment = world.open(task)?;
    environment.reset()?;
    let mut commands: Vec<String> = Vec::with_capacity(turns);
    let walkthrough = game.walkthrough().unwrap_or_default();
    while commands.len() < turns {
        let admissible = environment.admissible_commands()?;
        let command = match walkthrough.get(commands.len()) {
            Some(command) => command.clone(),
            None => admissible[commands.len() * 7919 % admissible.len()].clone(),
        };
        environment.step(&command)?;
        commands.push(command);
    }
    Ok(Walk { task, commands })
}

/// What a script says under the Python of `command`, which reads it from its stdin; its talk goes to stderr.
fn peer_says(command: &mut Command, script: &str) -> anyhow::Result<String> {
    let name = command.get_program().display().to_string();
    let mut child =
        (command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()).map_err(|error| {
            ui::WrongUse(format!("{name}: {error}\nhint: name a Python interpreter"))
        })?;
    child
        .stdin
        .take()
        .context("a pipe to the peer")?
        .write_all(script.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{name} could not measure ({}); its words stand above",
            output.status
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn memory_mib() -> u64 {
    memory_stats::memory_stats().map_or(0, |stats| stats.physical_mem as u64 >> 20)
}

/// Every game for itself, then all commands over and over for two seconds.
fn native(walks: &[Walk<'_>]) -> anyhow::Result<Speed> {
    let world = NativeWorld::new();
    let (mut loads, mut resets, mut environments) = (Vec::new(), Vec::new(), Vec::new());
    for Walk { task, .. } in walks.iter().chain(walks) {
        let start = Instant::now();
        let mut environment = env_bridge::NativeEnvironment::new(world.game(&task.path)?);
        loads.push(milliseconds(start.elapsed()));
        let start = Instant::now();
        black_box(environment.reset()?);
        resets.push(milliseconds(start.elapsed()));
        environments.push(environment);
    }
    let (mut commands, mut spent) = (0, Duration::ZERO);
    while spent < Duration::from_secs(2) {
        for (walk, environment) in walks.iter().zip(&mut environments) {
            environment.reset()?;
            let start = Instant::now();
            for command in &walk.commands {
                black_box(environment.step(command)?);
                black_box(environment.admissible_commands()?);
            }
            spent += start.elapsed();
            commands += walk.commands.len();
        }
    }
    let copies = 100_000;
    let start = Instant::now();
    for index in 0..copies {
        black_box(environments[index % environments.len()].snapshot());
    }
    Ok(Speed {
        commands_per_s: commands as f64 / spent.as_secs_f64(),
        load_ms: median(loads),
        reset_ms: median(resets),
        memory_mib: memory_mib(),
        clone_ns: Some(start.elapsed().as_secs_f64() * 1e9 / f64::from(u32::try_from(copies)?)),
    })
}

fn print(report: &Report) {
    let row = |name: &str, speed: &Speed| {
        vec![
            name.to_string(),
            format!("{:.1}", speed.commands_per_s),
            format!("{:.2}", speed.load_ms),
            format!("{:.3}", speed.reset_ms),
            speed.clone_ns.map_or("-".into(), |ns| format!("{ns:.0}")),
            speed.memory_mib.to_string(),
        ]
    };
    let mut rows = vec![row("native", &report.native)];
    rows.extend(report.python.as_ref().map(|python| row("python", python)));
    ui::print_table(
        &[
            "world",
            "commands/s",
            "load ms",
            "reset ms",
            "clone ns",
            "memory MiB",
        ],
        &rows,
    );
    let (games, commands) = (report.games, report.commands);
    ui::print(&format!(
        "{games} games, {commands} commands, each with observation, admissible list and status\n"
    ));
    if let Some(ratio) = report.ratio {
        ui::print(&format!(
            "native against python: {ratio:.0}x in commands/s\n"
        ));
    }
    if let Some(bridge) = &report.bridge {
        ui::print(&format!(
            "bridge against the same loop in plain Python: {:+.1} % ({:.1} s, {:.1} s)\n",
            100.0 * bridge.overhead,
            bridge.bridge_seconds,
            bridge.bare_seconds
        ));
        for Scaling {
            processes,
            commands_per_s,
        } in &bridge.scaling
        {
            ui::print(&format!(
                "{processes} processes: {commands_per_s:.1} commands/s, loads and resets included\n"
            ));
        }
    }
}

#[cfg(not(feature = "python"))]
mod python {
    use super::{BenchPool, Bridge, ExitCode, PythonArgs, Speed, Walk, ui};
    use crate::args::world::WITHOUT_PYTHON;

    pub(super) fn measure(
        _: &PythonArgs,
        _: &[Walk<'_>],
    ) -> anyhow::Result<(Option<Speed>, Option<Bridge>)> {
        eprintln!("only the native world is measured: {WITHOUT_PYTHON}");
        Ok((None, None))
    }

    impl BenchPool {
        #[expect(clippy::unused_self, reason = "the other build uses it")]
        pub(super) fn run(self) -> anyhow::Result<ExitCode> {
            Err(ui::WrongUse(WITHOUT_PYTHON.into()).into())
        }
    }
}

#[cfg(feature = "python")]
mod python {
    use super::{
        BenchPool, Bridge, Duration, ExitCode, Games, Instant, PythonArgs, Scaling, Serialize,
        Speed, Walk, World, median, milliseconds, ui,
    };
    use anyhow::Context;
    use env_bridge::python::{BARE_LOOP, PYTHON_EXECUTABLE, PythonWorld, Venv};
    use serde::Deserialize;
    use std::io::{BufRead, BufReader, Write};
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// Seconds for one game.
    #[derive(Debug, Clone, Copy, Deserialize)]
    struct Times {
        load: f64,
        reset: f64,
        steps: f64,
    }

    impl Times {
        fn all(self) -> f64 {
            self.load + self.reset + self.steps
        }
    }

    pub(super) fn measure(
        arguments: &PythonArgs,
        walks: &[Walk<'_>],
    ) -> anyhow::Result<(Option<Speed>, Option<Bridge>)> {
        let world =
            PythonWorld::start(arguments.options(1)?).map_err(|e| ui::WrongUse(e.to_string()))?;
        let python = arguments
            .venv()?
            .as_ref()
            .map_or_else(|| PathBuf::from(PYTHON_EXECUTABLE), Venv::python);
        let mut bare = Bare::start(&python)?;
        // Once unmeasured: the first game imports the planner.
        bare.play(&walks[0])?;
        through_bridge(&world, &walks[0])?;
        let bar = ui::bar("python world");
        bar.set_length(walks.len() as u64);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for (index, walk) in walks.iter().enumerate() {
            if index % 2 == 0 {
                ours.push(through_bridge(&world, walk)?);
            }
            theirs.push(bare.play(walk)?);
            if index % 2 == 1 {
                ours.push(through_bridge(&world, walk)?);
            }
            bar.inc(1);
        }
        bar.finish();
        let memory_mib = world.idle().iter().sum();
        drop((world, bare));
        let commands: usize = walks.iter().map(|walk| walk.commands.len()).sum();
        let speed = Speed {
            commands_per_s: commands as f64 / ours.iter().map(|times| times.steps).sum::<f64>(),
            load_ms: 1e3 * median(ours.iter().map(|times| times.load).collect()),
            reset_ms: 1e3 * median(ours.iter().map(|times| times.reset).collect()),
            memory_mib,
            clone_ns: None,
        };
        let total = |times: &[Times]| times.iter().map(|times| times.all()).sum::<f64>();
        let (bridge_seconds, bare_seconds) = (total(&ours), total(&theirs));
        let most = arguments.processes(walks.len());
        let scaling = (1..=most)
            .map(|processes| scaling(arguments, walks, processes))
            .collect::<anyhow::Result<_>>()?;
        let overhead = bridge_seconds / bare_seconds - 1.0;
        Ok((
            Some(speed),
            Some(Bridge {
                bare_seconds,
                bridge_seconds,
                overhead,
                scaling,
            }),
        ))
    }

    fn through_bridge(world: &PythonWorld, walk: &Walk<'_>) -> anyhow::Result<Times> {
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
        Ok(Times {
            load,
            reset,
            steps: start.elapsed().as_secs_f64(),
        })
    }

    /// The loop without hearth, in a Python process of its own.
    struct Bare {
        child: Child,
    }

    impl Bare {
        fn start(python: &std::path::Path) -> anyhow::Result<Self> {
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
            let ready = bare.read()?;
            anyhow::ensure!(
                ready.trim() == "ready",
                "the plain Python loop says {ready:?}"
            );
            Ok(bare)
        }

        fn play(&mut self, walk: &Walk<'_>) -> anyhow::Result<Times> {
            let job = serde_json::json!({"game": walk.task.path.canonicalize()?, "commands": walk.commands});
            let pipe = self.child.stdin.as_mut().context("the pipe is open")?;
            writeln!(pipe, "{job}")?;
            pipe.flush()?;
            let line = self.read()?;
            serde_json::from_str(&line)
                .with_context(|| format!("the plain Python loop says {line:?}"))
        }

        /// One line; the process writes no further before it is asked again, so nothing is left in the buffer.
        fn read(&mut self) -> anyhow::Result<String> {
            let mut line = String::new();
            BufReader::new(self.child.stdout.as_mut().context("the pipe is open")?)
                .read_line(&mut line)?;
            Ok(line)
        }
    }

    impl Drop for Bare {
        fn drop(&mut self) {
            drop(self.child.stdin.take());
            let _ = self.child.wait();
        }
    }

    /// All games by as many processes at once.
    fn scaling(
        arguments: &PythonArgs,
        walks: &[Walk<'_>],
        processes: usize,
    ) -> anyhow::Result<Scaling> {
        let mut options = arguments.options(processes)?;
        options.workers = processes;
        let world = PythonWorld::start(options).map_err(|e| ui::WrongUse(e.to_string()))?;
        let commands: usize = walks.iter().map(|walk| walk.commands.len()).sum();
        each(processes, processes, |index| {
            through_bridge(&world, &walks[index % walks.len()]).map(drop)
        })?;
        let start = Instant::now();
        each(walks.len(), processes, |index| {
            through_bridge(&world, &walks[index]).map(drop)
        })?;
        Ok(Scaling {
            processes,
            commands_per_s: commands as f64 / start.elapsed().as_secs_f64(),
        })
    }

    /// Does the work of each index, in as many threads.
    fn each(
        count: usize,
        threads: usize,
        work: impl Fn(usize) -> anyhow::Result<()> + Sync,
    ) -> anyhow::Result<()> {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let one = || -> anyhow::Result<()> {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return Ok(());
                    }
                    work(index)?;
                }
            };
            let all: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
            all.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })
    }

    #[derive(Debug, Clone, Copy, Serialize)]
    struct Reading {
        resets: usize,
        /// Resident memory of all workers together: mean over the round, looked at every 50 ms.
        memory_mib: f64,
        /// The most in the round.
        memory_mib_most: f64,
        /// Running now.
        processes: usize,
        /// Files of the workers in the folder for temporary files.
        files: usize,
        recycled: usize,
        failed: usize,
        seconds: f64,
    }

    #[derive(Serialize)]
    struct PoolReport {
        processes: usize,
        readings: Vec<Reading>,
        /// Mean of the readings after the first 50 resets, and how far one lies from it at most, as a share.
        mean_memory_mib: f64,
        largest_deviation: f64,
        /// After the pool is dropped.
        processes_left: usize,
        files_left: usize,
    }

    impl BenchPool {
        pub(super) fn run(self) -> anyhow::Result<ExitCode> {
            let games = Games::open(self.suite.as_ref())?;
            let tasks = games.tasks(self.games);
            if tasks.is_empty() {
                return Err(ui::WrongUse("there are no games to load".into()).into());
            }
            let options = self.python.options(usize::MAX)?;
            let (processes, temporary) = (options.workers, options.temporary.clone());
            let world = PythonWorld::start(options).map_err(|e| ui::WrongUse(e.to_string()))?;
            let bar = ui::bar("load and reset");
            bar.set_length(self.resets as u64);
            let (start, mut readings, mut done) = (Instant::now(), Vec::new(), 0);
            while done < self.resets {
                let round = tasks.len().min(self.resets - done);
                let memory = watched(|| {
                    each(round, processes, |index| {
                        let mut environment = world.open(tasks[index])?;
                        environment.reset()?;
                        environment.step("look")?;
                        Ok(())
                    })
                })?;
                done += round;
                bar.set_position(done as u64);
                let counts = world.counts();
                let rounded = |mib: f64| (mib * 10.0).round() / 10.0;
                readings.push(Reading {
                    resets: done,
                    memory_mib: rounded(memory.iter().sum::<f64>() / memory.len() as f64),
                    memory_mib_most: rounded(memory.iter().copied().fold(0.0, f64::max)),
                    processes: world.idle().len(),
                    files: files(&temporary),
                    recycled: counts.recycled,
                    failed: counts.failed(),
                    seconds: (milliseconds(start.elapsed()) / 100.0).round() / 10.0,
                });
            }
            bar.finish();
            drop(world);
            std::thread::sleep(Duration::from_millis(200));
            let later = readings
                .iter()
                .filter(|reading| reading.resets > 50)
                .map(|reading| reading.memory_mib);
            let (sum, count) = later.clone().fold((0.0, 0.0), |(sum, count), memory| {
                (sum + memory, count + 1.0)
            });
            let mean: f64 = sum / f64::max(count, 1.0);
            let largest_deviation = later
                .map(|memory| (memory / mean - 1.0).abs())
                .fold(0.0, f64::max);
            let report = PoolReport {
                processes,
                mean_memory_mib: mean,
                largest_deviation,
                processes_left: children().len(),
                files_left: files(&temporary),
                readings,
            };
            self.show(&report)
        }

        fn show(&self, report: &PoolReport) -> anyhow::Result<ExitCode> {
            if let Some(path) = &self.out {
                let mut writer = csv::Writer::from_path(path)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                for reading in &report.readings {
                    writer.serialize(reading)?;
                }
                writer.flush()?;
            }
            if self.json {
                ui::print_json(report)?;
            } else {
                let resets = report.readings.last().map_or(0, |reading| reading.resets);
                ui::print(&format!(
                    "{resets} resets through {} processes: {:.0} MiB in the mean after the first 50, at most {:.1} % from it; \
                     {} processes and {} files left behind\n",
                    report.processes,
                    report.mean_memory_mib,
                    100.0 * report.largest_deviation,
                    report.processes_left,
                    report.files_left
                ));
            }
            Ok(ExitCode::from(u8::from(
                report.processes_left + report.files_left > 0,
            )))
        }
    }

    /// Does the work and looks at the memory of all workers meanwhile, MiB; at least once.
    fn watched(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Vec<f64>> {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut readings = Vec::new();
                loop {
                    readings.push(children().into_iter().map(resident_mib).sum());
                    if done.load(Ordering::Relaxed) {
                        return readings;
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            let worked = work();
            done.store(true, Ordering::Relaxed);
            let readings = watch
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            worked.map(|()| readings)
        })
    }

    /// Resident MiB of another process; 0 where the system does not tell.
    fn resident_mib(pid: u32) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<u32>().ok());
        f64::from(kib.unwrap_or(0)) / 1024.0
    }

    /// Files and folders below the folders of this process's workers.
    fn files(temporary: &std::path::Path) -> usize {
        let own = format!("hearth-worker-{}-", std::process::id());
        let below = |folder: PathBuf| std::fs::read_dir(folder).map_or(0, Iterator::count);
        let entries = std::fs::read_dir(temporary).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&own))
            .map(|entry| below(entry.path()))
            .sum()
    }

    /// Processes that this one has started and that still run.
    fn children() -> Vec<u32> {
        let threads = std::fs::read_dir("/proc/self/task")
            .into_iter()
            .flatten()
            .flatten();
        let lists = threads.map(|thread| {
            std::fs::read_to_string(thread.path().join("children")).unwrap_or_default()
        });
        lists
            .flat_map(|list| {
                list.split_whitespace()
                    .filter_map(|pid| pid.parse().ok())
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}
