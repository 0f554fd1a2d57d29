//! What differs between the layers of a decoder: rotary embedding and window.

use std::collections::BTreeSet;

/// What differs between the layers. By default all are alike, rotate queries and keys, and see every earlier token.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayerPattern {
    /// Layers without rotary embedding.
    pub unrotated: BTreeSet<usize>,
    /// Layers with a window.
    pub windowed: BTreeSet<usize>,
    /// The number of tokens that a token sees in these layers, itself included; at least 1.
    pub window: usize,
    /// θ of the rotary embedding in these layers, without scaling. `None` if they have that of the other layers.
    pub windowed_theta: Option<f64>,
}

/// Which rotary embedding a layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LayerRotary {
    None,
    Main,
    Windowed,
}

impl LayerPattern {
    /// The rotary embedding of a layer.
    pub(super) fn rotary(&self, layer: usize) -> LayerRotary {
        if self.unrotated.contains(&layer) {
            LayerRotary::None
        } else if self.windowed_theta.is_some() && self.windowed.contains(&layer) {
            LayerRotary::Windowed
        } else {
            LayerRotary::Main
        }
    }

    /// The window of a layer, if it has one.
    pub(super) fn window(&self, layer: usize) -> Option<usize> {
        self.windowed.contains(&layer).then_some(self.window)
    }
}
