//! Activation checkpointing (Chen et al., arXiv 1604.06174): the forward pass of a decoder keeps
//! only the input of each layer, and the backward pass computes the other activations again.
//!
//! It needs less memory and more time. In a recipe it is `activations = "checkpointed"`.

use crate::model::decoder::{Decoder, DecoderLayer};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients, Int, Tensor};

/// A forward pass of a decoder with activation checkpointing.
#[derive(Debug, Clone)]
pub struct CheckpointedForward {
    tokens: Tensor<2, Int>,
    /// The input of each layer, and of the last norm.
    inputs: Vec<Tensor<3>>,
    /// Hidden states after the last norm, `[batch, time, hidden]`. The backward pass of a loss ends
    /// here.
    pub hidden: Tensor<3>,
}

impl Decoder {
    /// Computes the same hidden states as [`Decoder::hidden`] without recording the layers.
    /// [`Decoder::backward_checkpointed`] continues the backward pass through them.
    ///
    /// # Shapes
    /// `tokens` `[batch, time]`.
    #[must_use]
    pub fn forward_checkpointed(&self, tokens: Tensor<2, Int>) -> CheckpointedForward {
        // Without autodiff: a tensor that is only detached stays in the memory of the graph until a
        // backward pass.
        let unrecorded = self.valid();
        let positions =
            unrecorded.positions(tokens.dims()[1], &unrecorded.embed_tokens.val().device());
        let mut stream = unrecorded.embedded(tokens.clone().inner());
        let mut inputs = Vec::with_capacity(self.layers.len() + 1);
        for layer in &unrecorded.layers {
            inputs.push(stream.clone());
            stream = unrecorded.through(layer, stream, &positions);
        }
        let hidden = unrecorded
            .last_norm(stream.clone())
            .autodiff()
            .require_grad();
        inputs.push(stream);
        CheckpointedForward {
            tokens,
            inputs,
            hidden,
        }
    }

    /// Returns the gradients of all trainable parameters of the layers, the last norm and the
    /// embedding, if `gradient` is that of the hidden states. It goes layer by layer from the last.
    /// The gradient of a parameter is the sum over the returned values.
    ///
    /// # Shapes
    /// `gradient` `[batch, time, hidden]`, of [`CheckpointedForward::hidden`], without autodiff.
    ///
    /// # Panics
    /// Never: the input of every layer has a gradient.
    #[must_use]
    pub fn backward_checkpointed(
        &self,
        forward: CheckpointedForward,
        gradient: Tensor<3>,
    ) -> Vec<Gradients> {
        let CheckpointedForward {
            tokens,
            mut inputs,
            hidden,
        } = forward;
        drop(hidden);
        let positions = self.positions(tokens.dims()[1], &self.embed_tokens.val().device());
        let mut found = Vec::with_capacity(inputs.len() + 1);
        let (gradients, mut gradient) =
            backward_block(last(&mut inputs), gradient, |stream| self.last_norm(stream));
        found.push(gradients);
        let embedding_learns = self.embed_tokens.is_require_grad();
        // Below the first layer with a trainable parameter nothing needs a gradient.
        let lowest = if embedding_learns {
            0
        } else {
            self.layers
                .iter()
                .position(learns)
                .unwrap_or(self.layers.len())
        };
        for layer in self.layers[lowest..].iter().rev() {
            let gradients;
            (gradients, gradient) = backward_block(last(&mut inputs), gradient, |stream| {
                self.through(layer, stream, &positions)
            });
            found.push(gradients);
        }
        if embedding_learns {
            found.push(
                (self.embedded(tokens) * gradient.autodiff())
                    .sum()
                    .backward(),
            );
        }
        found
    }
}

/// Computes a block again from its input. Returns the gradients of its parameters, and that of its
/// input, if `gradient` is that of its output.
fn backward_block(
    input: Tensor<3>,
    gradient: Tensor<3>,
    block: impl FnOnce(Tensor<3>) -> Tensor<3>,
) -> (Gradients, Tensor<3>) {
    let input = input.autodiff().require_grad();
    let mut gradients = (block(input.clone()) * gradient.autodiff())
        .sum()
        .backward();
    let gradient = input
        .grad_remove(&mut gradients)
        .expect("the sum depends on the input");
    (gradients, gradient)
}

fn last(inputs: &mut Vec<Tensor<3>>) -> Tensor<3> {
    inputs.pop().expect("every layer had an input")
}

/// Whether a parameter of the layer is trainable.
fn learns(layer: &DecoderLayer) -> bool {
    let mut visitor = TrainableVisitor { found: false };
    layer.visit(&mut visitor);
    visitor.found
}

/// Looks for a trainable parameter.
struct TrainableVisitor {
    found: bool,
}

impl ModuleVisitor for TrainableVisitor {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found |= param.is_require_grad();
    }
}
