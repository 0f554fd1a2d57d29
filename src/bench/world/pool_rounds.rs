//! The rounds of `hearth bench pool`, their readings and their report.

use super::parallel::for_each_index;
use super::pool::BenchPool;
use crate::bench::games::BenchmarkGames;
use crate::bench::measure::{milliseconds, status_kib};
use crate::ui;
use anyhow::Context;
use env_bridge::python::PythonWorld;
use scenarios::World;
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What is recorded after one round of games.
#[derive(Debug, Clone, Copy, Serialize)]
struct PoolReading {
    resets: usize,
    /// Resident memory of all workers together: mean over the round, sampled every 50 ms.
    memory_mib: f64,
    /// The maximum in the round.
    memory_mib_most: f64,
    /// Processes that run now.
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
    readings: Vec<PoolReading>,
    /// Mean of the readings after the first 50 resets.
    mean_memory_mib: f64,
    /// The largest difference of one of these readings from their mean, as a share of the mean.
    largest_deviation: f64,
    /// After the pool is dropped.
    processes_left: usize,
    files_left: usize,
}

impl BenchPool {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let games = BenchmarkGames::open(self.suite.as_deref())?;
        let tasks = games.tasks(self.games);
        if tasks.is_empty() {
            return Err(ui::WrongUse("there are no games to load".into()).into());
        }
        let options = self.python.options(usize::MAX)?;
        let processes = options.workers;
        let temporary = options.temporary.clone();
        let world = PythonWorld::start(options).map_err(|e| ui::WrongUse(e.to_string()))?;
        let bar = ui::bar("load and reset");
        bar.set_length(self.resets as u64);
        let start = Instant::now();
        let mut readings = Vec::new();
        let mut done = 0;
        while done < self.resets {
            let round = tasks.len().min(self.resets - done);
            let memory = sample_memory(|| {
                for_each_index(round, processes, |index| {
                    let mut environment = world.open(tasks[index])?;
                    environment.reset()?;
                    environment.step("look")?;
                    Ok(())
                })
            })?;
            done += round;
            bar.set_position(done as u64);
            let counts = world.counts();
            readings.push(PoolReading {
                resets: done,
                memory_mib: one_decimal(memory.iter().sum::<f64>() / memory.len() as f64),
                memory_mib_most: one_decimal(memory.iter().copied().fold(0.0, f64::max)),
                processes: world.idle().len(),
                files: worker_files(&temporary),
                recycled: counts.recycled,
                failed: counts.failed(),
                seconds: (milliseconds(start.elapsed()) / 100.0).round() / 10.0,
            });
        }
        bar.finish();
        drop(world);
        std::thread::sleep(Duration::from_millis(200));
        self.show(&PoolReport::new(processes, readings, &temporary))
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
                "{resets} resets with {} processes: mean memory {:.0} MiB after the first 50 resets, largest \
                 deviation {:.1} %; {} processes and {} files left behind\n",
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

impl PoolReport {
    fn new(processes: usize, readings: Vec<PoolReading>, temporary: &Path) -> Self {
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
        Self {
            processes,
            mean_memory_mib: mean,
            largest_deviation,
            processes_left: children().len(),
            files_left: worker_files(temporary),
            readings,
        }
    }
}

fn one_decimal(mib: f64) -> f64 {
    (mib * 10.0).round() / 10.0
}

/// Does the work and samples the memory of all workers meanwhile, in MiB, at least once.
fn sample_memory(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Vec<f64>> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut samples = Vec::new();
            loop {
                samples.push(children().into_iter().map(resident_mib).sum());
                if done.load(Ordering::Relaxed) {
                    return samples;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let worked = work();
        done.store(true, Ordering::Relaxed);
        let samples = sampler
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        worked.map(|()| samples)
    })
}

/// Returns the resident memory of a process in MiB; 0 if the system does not report it.
fn resident_mib(pid: u32) -> f64 {
    status_kib(pid, "VmRSS").unwrap_or(0) as f64 / 1024.0
}

/// Counts the files and folders in the temporary folders of this process's workers.
fn worker_files(temporary: &Path) -> usize {
    let own = format!("hearth-worker-{}-", std::process::id());
    let entries = std::fs::read_dir(temporary).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&own))
        .map(|entry| std::fs::read_dir(entry.path()).map_or(0, Iterator::count))
        .sum()
}

/// Returns the processes that this process has started and that still run.
fn children() -> Vec<u32> {
    let threads = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let lists = threads
        .map(|thread| std::fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}
