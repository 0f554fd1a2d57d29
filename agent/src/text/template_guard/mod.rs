//! Renders the Jinja chat templates of Hugging Face models, with a bound on the work of a template.
//!
//! # Why this exists
//! A template comes with a model, and the model may come from a stranger. Three lines of Jinja can
//! double a text until memory is full. minijinja's fuel does not prevent that: it counts
//! instructions, not the size of what one instruction makes. So each instruction that makes or
//! walks a value is replaced, before the template runs, by a call that pays from one budget
//! ([`limits::WORK`] bytes and nodes). Filters and methods pay from the same budget. If something
//! has no price (operators on unpacked arguments, chained comparisons, format strings), the
//! template is refused.
//!
//! # What a template can use
//! The environment of transformers: `trim_blocks`, `lstrip_blocks`, loop controls,
//! `raise_exception`, `tojson`, `strftime_now`, `{% generation %}`, Python's string methods, and
//! Python's spelling of `None`, `True` and lists. This module does not depend on messages or turns.
//!
//! # If you raise the version of minijinja
//! This code was checked against minijinja and minijinja-contrib 2.24.0. It needs the feature
//! `unstable_machinery`, so the workspace's `Cargo.toml` pins that version exactly, and a test below
//! fails if `Cargo.lock` has another one. If you raise the version, check these points and then
//! change `CHECKED_VERSION`:
//!
//! 1. `Instruction` (`compiler/instructions.rs` of minijinja). `instructions::exchange` refuses
//!    variants that it does not list, so a new variant is safe. If a listed variant changed its
//!    operands, its jump targets or what it allocates (`vm/mod.rs`), change its replacement.
//! 2. The lexer and the compiler. If a new construct recurses for each word of a tag, or if more
//!    constant expressions are folded at compile time, `source::check_words` must refuse it.
//! 3. The filters, functions and tests listed in `filters`, `checks` and `functions`. If one makes
//!    more than it reads, or compares what is inside its operands, it must pay more.
//! 4. `pycompat::unknown_method_callback`. If it has new string methods, each one must make at most
//!    as much as it reads, or `methods` must price it.
//! 5. The tests `template` of the binary `it`, and the binary `fuzz` with `HEARTH_FUZZ_INPUTS=100000`.

mod budget;
mod checks;
mod filters;
mod functions;
mod instructions;
mod limits;
mod methods;
mod operators;
mod source;
mod spelling;

use budget::RenderBudget;
use limits::{DEPTH, FUEL};
use minijinja::machinery::{Vm, make_string_output};
use minijinja::{AutoEscape, Environment, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Checks that a template can be compiled; returns the reason if it cannot.
pub(crate) fn check(source: &str) -> Result<(), String> {
    let source = source::prepared(source)?;
    instructions::compiled(&source).map(drop)
}

/// Renders a template with the variables of `context`.
pub(crate) fn render(source: &str, context: Value) -> Result<String, String> {
    let source = source::prepared(source)?;
    let code = instructions::compiled(&source)?;
    let environment = environment(&Arc::new(RenderBudget::new()));
    let blocks = BTreeMap::new();
    let mut text = String::new();
    let mut output = make_string_output(&mut text);
    Vm::new(&environment)
        .eval(&code, context, &blocks, &mut output, AutoEscape::None)
        .map(drop)
        .map_err(|error| source::reason(&error))?;
    Ok(text)
}

/// An environment in which everything that a template can call pays from `budget`.
fn environment(budget: &Arc<RenderBudget>) -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(3 * DEPTH);
    operators::add(&mut environment, budget);
    functions::add(&mut environment, budget);
    filters::add(&mut environment, budget);
    checks::add(&mut environment, budget);
    let paid = budget.clone();
    environment.set_unknown_method_callback(move |state, value, name, arguments| {
        paid.evaluated(methods::call(&paid, state, value, name, arguments)?)
    });
    let paid = budget.clone();
    environment.set_formatter(move |output, _, value| Ok(output.write_str(&paid.spelled(value)?)?));
    environment
}

#[cfg(test)]
mod tests {
    /// The version of minijinja and minijinja-contrib that this module was checked against.
    const CHECKED_VERSION: &str = "2.24.0";

    /// If this fails, read the section on raising the version at the head of this module.
    #[test]
    fn the_locked_minijinja_is_the_version_that_was_checked() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock");
        let lock = std::fs::read_to_string(path).expect("the workspace has a Cargo.lock");
        for name in ["minijinja", "minijinja-contrib"] {
            let package = format!("name = \"{name}\"\nversion = \"");
            let versions: Vec<&str> = lock
                .split(&package)
                .skip(1)
                .filter_map(|rest| Some(rest.split_once('"')?.0))
                .collect();
            assert_eq!(versions, [CHECKED_VERSION], "{name} in Cargo.lock");
        }
    }
}
