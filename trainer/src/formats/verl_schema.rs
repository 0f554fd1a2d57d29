//! The Arrow schemas of the Parquet files that verl reads.

use arrow_schema::{DataType, Field, Fields, Schema};
use std::sync::Arc;

/// The columns of [`super::verl::Sft`].
pub(super) fn sft_schema() -> Schema {
    let info = [
        number("index"),
        text("split"),
        text("game"),
        Field::new("task_type", DataType::Utf8, true),
        text("policy"),
        text("outcome"),
        Field::new("reward", DataType::Float64, false),
    ];
    Schema::new(vec![
        chat("messages"),
        text("data_source"),
        record("extra_info", info),
    ])
}

/// The columns of [`super::verl::Rl`].
pub(super) fn rl_schema() -> Schema {
    let info = [
        number("index"),
        text("split"),
        text("game"),
        text("game_hash"),
        number("episodes"),
        number("successes"),
    ];
    Schema::new(vec![
        text("data_source"),
        chat("prompt"),
        text("ability"),
        record("reward_model", [text("style"), text("ground_truth")]),
        record("extra_info", info),
    ])
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

fn number(name: &str) -> Field {
    Field::new(name, DataType::Int64, false)
}

fn record<const N: usize>(name: &str, fields: [Field; N]) -> Field {
    Field::new(name, DataType::Struct(Fields::from(fields.to_vec())), false)
}

fn chat(name: &str) -> Field {
    let message = record("element", [text("role"), text("content")]);
    Field::new(name, DataType::List(Arc::new(message)), false)
}
