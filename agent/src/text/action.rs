//! The command in a completion.
//!
//! A thought (`<think>…</think>`) is never part of the command: the command is in what follows it. If a thought is not
//! closed, the completion is malformed. How the rest is read depends on the [`ActionFormat`] of the protocol.

use crate::text::template::THOUGHTS;
use scenarios::ActionFormat;

/// Returns the command of a completion; `None` if the completion is malformed, or if it was cut off (`ended` is false).
///
/// ```
/// use agent::text::action::command;
/// use scenarios::ActionFormat;
///
/// let text = "<think>A mug is needed.</think>\ntake mug 1";
/// assert_eq!(command(ActionFormat::Plain, text, true).as_deref(), Some("take mug 1"));
/// let text = "Thought: look first.\nAction: look";
/// assert_eq!(command(ActionFormat::React, text, true).as_deref(), Some("look"));
/// assert_eq!(command(ActionFormat::Plain, text, true), None);
/// ```
#[must_use]
pub fn command(format: ActionFormat, completion: &str, ended: bool) -> Option<String> {
    if !ended {
        return None;
    }
    let answer = after_thoughts(completion)?;
    let command = match format {
        ActionFormat::Plain => plain(answer),
        ActionFormat::React => labelled(answer),
        ActionFormat::Tags => return tagged(answer).map(str::to_lowercase),
        ActionFormat::Auto => tagged(answer)
            .or_else(|| labelled(answer))
            .or_else(|| quoted(answer))
            .or_else(|| prompted(answer))
            .or_else(|| plain(answer)),
    };
    command.map(str::to_owned)
}

/// Returns the command of a completion in the format `plain`: all of it, without white space at its ends. `None` if it is
/// empty, has more than one line, or contains a special token.
#[must_use]
pub fn parse_command(completion: &str) -> Option<&str> {
    plain(after_thoughts(completion)?)
}

/// Returns whether a completion begins a thought that it does not end.
#[must_use]
pub fn has_open_thought(completion: &str) -> bool {
    after_thoughts(completion).is_none()
}

/// Returns the place of the first stop text, in bytes, where the completion ends. A stop text inside a thought, or in the white
/// space after it, does not count.
#[must_use]
pub fn stop_place(completion: &str, stop: &[String]) -> Option<usize> {
    let answer = match after_thoughts(completion)? {
        whole if whole.len() == completion.len() => whole,
        rest => rest.trim_start(),
    };
    let place = stop
        .iter()
        .filter_map(|text| answer.find(text.as_str()))
        .min()?;
    Some(completion.len() - answer.len() + place)
}

/// What follows the last thought; `None` if a thought is not closed. The beginning of a thought may be in the prompt.
fn after_thoughts(completion: &str) -> Option<&str> {
    let mut rest = completion;
    for (open, close) in THOUGHTS {
        if let Some(end) = rest.rfind(close) {
            rest = &rest[end + close.len()..];
        }
        if rest.contains(open) {
            return None;
        }
    }
    Some(rest)
}

/// A line that can be a command.
fn plain(text: &str) -> Option<&str> {
    let command = text.trim();
    let has_frames = ["<|", "<s>", "</s>"]
        .iter()
        .any(|token| command.contains(token));
    (!command.is_empty() && !command.contains('\n') && !has_frames).then_some(command)
}

/// The text inside the first pair of `<action>` tags.
fn tagged(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("<action>")?;
    plain(rest.split_once("</action>")?.0)
}

/// The text after the first `Action:`, on its line or the next one. A model may go on with an observation and further
/// actions of its own, which do not count.
fn labelled(text: &str) -> Option<&str> {
    let mut lines = text.lines().skip_while(|line| after_label(line).is_none());
    let first = after_label(lines.next()?)?;
    let mut below = lines.map(str::trim).filter(|line| !line.is_empty());
    plain(unquoted(if first.is_empty() {
        below.next()?
    } else {
        first
    }))
}

/// What follows the label at the beginning of a line.
fn after_label(line: &str) -> Option<&str> {
    let label = line.trim_start().trim_start_matches('*');
    let rest = strip_prefix_ignoring_case(label, "action")?;
    // ReAct numbers its actions: `Action 3: look`.
    let rest = rest.trim_start_matches(|letter: char| letter == ' ' || letter.is_ascii_digit());
    let rest = rest.trim_start_matches('*').strip_prefix(':')?;
    Some(rest.trim_start_matches('*').trim())
}

/// The line after a prompt sign.
fn prompted(text: &str) -> Option<&str> {
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with('>'))?;
    plain(unquoted(&line.trim_start()[1..]))
}

/// The text inside a fence or a pair of backticks, if there is exactly one.
fn quoted(text: &str) -> Option<&str> {
    if let Some((_, rest)) = text.split_once("```") {
        let (inside, after) = rest.split_once("```")?;
        // The first line of a fence may name a language.
        let inside = match inside.split_once('\n') {
            Some((language, rest)) if !language.trim().contains(' ') && !rest.trim().is_empty() => {
                rest
            }
            _ => inside,
        };
        return (!after.contains("```")).then(|| plain(inside))?;
    }
    let mut parts = text.split('`');
    let (_, inside, _) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then(|| plain(inside))?
}

/// A line without the backticks around it.
fn unquoted(line: &str) -> &str {
    let line = line.trim();
    line.strip_prefix('`')
        .and_then(|line| line.strip_suffix('`'))
        .unwrap_or(line)
}

fn strip_prefix_ignoring_case<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix)
        .then(|| &text[prefix.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_command_is_one_line_without_frames() {
        assert_eq!(parse_command(" go to desk 1 "), Some("go to desk 1"));
        assert_eq!(parse_command("  \n "), None);
        assert_eq!(parse_command("look\nlook"), None);
        assert_eq!(parse_command("look<|agent|>"), None);
    }

    #[test]
    fn a_command_follows_its_thought() {
        for (completion, expected) in [
            (
                "<think>\nA mug.\n</think>\n\ntake mug 1",
                Some("take mug 1"),
            ),
            // The prompt opened the thought.
            ("A mug.\n</think>\n\ntake mug 1", Some("take mug 1")),
            (
                "<think>a</think> look <think>b</think> go to desk 1",
                Some("go to desk 1"),
            ),
            ("[THINK]a[/THINK]look", Some("look")),
            ("<think>I am not done", None),
            ("<think>a</think>look<think>", None),
            ("<think>a</think>", None),
        ] {
            assert_eq!(parse_command(completion), expected, "{completion}");
        }
        let stop = ["\n".to_owned()];
        assert_eq!(stop_place("look\nx", &stop), Some(4));
        assert_eq!(stop_place("<think>\na</think>\n\nlook\nx", &stop), Some(23));
        assert_eq!(stop_place("<think>\na", &stop), None);
        assert!(has_open_thought("<think>I am") && !has_open_thought("look"));
    }

    #[test]
    fn every_format_reads_its_own_completions() {
        use ActionFormat::{Auto, Plain, React, Tags};
        for (format, completion, expected) in [
            (Plain, "Action: look", Some("Action: look")),
            (
                React,
                "Thought: x\nAction: look\nObservation: y\nAction: z",
                Some("look"),
            ),
            (React, "Action 3: go to desk 1", Some("go to desk 1")),
            (React, "**Action:** `look`", Some("look")),
            (React, "ACTION: look", Some("look")),
            (
                React,
                "Action:\n\nlook\nObservation: y\nAction: z",
                Some("look"),
            ),
            (React, "Action: <|x|>\nAction: look", None),
            (React, "look", None),
            (React, "Actions speak", None),
            (
                Tags,
                "<think>a</think><action>Go to desk 1</action>",
                Some("go to desk 1"),
            ),
            (
                Tags,
                "<action> look </action> <action>z</action>",
                Some("look"),
            ),
            (Tags, "<action>look", None),
            (Tags, "<action></action>", None),
            (Tags, "look", None),
            (Auto, "<action>look</action>", Some("look")),
            (Auto, "Action: look", Some("look")),
            (Auto, "> look", Some("look")),
            (Auto, "I will do this:\n```\nlook\n```", Some("look")),
            (Auto, "```text\ngo to desk 1\n```", Some("go to desk 1")),
            (Auto, "The command is `go to desk 1`.", Some("go to desk 1")),
            (Auto, "look", Some("look")),
            (Auto, "first `look`, then `go to desk 1`\nor not", None),
            (Auto, "I do not know.\nMaybe look?", None),
        ] {
            let found = command(format, completion, true);
            assert_eq!(found.as_deref(), expected, "{format}: {completion}");
            assert_eq!(command(format, completion, false), None);
        }
    }
}
