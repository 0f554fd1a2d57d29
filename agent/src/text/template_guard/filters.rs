//! The filters of templates: each pays for what it reads before minijinja's own code runs.

use super::budget::{RenderBudget, TemplateResult, refused};
use super::methods;
use super::spelling::to_json;
use minijinja::value::{Rest, from_args};
use minijinja::{Environment, Error, State, Value, filters};
use std::sync::Arc;

pub(super) fn add(environment: &mut Environment<'static>, budget: &Arc<RenderBudget>) {
    for (name, filter) in light_filters() {
        add_filter(environment, budget, name, move |budget, state, values| {
            values
                .iter()
                .try_for_each(|value| budget.pay_surface(value))?;
            filter.call(state, values)
        });
    }
    for (name, filter) in heavy_filters() {
        add_filter(environment, budget, name, move |budget, state, values| {
            for value in values {
                (0..8).try_for_each(|_| budget.pay_all(value, 0))?;
            }
            filter.call(state, values)
        });
    }
    add_filter(environment, budget, "string", |budget, _, values| {
        Ok(Value::from(budget.spelled(operand(values)?)?))
    });
    add_filter(environment, budget, "safe", |_, _, values| {
        operand(values).cloned()
    });
    add_filter(environment, budget, "tojson", |budget, _, values| {
        to_json(budget, values)
    });
    add_filter(environment, budget, "join", |budget, _, values| {
        let (items, by): (Value, Option<&str>) = from_args(values)?;
        budget.joined(&items, by.unwrap_or(""))
    });
    for (name, method) in [("trim", "strip"), ("replace", "replace")] {
        add_filter(environment, budget, name, move |budget, state, values| {
            let text = Value::from(budget.spelled(operand(values)?)?);
            methods::call(budget, state, &text, method, &values[1..])
        });
    }
}

fn add_filter(
    environment: &mut Environment<'static>,
    budget: &Arc<RenderBudget>,
    name: &'static str,
    filter: impl Fn(&RenderBudget, &State, &[Value]) -> TemplateResult + Send + Sync + 'static,
) {
    let budget = budget.clone();
    environment.add_filter(name, move |state: &State, values: Rest<Value>| {
        budget.evaluated(filter(&budget, state, &values)?)
    });
}

/// The value that a filter is applied to.
fn operand(values: &[Value]) -> Result<&Value, Error> {
    values
        .first()
        .ok_or_else(|| refused("a filter needs a value"))
}

/// Filters that look at each of their operands once.
fn light_filters() -> [(&'static str, Value); 25] {
    [
        ("lower", Value::from_function(filters::lower)),
        ("upper", Value::from_function(filters::upper)),
        ("title", Value::from_function(filters::title)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("length", Value::from_function(length)),
        ("count", Value::from_function(length)),
        ("items", Value::from_function(filters::items)),
        ("reverse", Value::from_function(filters::reverse)),
        ("default", Value::from_function(filters::default)),
        ("d", Value::from_function(filters::default)),
        ("round", Value::from_function(filters::round)),
        ("abs", Value::from_function(filters::abs)),
        ("int", Value::from_function(filters::int)),
        ("float", Value::from_function(filters::float)),
        ("attr", Value::from_function(filters::attr)),
        ("first", Value::from_function(filters::first)),
        ("last", Value::from_function(filters::last)),
        ("list", Value::from_function(filters::list)),
        ("bool", Value::from_function(filters::bool)),
        ("select", Value::from_function(filters::select)),
        ("reject", Value::from_function(filters::reject)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("map", Value::from_function(filters::map)),
        ("e", Value::from_function(filters::escape)),
    ]
}

/// Filters that compare what is inside their operands.
fn heavy_filters() -> [(&'static str, Value); 6] {
    [
        ("sort", Value::from_function(filters::sort)),
        ("unique", Value::from_function(filters::unique)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("min", Value::from_function(filters::min)),
        ("max", Value::from_function(filters::max)),
        ("sum", Value::from_function(filters::sum)),
    ]
}

/// The filter `length`, which is 0 if the value is undefined.
fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        Ok(0)
    } else {
        filters::length(value)
    }
}
