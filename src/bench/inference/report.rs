//! What `hearth bench inference` prints.

use super::peers::PeerSpeed;
use crate::bench::measure::decimals;
use crate::ui;
use scenarios::{KvFormat, WeightFormat};
use serde::Serialize;

/// One speed. If peers were measured, there is one row per peer.
#[derive(Debug, Clone, Serialize)]
pub(super) struct InferenceRow {
    /// `prefill`, `decode` or `episodes`.
    pub(super) what: &'static str,
    pub(super) model: String,
    pub(super) weights: WeightFormat,
    pub(super) batch: usize,
    /// Tokens per second of all sequences: prefilled, decoded, or written in whole episodes.
    pub(super) ours: f64,
    pub(super) peer: Option<f64>,
    pub(super) peer_name: Option<String>,
    pub(super) ratio: Option<f64>,
    /// Share of the roofline limit: memory bandwidth or arithmetic, whichever is lower. `None` for
    /// episodes.
    pub(super) share_of_limit: Option<f64>,
}

/// The hardware limits for one weight format.
#[derive(Debug, Serialize)]
pub(super) struct HardwareLimits {
    pub(super) weights: WeightFormat,
    /// Memory bandwidth in GB/s.
    pub(super) memory: f64,
    /// GFLOP/s: in f32 on the CPU, of matrix products on a GPU.
    pub(super) peak: f64,
}

#[derive(Serialize)]
pub(super) struct InferenceReport {
    pub(super) device: String,
    pub(super) kv: KvFormat,
    pub(super) threads: usize,
    pub(super) ceilings: Vec<HardwareLimits>,
    pub(super) rows: Vec<InferenceRow>,
}

impl InferenceRow {
    /// Returns a copy of this row for each peer that measured the same work with the same number
    /// format. If there is no such peer, returns the row alone.
    pub(super) fn with_peers(self, peers: &[PeerSpeed]) -> Vec<Self> {
        let rows: Vec<Self> = peers
            .iter()
            .filter(|peer| {
                self.has_format(&peer.dtype) && peer.what == self.what && peer.batch == self.batch
            })
            .map(|peer| Self {
                peer: Some(peer.tokens_per_s),
                peer_name: Some(format!("{} {}", peer.peer, peer.dtype)),
                ratio: Some(self.ours / peer.tokens_per_s),
                ..self.clone()
            })
            .collect();
        if rows.is_empty() { vec![self] } else { rows }
    }

    /// Whether a peer's number format is the one that this row is compared with.
    fn has_format(&self, dtype: &str) -> bool {
        match self.weights {
            WeightFormat::F16 => ["f16", "float32"].contains(&dtype),
            WeightFormat::Q8 => dtype == "q8_0",
            WeightFormat::Exact => dtype == "float32",
            WeightFormat::Bf16 => dtype == "bfloat16",
        }
    }
}

impl InferenceReport {
    pub(super) fn print(&self) {
        let rows: Vec<Vec<String>> = (self.rows.iter())
            .map(|row| {
                vec![
                    row.what.into(),
                    row.weights.name().into(),
                    row.batch.to_string(),
                    format!("{:.1}", row.ours),
                    decimals(row.peer, 1),
                    row.peer_name.clone().unwrap_or_default(),
                    decimals(row.ratio, 2),
                    decimals(row.share_of_limit, 2),
                ]
            })
            .collect();
        ui::print_table(
            &[
                "what",
                "weights",
                "batch",
                "tokens/s",
                "peer",
                "peer's name",
                "ratio",
                "share of limit",
            ],
            &rows,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(what: &str, batch: usize, dtype: &str) -> PeerSpeed {
        PeerSpeed {
            peer: "p".into(),
            what: what.into(),
            batch,
            tokens_per_s: 50.0,
            dtype: dtype.into(),
        }
    }

    #[test]
    fn a_row_is_paired_with_peers_of_the_same_work_and_format() {
        let row = InferenceRow {
            what: "decode",
            model: "m".into(),
            weights: WeightFormat::Q8,
            batch: 8,
            ours: 100.0,
            peer: None,
            peer_name: None,
            ratio: None,
            share_of_limit: None,
        };
        let others = [
            peer("prefill", 8, "q8_0"),
            peer("decode", 1, "q8_0"),
            peer("decode", 8, "float32"),
        ];
        let alone = row.clone().with_peers(&others);
        assert_eq!((alone.len(), alone[0].ratio), (1, None));
        let both = row.with_peers(&[others[0].clone(), peer("decode", 8, "q8_0")]);
        assert_eq!((both.len(), both[0].ratio), (1, Some(2.0)));
        assert_eq!(both[0].peer_name.as_deref(), Some("p q8_0"));
    }
}
