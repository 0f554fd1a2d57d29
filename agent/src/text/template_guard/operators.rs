//! The functions that replace instructions: operators, literals, slices and comparisons.

use super::budget::{RenderBudget, TemplateResult, refused};
use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, Value};
use std::cmp::Ordering;
use std::sync::Arc;

/// What `super::instructions` calls in place of an instruction.
type PricedOperator = fn(&RenderBudget, Vec<Value>) -> TemplateResult;

/// Adds the functions that `super::instructions` calls.
pub(super) fn add(environment: &mut Environment<'static>, budget: &Arc<RenderBudget>) {
    let operators: [(&'static str, PricedOperator); 16] = [
        ("held", |budget, mut values| {
            budget.pay_all(&values[0], 0).map(|()| values.remove(0))
        }),
        ("()", |budget, values| {
            Ok(Value::from(budget.items(&values[0])?))
        }),
        ("[]", |budget, values| budget.list(values)),
        ("{}", |budget, values| map(budget, &values)),
        ("[:]", |budget, values| slice(budget, &values)),
        ("[i]", |budget, values| item(budget, &values[0], &values[1])),
        ("+", |budget, values| {
            add_values(budget, &values[0], &values[1])
        }),
        ("*", |_, values| multiply(&values[0], &values[1])),
        ("~", |budget, values| {
            Ok(Value::from(
                budget.spelled(&values[0])? + &budget.spelled(&values[1])?,
            ))
        }),
        ("==", |budget, values| {
            Ok(Value::from(equal(budget, &values[0], &values[1])?))
        }),
        ("!=", |budget, values| {
            Ok(Value::from(!equal(budget, &values[0], &values[1])?))
        }),
        ("<", |budget, values| {
            Ok(Value::from(order(budget, &values[0], &values[1])?.is_lt()))
        }),
        ("<=", |budget, values| {
            Ok(Value::from(order(budget, &values[0], &values[1])?.is_le()))
        }),
        (">", |budget, values| {
            Ok(Value::from(order(budget, &values[0], &values[1])?.is_gt()))
        }),
        (">=", |budget, values| {
            Ok(Value::from(order(budget, &values[0], &values[1])?.is_ge()))
        }),
        ("∈", |budget, values| {
            Ok(Value::from(contains(budget, &values[1], &values[0])?))
        }),
    ];
    for (name, operator) in operators {
        let budget = budget.clone();
        environment.add_function(name, move |values: Rest<Value>| operator(&budget, values.0));
    }
}

pub(super) fn equal(budget: &RenderBudget, left: &Value, right: &Value) -> Result<bool, Error> {
    budget.pay_all(left, 0)?;
    budget.pay_all(right, 0)?;
    Ok(left == right)
}

/// Whether `part` is in `whole`: a text in a text, a key in a map, an item in a list.
pub(super) fn contains(budget: &RenderBudget, whole: &Value, part: &Value) -> Result<bool, Error> {
    if let Some(text) = whole.as_str() {
        budget.pay_text(text)?;
        return Ok(text.contains(
            part.as_str()
                .ok_or_else(|| refused(format!("{} in string", part.kind())))?,
        ));
    }
    match whole.kind() {
        ValueKind::Undefined => Ok(false),
        ValueKind::Map => {
            budget.pay_surface(part)?;
            Ok(whole
                .as_object()
                .and_then(|map| map.get_value(part))
                .is_some())
        }
        ValueKind::Seq | ValueKind::Iterable => {
            for item in budget.items(whole)? {
                if equal(budget, &item, part)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        kind => Err(refused(format!("nothing is in a {kind}"))),
    }
}

fn order(budget: &RenderBudget, left: &Value, right: &Value) -> Result<Ordering, Error> {
    budget.pay_all(left, 0)?;
    budget.pay_all(right, 0)?;
    let comparable = matches!(
        left.kind(),
        ValueKind::Number | ValueKind::String | ValueKind::Seq | ValueKind::Bool
    );
    if !comparable || left.kind() != right.kind() {
        return Err(refused(format!(
            "{} and {} have no order",
            left.kind(),
            right.kind()
        )));
    }
    Ok(left.cmp(right))
}

fn map(budget: &RenderBudget, values: &[Value]) -> TemplateResult {
    let pairs = values
        .chunks_exact(2)
        .map(|pair| (pair[0].clone(), pair[1].clone()));
    let map: Value = pairs.collect();
    budget.pay_all(&map, 0).map(|()| map)
}

fn slice(budget: &RenderBudget, values: &[Value]) -> TemplateResult {
    let start = slice_bound(&values[1])?;
    let stop = slice_bound(&values[2])?;
    let step = slice_bound(&values[3])?.unwrap_or(1);
    if let Some(text) = values[0].as_str() {
        budget.pay(4 * text.len() as u64)?;
        return Ok(Value::from(
            sliced(&text.chars().collect::<Vec<_>>(), start, stop, step)?
                .into_iter()
                .collect::<String>(),
        ));
    }
    Ok(Value::from(sliced(
        &budget.items(&values[0])?,
        start,
        stop,
        step,
    )?))
}

fn slice_bound(value: &Value) -> Result<Option<i64>, Error> {
    match value.as_i64() {
        Some(bound) => Ok(Some(bound)),
        None if value.is_none() => Ok(None),
        None => Err(refused("the bounds of a slice are whole numbers")),
    }
}

/// Python's `items[start:stop:step]`.
fn sliced<T: Clone>(
    items: &[T],
    start: Option<i64>,
    stop: Option<i64>,
    step: i64,
) -> Result<Vec<T>, Error> {
    let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let stride = usize::try_from(step.unsigned_abs()).unwrap_or(usize::MAX);
    match step {
        1.. => {
            let start = start.map_or(0, |bound| from_start(bound, length).clamp(0, length));
            let stop = stop.map_or(length, |bound| from_start(bound, length).clamp(0, length));
            Ok((start..stop)
                .step_by(stride)
                .filter_map(|index| item_at(items, index))
                .collect())
        }
        0 => Err(refused("a slice cannot step by 0")),
        _ => {
            let last = length - 1;
            let start = start.map_or(last, |bound| from_start(bound, length).clamp(-1, last));
            let stop = stop.map_or(-1, |bound| from_start(bound, length).clamp(-1, last));
            Ok((stop + 1..=start)
                .rev()
                .step_by(stride)
                .filter_map(|index| item_at(items, index))
                .collect())
        }
    }
}

/// A bound of a slice counted from the start; if it is negative, it counts from the end.
fn from_start(bound: i64, length: i64) -> i64 {
    if bound < 0 {
        bound.saturating_add(length)
    } else {
        bound
    }
}

fn item_at<T: Clone>(items: &[T], index: i64) -> Option<T> {
    items.get(usize::try_from(index).ok()?).cloned()
}

fn item(budget: &RenderBudget, value: &Value, key: &Value) -> TemplateResult {
    if value.is_undefined() {
        return Err(refused(format!(
            "an undefined value has no item {}",
            budget.spelled(key)?
        )));
    }
    budget.pay_surface(key)?;
    if matches!(value.kind(), ValueKind::String | ValueKind::Iterable) {
        if !key.is_integer() {
            return Ok(Value::UNDEFINED);
        }
        let all = slice(
            budget,
            &[value.clone(), key.clone(), Value::from(()), Value::from(())],
        )?;
        return Ok(first(&all).unwrap_or_default());
    }
    value.get_item(key)
}

fn first(value: &Value) -> Option<Value> {
    match value.as_str() {
        Some(text) => text
            .chars()
            .next()
            .map(|letter| Value::from(letter.to_string())),
        None => value.try_iter().ok()?.next(),
    }
}

fn add_values(budget: &RenderBudget, left: &Value, right: &Value) -> TemplateResult {
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        budget.pay((left.len() + right.len()) as u64)?;
        return Ok(Value::from([left, right].concat()));
    }
    if is_list(left) && is_list(right) {
        return Ok(Value::from(
            [budget.items(left)?, budget.items(right)?].concat(),
        ));
    }
    number("+", left, right, i64::checked_add, |left, right| {
        left + right
    })
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn multiply(left: &Value, right: &Value) -> TemplateResult {
    number("*", left, right, i64::checked_mul, |left, right| {
        left * right
    })
}

/// Applies `whole` if both operands are integers, and `real` if at least one is not.
fn number(
    sign: &str,
    left: &Value,
    right: &Value,
    whole: fn(i64, i64) -> Option<i64>,
    real: fn(f64, f64) -> f64,
) -> TemplateResult {
    let error = refused(format!(
        "cannot compute {} {sign} {}",
        left.kind(),
        right.kind()
    ));
    if !left.is_number() || !right.is_number() {
        return Err(error);
    }
    if left.is_integer() && right.is_integer() {
        let pair = left.as_i64().zip(right.as_i64());
        let result = pair.and_then(|(left, right)| whole(left, right));
        return result.map(Value::from).ok_or(error);
    }
    Ok(Value::from(real(
        f64::try_from(left.clone())?,
        f64::try_from(right.clone())?,
    )))
}
