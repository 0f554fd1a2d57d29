//! The reading test of a training job. The test itself is in `crate::measure::reading`.

use agent::inference::PolicyInference;

/// The columns of the reading test, in order.
pub(super) const READING_COLUMNS: [&str; 4] = [
    "reading/there",
    "reading/absent",
    "reading/pairs",
    "reading/induction",
];

/// The results of a reading test, each in [0, 1].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ReadingNumbers {
    /// Mean probability of `take` if the object is listed.
    pub there: Option<f64>,
    /// The same if it is not listed.
    pub absent: Option<f64>,
    /// Share of the pairs in which greedy play takes the object if it is listed, and only then.
    pub pairs: Option<f64>,
    /// Mean probability of a token in the second copy of a repeated list; `None` if there are no
    /// lists.
    pub induction: Option<f64>,
}

impl ReadingNumbers {
    /// Returns the numbers in the order of [`READING_COLUMNS`].
    pub(super) fn numbers(&self) -> [Option<f64>; 4] {
        [self.there, self.absent, self.pairs, self.induction]
    }
}

/// A reading test that a training job runs on its policy.
pub trait ReadingProbe {
    /// Runs the test. It must not depend on anything but the policy.
    fn read(&self, policy: &PolicyInference) -> ReadingNumbers;
}
