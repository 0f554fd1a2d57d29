//! The functions that a template calls by name.

use super::budget::{RenderBudget, TemplateResult, refused};
use minijinja::value::Rest;
use minijinja::{Environment, Error, State, Value, functions};
use std::sync::Arc;

/// Adds `raise_exception`, `strftime_now`, `range`, `dict` and `namespace`.
pub(super) fn add(environment: &mut Environment<'static>, budget: &Arc<RenderBudget>) {
    environment.add_function("raise_exception", |message: String| -> TemplateResult {
        Err(refused(message))
    });
    environment.add_function("strftime_now", |format: &str| fixed_date(format));
    let builders = [
        ("range", Value::from_function(functions::range)),
        ("dict", Value::from_function(functions::dict)),
        ("namespace", Value::from_function(functions::namespace)),
    ];
    for (name, builder) in builders {
        let budget = budget.clone();
        environment.add_function(name, move |state: &State, values: Rest<Value>| {
            values
                .iter()
                .try_for_each(|value| budget.pay_all(value, 0))?;
            builder.call(state, &values)
        });
    }
}

/// `strftime_now`: always Friday, 26 July 2024, midnight, so that a prompt is the same on every
/// day. It is the day that Llama 3.2's own template uses if the function is missing.
fn fixed_date(format: &str) -> Result<String, Error> {
    let mut date = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            date.push(letter);
            continue;
        }
        let code = letters
            .next()
            .filter(|letter| *letter != '-')
            .or_else(|| letters.next());
        date += match code {
            Some('d' | 'e') => "26",
            Some('m') if format.contains("%-m") => "7",
            Some('m') => "07",
            Some('b' | 'h') => "Jul",
            Some('B') => "July",
            Some('Y') => "2024",
            Some('y') => "24",
            Some('a') => "Fri",
            Some('A') => "Friday",
            Some('j') => "208",
            Some('F') => "2024-07-26",
            Some('T' | 'X') => "00:00:00",
            Some('H' | 'M' | 'S') => "00",
            Some('I') => "12",
            Some('p') => "AM",
            Some('%') => "%",
            other => {
                return Err(refused(format!(
                    "strftime_now does not support %{}",
                    other.unwrap_or(' ')
                )));
            }
        };
    }
    Ok(date)
}
