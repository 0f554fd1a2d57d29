//! Peers: Python scripts that measure other software on the same work.

use crate::ui;
use anyhow::{Context, bail};
use std::io::Write;
use std::process::{Command, Stdio};

/// How the threads of a peer wait (`OMP_WAIT_POLICY`): asleep or in a busy loop. A busy loop is faster if nothing else runs on the
/// machine, and far slower otherwise. A peer is measured with both, and its faster reading counts.
pub(super) const WAIT_POLICIES: [&str; 2] = ["PASSIVE", "ACTIVE"];

/// Runs `script` under the Python interpreter of `command`, which reads it from stdin, and returns
/// its stdout. Its stderr is passed on.
///
/// # Errors
/// If the interpreter cannot be started, or if the script fails.
pub(super) fn run_script(command: &mut Command, script: &str) -> anyhow::Result<String> {
    let name = command.get_program().display().to_string();
    let mut child =
        (command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()).map_err(|error| {
            ui::WrongUse(format!("{name}: {error}\nhint: name a Python interpreter"))
        })?;
    child
        .stdin
        .take()
        .context("the peer has no stdin")?
        .write_all(script.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{name} could not measure ({}); its messages are above",
            output.status
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}
