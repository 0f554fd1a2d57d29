//! Display names: ALFWorld's rule for turning raw ids such as `mug_bar__minus_00_dot_61` into `mug 2`.

use super::pddl::Problem;
use rustc_hash::FxHashMap;

/// The display name of every object of a problem.
///
/// The base name is what stands before the first `_bar_`, and `basin` is added where the id has that word. Among the
/// ids that occur in initial facts, in byte order, each base hands out its numbers from the highest down. An id without
/// `_bar_` keeps a blank where the number would be; an object in no fact keeps its raw id.
pub(crate) fn display_names(problem: &Problem) -> Vec<String> {
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
        let (id, mentioned) = (&problem.objects[object].0, problem.mentioned[object]);
        names.push(match base {
            Some(base) => {
                let number = left
                    .get_mut(base.as_str())
                    .map_or(0, |left| std::mem::replace(left, *left - 1));
                format!("{base} {number}")
            }
            None if mentioned => format!("{} ", unmangle(id)),
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
