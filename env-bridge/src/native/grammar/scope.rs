//! The placeholders in scope.

use super::program::FramePlace;

/// The placeholders that are bound where a symbol is used, by place, newest last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct PlaceholderScope<'a>(pub(super) Vec<Placeholder<'a>>);

/// A placeholder: its name and type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Placeholder<'a> {
    pub(super) name: &'a str,
    pub(super) type_name: &'a str,
}

impl PlaceholderScope<'_> {
    /// Returns the place of a placeholder, by name and type.
    pub(super) fn place(&self, wanted: Placeholder<'_>) -> Option<FramePlace> {
        self.0
            .iter()
            .position(|known| *known == wanted)
            .map(|place| place as FramePlace)
    }

    /// Returns the place of the newest placeholder with this name.
    pub(super) fn newest(&self, name: &str) -> Option<FramePlace> {
        self.0
            .iter()
            .rposition(|known| known.name == name)
            .map(|place| place as FramePlace)
    }
}
