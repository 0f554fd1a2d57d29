//! The tests of templates, as in `{% if x is defined %}`.

use super::budget::RenderBudget;
use super::operators::{contains, equal};
use minijinja::value::ValueKind;
use minijinja::{Environment, Value, tests};
use std::sync::Arc;

pub(super) fn add(environment: &mut Environment<'static>, budget: &Arc<RenderBudget>) {
    environment.add_test("undefined", tests::is_undefined);
    environment.add_test("defined", tests::is_defined);
    environment.add_test("none", tests::is_none);
    environment.add_test("boolean", tests::is_boolean);
    environment.add_test("odd", tests::is_odd);
    environment.add_test("even", tests::is_even);
    environment.add_test("number", tests::is_number);
    environment.add_test("integer", tests::is_integer);
    environment.add_test("float", tests::is_float);
    environment.add_test("string", tests::is_string);
    environment.add_test("mapping", tests::is_mapping);
    environment.add_test("true", tests::is_true);
    environment.add_test("false", tests::is_false);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_iterable);
    for name in ["eq", "equalto", "=="] {
        let budget = budget.clone();
        environment.add_test(name, move |left: &Value, right: &Value| {
            equal(&budget, left, right)
        });
    }
    for name in ["ne", "!="] {
        let budget = budget.clone();
        environment.add_test(name, move |left: &Value, right: &Value| {
            equal(&budget, left, right).map(|same| !same)
        });
    }
    let paid = budget.clone();
    environment.add_test("in", move |part: &Value, whole: &Value| {
        contains(&paid, whole, part)
    });
}

fn is_iterable(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
    )
}
