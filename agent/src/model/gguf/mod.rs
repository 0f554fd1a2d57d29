//! Reads GGUF files, versions 2 and 3, little endian
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>), and returns their content with
//! Hugging Face's names, shapes and layouts.
//!
//! A file may come from a stranger. Each number that it claims is compared with the file's length
//! before memory is allocated. If a claim is wrong, the file is refused; the error names the file,
//! the byte and the cause. Nothing is memory-mapped. The header is read once. The data of a tensor is
//! read only if the tensor is needed, some blocks at a time, and converted directly to f32.
//!
//! - [`GgufFile`] is an open file: typed metadata, and tensors under the file's own names.
//! - `header` reads and checks the header; `metadata` has the types of its values.
//! - [`blocks`] turns quantised blocks into numbers.
//! - `sizes`, `config` and `tensors` give `config.json`, names, shapes and the order of rows.
//! - `vocabulary` and `tokenizer_json` give special tokens and `tokenizer.json`.

pub mod blocks;
mod config;
mod file;
mod header;
mod metadata;
mod sizes;
mod tensors;
#[cfg(test)]
mod test_files;
#[cfg(test)]
mod tests;
mod tokenizer_json;
mod vocabulary;

pub use file::GgufFile;
pub use header::TensorInfo;
pub use metadata::{MetadataNumber, MetadataValue, NumberArray};
pub use tensors::HfTensor;
pub use vocabulary::SpecialTokenIds;
