//! Pruning of an operator's effects, by the rules of the planner's translator.

use super::grounded::Setting;

/// The largest number of additions that [`can_delete`] visits before it returns `true`.
const CASE_LIMIT: usize = 10_000;

/// An effect of an operator under construction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AtomChange {
    pub(super) setting: Setting,
    pub(super) condition: Vec<Setting>,
}

/// Removes the effects that the planner's translator removes, and sorts the rest by atom, with
/// additions before deletions. `conditions` are the operator's own conditions, sorted.
pub(super) fn prune(changes: &mut Vec<AtomChange>, conditions: &[Setting]) {
    let adds: Vec<AtomChange> = changes
        .iter()
        .filter(|change| change.setting & 1 == 1)
        .cloned()
        .collect();
    changes.retain(|change| change.setting & 1 == 1 || can_delete(change, &adds));
    // Remove an effect if it repeats a condition or if its own condition contradicts one.
    changes.retain(|change| {
        !contains(conditions, change.setting)
            && !change
                .condition
                .iter()
                .any(|setting| contains(conditions, setting ^ 1))
    });
    for change in changes.iter_mut() {
        change
            .condition
            .retain(|setting| !contains(conditions, *setting));
    }
    changes.sort_unstable_by(|a, b| {
        (a.setting >> 1, b.setting & 1, &a.condition).cmp(&(
            b.setting >> 1,
            a.setting & 1,
            &b.condition,
        ))
    });
    changes.dedup();
}

/// Returns whether a sorted list contains a setting.
fn contains(sorted: &[Setting], setting: Setting) -> bool {
    sorted.binary_search(&setting).is_ok()
}

/// Returns whether there is a case in which the deletion happens and no addition of the same atom
/// does.
fn can_delete(deletion: &AtomChange, adds: &[AtomChange]) -> bool {
    let rivals: Vec<&AtomChange> = adds
        .iter()
        .filter(|add| add.setting == deletion.setting | 1)
        .collect();
    if rivals
        .iter()
        .any(|add| add.condition.is_empty() || add.condition == deletion.condition)
    {
        return false;
    }
    let mut case = deletion.condition.clone();
    case.push(deletion.setting | 1);
    if case.contains(&deletion.setting) {
        return false;
    }
    let mut budget = CASE_LIMIT;
    has_case_without(&mut case, &rivals, &mut budget)
}

/// Returns whether `case` can be extended such that no addition in `rivals` happens. Returns `true`
/// if the budget is used up.
fn has_case_without(case: &mut Vec<Setting>, rivals: &[&AtomChange], budget: &mut usize) -> bool {
    let Some((first, rest)) = rivals.split_first() else {
        return true;
    };
    *budget = budget.saturating_sub(1);
    if *budget == 0 {
        return true;
    }
    first.condition.iter().any(|setting| {
        if case.contains(setting) {
            return false;
        }
        case.push(setting ^ 1);
        let found = has_case_without(case, rest, budget);
        case.pop();
        found
    })
}
