//! The methods of texts, as Python has them. If a method is not here (`upper`, `startswith`,
//! `items`, `get`, …), minijinja's own is used.

use super::budget::{RenderBudget, TemplateResult, refused};
use super::limits::NODE;
use minijinja::value::from_args;
use minijinja::{State, Value};
use minijinja_contrib::pycompat;

/// Calls the method `name` of a value.
pub(super) fn call(
    budget: &RenderBudget,
    state: &State,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> TemplateResult {
    budget.pay_surface(value)?;
    arguments
        .iter()
        .try_for_each(|argument| budget.pay_surface(argument))?;
    if let Some(text) = value.as_str() {
        budget.pay_text(text)?;
        if let Some(result) = text_method(budget, text, name, arguments) {
            return result;
        }
    }
    match name {
        "format" => Err(refused("`format` is not supported")),
        "count" => budget
            .pay_all(value, 0)
            .and_then(|()| pycompat::unknown_method_callback(state, value, name, arguments)),
        _ => pycompat::unknown_method_callback(state, value, name, arguments),
    }
}

/// The method of a text; `None` if it is not one of those here.
fn text_method(
    budget: &RenderBudget,
    text: &str,
    name: &str,
    arguments: &[Value],
) -> Option<TemplateResult> {
    Some(match name {
        "strip" | "lstrip" | "rstrip" => strip(text, name, arguments),
        "split" | "rsplit" => split(budget, text, name, arguments),
        "splitlines" => split_lines(budget, text, arguments),
        "replace" => replace(budget, text, arguments),
        "join" => from_args(arguments).and_then(|(items,): (Value,)| budget.joined(&items, text)),
        "find" => from_args(arguments).map(|(part,): (&str,)| position(text, text.find(part))),
        "rfind" => from_args(arguments).map(|(part,): (&str,)| position(text, text.rfind(part))),
        "count" => {
            from_args(arguments).map(|(part,): (&str,)| Value::from(text.matches(part).count()))
        }
        "removeprefix" => from_args(arguments)
            .map(|(part,): (&str,)| Value::from(text.strip_prefix(part).unwrap_or(text))),
        "removesuffix" => from_args(arguments)
            .map(|(part,): (&str,)| Value::from(text.strip_suffix(part).unwrap_or(text))),
        "islower" => Ok(Value::from(
            text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase),
        )),
        "isupper" => Ok(Value::from(
            text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase),
        )),
        "isspace" => Ok(Value::from(!text.is_empty() && text.chars().all(is_blank))),
        "isdigit" | "isnumeric" | "isalpha" | "isalnum" if text.is_empty() => {
            Ok(Value::from(false))
        }
        _ => return None,
    })
}

/// White space as Python defines it: Unicode's, and four old separators.
fn is_blank(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '\x1c'..='\x1f')
}

fn strip(text: &str, side: &str, arguments: &[Value]) -> TemplateResult {
    let (letters,): (Option<&str>,) = from_args(arguments)?;
    Ok(Value::from(match side {
        "lstrip" => text.trim_start_matches(|letter| is_stripped(letter, letters)),
        "rstrip" => text.trim_end_matches(|letter| is_stripped(letter, letters)),
        _ => text.trim_matches(|letter| is_stripped(letter, letters)),
    }))
}

/// Whether `strip(letters)` removes a letter; white space if no letters are given.
fn is_stripped(letter: char, letters: Option<&str>) -> bool {
    letters.map_or_else(|| is_blank(letter), |letters| letters.contains(letter))
}

fn split(budget: &RenderBudget, text: &str, side: &str, arguments: &[Value]) -> TemplateResult {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(arguments)?;
    let most = most
        .and_then(|most| usize::try_from(most).ok())
        .unwrap_or(usize::MAX - 1);
    let Some(separator) = separator else {
        budget.pay(NODE * (1 + text.chars().filter(|letter| is_blank(*letter)).count() as u64))?;
        return if side == "split" {
            Ok(words(text, most))
        } else {
            Err(refused("rsplit needs a separator"))
        };
    };
    if separator.is_empty() {
        return Err(refused("an empty separator"));
    }
    budget.pay(NODE * (1 + text.matches(separator).count() as u64))?;
    let mut pieces: Vec<&str> = match side {
        "split" => text.splitn(most + 1, separator).collect(),
        _ => text.rsplitn(most + 1, separator).collect(),
    };
    if side == "rsplit" {
        pieces.reverse();
    }
    Ok(pieces.into_iter().map(Value::from).collect())
}

/// `text.split(None, most)`.
fn words(text: &str, most: usize) -> Value {
    let mut words = Vec::new();
    let mut rest = text.trim_start_matches(is_blank);
    while !rest.is_empty() {
        let end = if words.len() == most {
            rest.len()
        } else {
            rest.find(is_blank).unwrap_or(rest.len())
        };
        words.push(Value::from(&rest[..end]));
        rest = rest[end..].trim_start_matches(is_blank);
    }
    Value::from(words)
}

fn split_lines(budget: &RenderBudget, text: &str, arguments: &[Value]) -> TemplateResult {
    let () = from_args(arguments)?;
    let ends = text.chars().filter(|letter| is_line_end(*letter)).count();
    budget.pay(NODE * (1 + ends as u64))?;
    let text = text.replace("\r\n", "\n");
    let text = text.strip_suffix(is_line_end).unwrap_or(&text);
    Ok(if text.is_empty() {
        Value::from(Vec::<Value>::new())
    } else {
        text.split(is_line_end).map(Value::from).collect()
    })
}

fn is_line_end(letter: char) -> bool {
    matches!(letter, '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn replace(budget: &RenderBudget, text: &str, arguments: &[Value]) -> TemplateResult {
    let (old, new, most): (&str, &str, Option<i64>) = from_args(arguments)?;
    let most = most
        .and_then(|most| usize::try_from(most).ok())
        .unwrap_or(usize::MAX);
    let places = text.matches(old).count().min(most);
    budget.pay(
        (text.len() as u64).saturating_add((places as u64).saturating_mul(new.len() as u64)),
    )?;
    Ok(Value::from(text.replacen(old, new, most)))
}

/// The index in letters of a place in bytes; −1 if there is none.
fn position(text: &str, found: Option<usize>) -> Value {
    found.map_or(Value::from(-1), |bytes| {
        Value::from(text[..bytes].chars().count())
    })
}
