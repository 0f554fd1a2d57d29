//! The protocol of a measurement in one line of text, to print beside its number.

use scenarios::{Protocol, Scorer, Search};

/// Describes the protocol in one line, if each game was played once.
#[must_use]
pub fn protocol_line(protocol: &Protocol) -> String {
    played_line(protocol, 1)
}

/// Describes the protocol in one line, if each game was played `times` times.
#[must_use]
pub fn played_line(protocol: &Protocol, times: usize) -> String {
    let games = if times == 1 {
        "each game once".to_string()
    } else {
        format!("each game {times} times")
    };
    let decoding = decoding(protocol);
    let shown = if protocol.admissible_shown {
        "admissible commands shown"
    } else {
        "no admissible list"
    };
    let translated = protocol
        .translated_to
        .map(|text| format!(", translated to text {text}"))
        .unwrap_or_default();
    let instructions = if protocol.instructions.is_some() {
        ", with instructions"
    } else {
        ""
    };
    let stop = if protocol.stop.is_empty() {
        String::new()
    } else {
        format!(", stopped at {:?}", protocol.stop)
    };
    format!(
        "{games}, {} turns, {} history, {shown}{translated}{instructions}, {decoding}{stop}, \
         malformed = {}, success = won",
        protocol.turn_limit, protocol.history, protocol.malformed
    )
}

/// Describes how the completions are decoded and selected.
fn decoding(protocol: &Protocol) -> String {
    let k = protocol.best_of;
    let temperature = protocol.temperature;
    let scorer = match protocol.scorer {
        Scorer::AfterValue => "value",
        Scorer::SoftValue => "value and log-probability",
        Scorer::LogRatio => "log-ratio",
        Scorer::Logprob => "log-probability",
        Scorer::Random => "chance",
        Scorer::Oracle => "an oracle, which cheats,",
    };
    let search = match protocol.search {
        None if (k, temperature) == (1, 0.0) => return "greedy".to_string(),
        None if k == 1 => return format!("temperature {temperature}"),
        None => return format!("best of {k} by {scorer} at temperature {temperature}"),
        Some(Search::Beam { width }) => format!("a beam of {width}"),
        Some(Search::BestFirst { budget }) => format!("best first, at most {budget} completions"),
    };
    format!(
        "searched with copies of the world ({search}, by value after the observation), {k} \
         candidates a state at temperature {temperature}"
    )
}
