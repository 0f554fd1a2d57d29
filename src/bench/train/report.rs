//! What `hearth bench train` prints.

use crate::bench::measure::decimals;
use crate::ui;
use serde::Serialize;

/// Speed and memory of one job, with or without the peer.
#[derive(Debug, Serialize)]
pub(super) struct TrainBenchRow {
    /// The job.
    pub(super) what: String,
    pub(super) model: String,
    /// Trajectories per update.
    pub(super) batch: usize,
    /// Tokens per update.
    pub(super) tokens: usize,
    /// Tokens of the trajectories per second. A token counts once, even if the job has several
    /// networks.
    pub(super) ours: f64,
    pub(super) peer: Option<f64>,
    pub(super) peer_name: Option<String>,
    pub(super) ratio: Option<f64>,
    /// Peak memory of the process, if the system reports it.
    pub(super) memory_mib: Option<u64>,
    pub(super) peer_memory_mib: Option<u64>,
    pub(super) memory_ratio: Option<f64>,
    /// Operations of the matrix products that the job needs, as a share of what the machine can
    /// compute in that time.
    pub(super) share_of_peak: f64,
    /// Largest relative difference of a loss between the two sides, at the first update.
    pub(super) first_loss_off: Option<f64>,
    /// The same, at any update.
    pub(super) loss_off: Option<f64>,
}

#[derive(Serialize)]
pub(super) struct TrainBenchReport {
    pub(super) device: String,
    /// Of the matrix products.
    pub(super) precision: &'static str,
    pub(super) threads: usize,
    /// GFLOP/s: on the CPU in f32, on a GPU in matrix products of the precision.
    pub(super) peak: f64,
    pub(super) rows: Vec<TrainBenchRow>,
}

impl TrainBenchReport {
    pub(super) fn print(&self) {
        let rows: Vec<Vec<String>> = self.rows.iter().map(TrainBenchRow::cells).collect();
        let header = [
            "job",
            "batch",
            "tokens",
            "tokens/s",
            "peer",
            "ratio",
            "memory MiB",
            "peer",
            "ratio",
            "share of peak",
            "first loss difference",
        ];
        ui::print_table(&header, &rows);
        if let Some(row) = self.rows.first() {
            let peer = row
                .peer_name
                .as_ref()
                .map(|name| format!(" Peer: {name}."))
                .unwrap_or_default();
            ui::print(&format!(
                "{}, random weights; {}, {}; {} threads, {:.0} GFLOP/s.{peer}\n",
                row.model, self.device, self.precision, self.threads, self.peak
            ));
        }
    }
}

impl TrainBenchRow {
    fn cells(&self) -> Vec<String> {
        vec![
            self.what.clone(),
            self.batch.to_string(),
            self.tokens.to_string(),
            format!("{:.0}", self.ours),
            decimals(self.peer, 0),
            decimals(self.ratio, 2),
            whole(self.memory_mib),
            whole(self.peer_memory_mib),
            decimals(self.memory_ratio, 2),
            format!("{:.2}", self.share_of_peak),
            self.first_loss_off
                .map_or(String::new(), |off| format!("{off:.1e}")),
        ]
    }
}

fn whole(value: Option<u64>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}
