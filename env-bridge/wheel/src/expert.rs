//! hearth's expert.

use pyo3::prelude::*;
use scenarios::expert;

/// hearth's hand-coded expert. It plays household games from their texts alone and wins all of ALFWorld's; it is
/// another policy than ALFWorld's own expert.
#[pyclass(name = "Expert", module = "hearth_world._native")]
pub struct PyExpert {
    expert: expert::Expert,
    last: String,
}

#[pymethods]
impl PyExpert {
    #[new]
    #[pyo3(signature = (seed=0))]
    fn new(seed: u64) -> Self {
        Self {
            expert: expert::Expert::new(seed),
            last: String::new(),
        }
    }

    /// Returns the next command. `played` is the command that led to this text, if it is not the one that was returned
    /// last.
    #[pyo3(signature = (text, played=None))]
    fn act(&mut self, text: &str, played: Option<&str>) -> String {
        if let Some(played) = played.filter(|played| *played != self.last) {
            self.expert.replace_last(played);
        }
        self.last = self.expert.act(text);
        self.last.clone()
    }
}
