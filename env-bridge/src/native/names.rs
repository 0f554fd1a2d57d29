//! Display names: ALFWorld's rule that turns raw ids such as `mug_bar__minus_00_dot_61` into
//! `mug 2`.

use super::pddl::PddlProblem;
use rustc_hash::FxHashMap;
use std::collections::HashMap;

/// The names of a game's objects in texts and commands.
#[derive(Debug, Clone, Copy)]
pub enum ObjectNames<'a> {
    /// ALFWorld's display names, such as `mug 1`.
    Display,
    /// A name for each id. An id that is not in the map keeps its id as its name.
    Given(&'a HashMap<String, String>),
}

impl ObjectNames<'_> {
    /// Returns the name of every object of a problem.
    pub(crate) fn of(self, problem: &PddlProblem) -> Vec<String> {
        match self {
            Self::Display => display_names(problem),
            Self::Given(names) => {
                let ids = problem.objects.iter().map(|(id, _)| id);
                ids.map(|id| names.get(id).unwrap_or(id).clone()).collect()
            }
        }
    }
}

/// Returns the display name of every object of a problem.
///
/// The base name is the part of the id before the first `_bar_`; `basin` is appended if the id
/// contains that word. The ids that occur in initial facts are numbered in byte order, separately
/// for each base name and from the highest number down. If an id has no `_bar_`, its name ends with
/// a blank in place of the number. If an object occurs in no initial fact, its name is the raw id.
fn display_names(problem: &PddlProblem) -> Vec<String> {
    let bases: Vec<Option<String>> = problem
        .objects
        .iter()
        .zip(&problem.mentioned)
        .map(|((id, _), mentioned)| mentioned.then(|| base_name(id)).flatten())
        .collect();
    let mut left: FxHashMap<&str, usize> = FxHashMap::default();
    for base in bases.iter().flatten() {
        *left.entry(base).or_default() += 1;
    }
    let mut names = Vec::with_capacity(bases.len());
    for (object, base) in bases.iter().enumerate() {
        let id = &problem.objects[object].0;
        names.push(match base {
            Some(base) => {
                let number = left
                    .get_mut(base.as_str())
                    .map_or(0, |left| std::mem::replace(left, *left - 1));
                format!("{base} {number}")
            }
            None if problem.mentioned[object] => format!("{} ", unmangle(id)),
            None => id.clone(),
        });
    }
    names
}

fn base_name(id: &str) -> Option<String> {
    let (base, _) = id.split_once("_bar_")?;
    let base = unmangle(base);
    Some(if id.contains("basin") {
        base + "basin"
    } else {
        base
    })
}

/// Reverses ALFWorld's mangling of special characters in ids.
fn unmangle(id: &str) -> String {
    if !id.contains('_') {
        return id.to_owned();
    }
    id.replace("_bar_", "|")
        .replace("_minus_", "-")
        .replace("_plus_", "+")
        .replace("_dot_", ".")
        .replace("_comma_", ",")
}
