//! hearth's side of the benchmark: `hearth train` in a process of its own, so that the figures are
//! those of users.

use super::workload::{UpdateLosses, Workload};
use crate::bench::measure::{median, status_kib};
use agent::inference::device::DeviceChoice;
use anyhow::{Context, ensure};
use scenarios::store::Store;
use serde::Deserialize;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The first updates, which warm up and do not count.
const WARM_UP_UPDATES: usize = 2;

/// What one run of `hearth train` measured.
pub(super) struct HearthTraining {
    /// Median time of an update.
    pub(super) seconds: f64,
    pub(super) losses: Vec<UpdateLosses>,
    pub(super) memory_mib: Option<u64>,
}

/// The columns of `metrics.csv` that the benchmark reads.
#[derive(Deserialize)]
struct LoggedUpdate {
    #[serde(rename = "loss/policy")]
    loss_policy: Option<f64>,
    #[serde(rename = "loss/value")]
    loss_value: Option<f64>,
    #[serde(rename = "loss/after_value")]
    loss_after_value: Option<f64>,
    #[serde(rename = "kl/exact")]
    kl_exact: Option<f64>,
    seconds: f64,
}

impl HearthTraining {
    /// Runs `hearth train` on the batch. If the job file and the store are already written, they
    /// are used again.
    pub(super) fn run(workload: &Workload<'_>) -> anyhow::Result<Self> {
        let file = workload.scratch.join("job.toml");
        let data = workload.scratch.join("batch.jsonl");
        let model = workload.scratch.join("model");
        let out = workload.scratch.join("out");
        if out.exists() {
            std::fs::remove_dir_all(&out)
                .with_context(|| format!("cannot remove {}", out.display()))?;
        } else {
            let job = toml::to_string(workload.job)?;
            std::fs::write(&file, job)
                .with_context(|| format!("cannot write {}", file.display()))?;
            let (mut store, _) = Store::open(&data)?;
            workload
                .batch
                .iter()
                .try_for_each(|trajectory| store.append(trajectory))?;
        }
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("train")
            .arg(&file)
            .arg("--data")
            .arg(&data)
            .arg("--from")
            .arg(&model)
            .arg("--out")
            .arg(&out)
            .args(["--device", &workload.device.to_string()]);
        let mut child = command
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start hearth")?;
        let memory_mib = peak_memory_mib(&mut child)?;
        let status = child.wait()?;
        ensure!(
            status.success(),
            "hearth train failed ({status}); its messages are above"
        );
        let path = out.join("metrics.csv");
        let mut reader = csv::Reader::from_path(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let updates = reader
            .deserialize()
            .collect::<Result<Vec<LoggedUpdate>, _>>()?;
        let counted = updates.iter().skip(WARM_UP_UPDATES);
        Ok(Self {
            seconds: median(counted.map(|update| update.seconds).collect()),
            losses: updates.iter().map(LoggedUpdate::losses).collect(),
            // The memory of a GPU is not the process's.
            memory_mib: memory_mib.filter(|_| workload.device == DeviceChoice::Cpu),
        })
    }
}

impl LoggedUpdate {
    fn losses(&self) -> UpdateLosses {
        let all = [
            ("policy", self.loss_policy),
            ("value", self.loss_value),
            ("after_value", self.loss_after_value),
            ("kl", self.kl_exact),
        ];
        all.into_iter()
            .filter_map(|(name, loss)| Some((name.to_string(), loss?)))
            .collect()
    }
}

/// Waits until a process ends and returns its peak memory, which is sampled every 20 ms; `None` if
/// the system does not report it. Linux does.
fn peak_memory_mib(child: &mut Child) -> anyhow::Result<Option<u64>> {
    let mut peak = None;
    while child.try_wait()?.is_none() {
        peak = peak.max(status_kib(child.id(), "VmHWM"));
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(peak.map(|kib| kib >> 10))
}
