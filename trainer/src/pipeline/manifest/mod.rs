//! The outputs of stages on disk: what each was made from, whether it is complete, and what it contains. This
//! module handles names, inputs and files only; it does not depend on games, jobs or recipes.
//!
//! Each stage has a manifest beside its output: `stage.json` if the output is a folder (a training job), and
//! `NAME.stage.json` if the output is the files `NAME.*`. The manifest is written before the output begins
//! and again when the output is complete.
//!
//! A stage is identified by its inputs. If the inputs are the same, a finished output is reused and an
//! unfinished one continues. If they differ, the output is moved to `RUN/aside/STAGE.HASH`; if the inputs
//! later return, the output is moved back. Nothing is overwritten or deleted.
//!
//! The inputs contain a version number of the stages ([`VERSION`]) instead of the version of the code. So a
//! commit that does not change what a stage computes keeps all finished outputs. If you change what a stage
//! computes, increase that number. The manifest also records the code version, which is not an input.

mod inputs;
mod old_names;
mod paths;
mod record;

pub use inputs::{InputDifference, StageInputs, sentence};
pub use paths::{ASIDE, Claimed, OutputForm, StagePaths, all};
pub use record::{OutputState, StageManifest, StageOutput, VERSION};
