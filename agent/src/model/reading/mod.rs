//! What hearth's own decoder family adds to the Llama layout, so that a small decoder learns to read a
//! list: which of its tokens occur in the goal, what followed a token before, and short convolutions.
//!
//! | module | contains |
//! | --- | --- |
//! | [`config`] | the keys of `config.json` and the names and shapes of the tensors |
//! | [`features`] | the features of each token, computed from token ids alone |
//! | [`inputs`] | the embeddings of these features, on burn |

pub mod config;
pub mod features;
pub mod inputs;
