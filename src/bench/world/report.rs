//! What `hearth bench world` prints.

use crate::ui;
use serde::Serialize;

/// Speed and memory of one world.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct WorldSpeed {
    /// In one environment; each command returns observation, admissible commands and status.
    pub(super) commands_per_s: f64,
    /// Median over games.
    pub(super) load_ms: f64,
    /// Median over games.
    pub(super) reset_ms: f64,
    /// Resident memory of the process.
    pub(super) memory_mib: u64,
    /// Time to copy a state; `None` if the world cannot copy one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) clone_ns: Option<f64>,
}

#[derive(Serialize)]
pub(super) struct WorldBenchReport {
    pub(super) games: usize,
    pub(super) commands: usize,
    pub(super) native: WorldSpeed,
    pub(super) python: Option<WorldSpeed>,
    /// Commands per second of the native world divided by those of the Python world.
    pub(super) ratio: Option<f64>,
    pub(super) bridge: Option<BridgeOverhead>,
}

/// The bridge against the same loop in plain Python; the two alternate game by game.
#[derive(Serialize)]
pub(super) struct BridgeOverhead {
    pub(super) bare_seconds: f64,
    pub(super) bridge_seconds: f64,
    /// (bridge − bare) / bare over loads, resets and commands of all games.
    pub(super) overhead: f64,
    /// Speed by number of worker processes.
    pub(super) scaling: Vec<ProcessScaling>,
}

/// Speed of the bridge with several worker processes.
#[derive(Serialize)]
pub(super) struct ProcessScaling {
    pub(super) processes: usize,
    /// The time of loads and resets is included.
    pub(super) commands_per_s: f64,
}

impl WorldBenchReport {
    pub(super) fn print(&self) {
        let mut rows = vec![self.native.cells("native")];
        rows.extend(self.python.map(|python| python.cells("python")));
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
        ui::print(&format!(
            "{} games, {} commands, each with observation, admissible commands and status\n",
            self.games, self.commands
        ));
        if let Some(ratio) = self.ratio {
            ui::print(&format!(
                "native against python: {ratio:.0}x in commands/s\n"
            ));
        }
        if let Some(bridge) = &self.bridge {
            bridge.print();
        }
    }
}

impl WorldSpeed {
    fn cells(&self, name: &str) -> Vec<String> {
        vec![
            name.to_string(),
            format!("{:.1}", self.commands_per_s),
            format!("{:.2}", self.load_ms),
            format!("{:.3}", self.reset_ms),
            self.clone_ns.map_or("-".into(), |ns| format!("{ns:.0}")),
            self.memory_mib.to_string(),
        ]
    }
}

impl BridgeOverhead {
    fn print(&self) {
        ui::print(&format!(
            "bridge against the same loop in plain Python: {:+.1} % ({:.1} s, {:.1} s)\n",
            100.0 * self.overhead,
            self.bridge_seconds,
            self.bare_seconds
        ));
        for scaling in &self.scaling {
            ui::print(&format!(
                "{} processes: {:.1} commands/s, loads and resets included\n",
                scaling.processes, scaling.commands_per_s
            ));
        }
    }
}
