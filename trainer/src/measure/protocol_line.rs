//! The protocol of a measurement in one line of text, to print beside its number.

use scenarios::{ActionFormat, DistinctBy, Protocol, Scorer, Search, Thinking};

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
    let format = match protocol.action_format {
        ActionFormat::Plain => String::new(),
        other => format!(", action format = {other}"),
    };
    let thinking = match protocol.thinking {
        Thinking::Keep => String::new(),
        other => format!(", thinking {}", other.name()),
    };
    let template = match &protocol.template {
        None => String::new(),
        Some(hash) => format!(", chat template {hash}"),
    };
    let stop = if protocol.stop.is_empty() {
        String::new()
    } else {
        format!(", stopped at {:?}", protocol.stop)
    };
    format!(
        "{games}, {} turns, {} history, {shown}{translated}{instructions}, {decoding}{stop}, \
         malformed = {}{format}{thinking}{template}, success = won",
        protocol.turn_limit, protocol.history, protocol.malformed
    )
}

/// Describes how the completions are decoded and selected.
fn decoding(protocol: &Protocol) -> String {
    let k = protocol.best_of;
    let temperature = protocol.temperature;
    let scorer = match protocol.scorer {
        Scorer::AfterValue => "value",
        Scorer::SoftValue => &format!(
            "value and {} times log-probability",
            protocol.soft_value_beta
        ),
        Scorer::LogRatio => "log-ratio",
        Scorer::Logprob => "log-probability",
        Scorer::Random => "chance",
        Scorer::Distinct => "chance over the distinct candidates",
        Scorer::Expert => "the expert, which reads text alone,",
        Scorer::Oracle => "a clairvoyant oracle, which cheats,",
    };
    let candidates = match protocol.distinct_by {
        DistinctBy::Tokens => "",
        DistinctBy::Command => ", candidates distinct by command,",
    };
    let filters = filters(protocol);
    let search = match protocol.search {
        None if (k, temperature) == (1, 0.0) => return "greedy".to_string(),
        None if k == 1 => return format!("temperature {temperature}{filters}"),
        None => {
            return format!(
                "best of {k} by {scorer}{candidates} at temperature {temperature}{filters}"
            );
        }
        Some(Search::Beam { width }) => format!("a beam of {width}"),
        Some(Search::BestFirst { budget }) => format!("best first, at most {budget} completions"),
    };
    format!(
        "searched with copies of the world ({search}, by value after the observation), {k} \
         candidates a state at temperature {temperature}{filters}"
    )
}

/// Names the token filters that are on.
fn filters(protocol: &Protocol) -> String {
    let mut on = String::new();
    if protocol.top_k > 0 {
        on += &format!(", top-k {}", protocol.top_k);
    }
    if protocol.top_p < 1.0 {
        on += &format!(", top-p {}", protocol.top_p);
    }
    if protocol.min_p > 0.0 {
        on += &format!(", min-p {}", protocol.min_p);
    }
    on
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_how_candidates_are_sampled_and_selected() {
        let best_of = |scorer| Protocol {
            best_of: 5,
            temperature: 1.0,
            scorer,
            ..Protocol::default()
        };
        for (scorer, expected) in [
            (Scorer::AfterValue, "best of 5 by value at temperature 1,"),
            (
                Scorer::SoftValue,
                "best of 5 by value and 0.1 times log-probability at temperature 1,",
            ),
            (
                Scorer::Distinct,
                "by chance over the distinct candidates at",
            ),
            (Scorer::Oracle, "by a clairvoyant oracle, which cheats, at"),
        ] {
            let line = protocol_line(&best_of(scorer));
            assert!(line.contains(expected), "{line}");
        }
        let other = Protocol {
            soft_value_beta: 0.02,
            distinct_by: DistinctBy::Command,
            min_p: 0.02,
            ..best_of(Scorer::SoftValue)
        };
        let line = protocol_line(&other);
        let expected = "best of 5 by value and 0.02 times log-probability, candidates distinct by command, \
                        at temperature 1, min-p 0.02, malformed";
        assert!(line.contains(expected), "{line}");
        let greedy = Protocol {
            top_k: 3,
            ..Protocol::default()
        };
        assert!(protocol_line(&greedy).contains(", greedy, malformed"));
    }
}
