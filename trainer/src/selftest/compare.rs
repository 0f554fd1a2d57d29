//! Comparisons of numbers, each with a sentence about the result.

/// What was compared if the check holds, or what is wrong.
pub(super) type FactResult = Result<String, String>;

/// A check of one fact.
pub(super) type FactCheck = fn() -> FactResult;

/// Compares numbers: the largest absolute difference must not exceed the tolerance.
pub(super) fn near(what: &str, got: &[f64], expected: &[f64], tolerance: f64) -> FactResult {
    let off = got
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max);
    if got.len() == expected.len() && off <= tolerance && got.iter().all(|x| x.is_finite()) {
        Ok(format!("{what} within {off:.0e} of {tolerance:.0e}"))
    } else {
        Err(format!(
            "{what}: {got:?} is not {expected:?} within {tolerance:e}"
        ))
    }
}

/// Checks a condition.
pub(super) fn holds(what: &str, does: bool, detail: String) -> FactResult {
    if does {
        Ok(format!("{what}: {detail}"))
    } else {
        Err(format!("{what} does not hold: {detail}"))
    }
}

/// Joins results in one line. If one fails, the result is the first failure alone.
pub(super) fn together(parts: impl IntoIterator<Item = FactResult>) -> FactResult {
    parts
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .map(|details| details.join("; "))
}

/// Joins many results in one sentence with their number.
pub(super) fn summarised(parts: Vec<FactResult>, what: &str, tolerance: f64) -> FactResult {
    let count = parts.len();
    together(parts).map(|_| format!("{what}: {count} cases within {tolerance:.0e}"))
}
