//! Runs the binary, and checks what it prints and its exit code.

use crate::tiny;
use scenarios::Suite;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// What a run of the binary left behind.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the binary in a folder.
pub(crate) fn hearth(folder: &Path, arguments: &[&str]) -> Ran {
    hearth_told(folder, arguments, "")
}

/// Runs a command line without quotes.
pub(crate) fn hearth_line(folder: &Path, arguments: &str) -> Ran {
    hearth(folder, &arguments.split_whitespace().collect::<Vec<_>>())
}

/// Runs the binary in a folder with this text on stdin.
pub(crate) fn hearth_told(folder: &Path, arguments: &[&str], stdin: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hearth"))
        .args(arguments)
        .current_dir(folder)
        .env("COLUMNS", "110")
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(stdin.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Ran {
    /// Requires exit code 0. Returns what is on stdout.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout
    }

    /// The one JSON object on stdout.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let text = self.done();
        assert!(
            text.ends_with("}\n") && text.lines().count() == 1,
            "not one line of JSON: {text}"
        );
        serde_json::from_str(&text).unwrap()
    }

    /// Requires exit code 2, no output, and an error that contains the text.
    #[track_caller]
    pub(crate) fn refused_with(self, text: &str) {
        assert_eq!(
            (self.code, self.stdout.as_str()),
            (2, ""),
            "{}",
            self.stderr
        );
        assert!(self.stderr.contains(text), "{}", self.stderr);
    }

    /// Requires this exit code, exactly this error, and no output.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, text: &str) {
        assert_eq!(
            (self.code, self.stderr.as_str(), self.stdout.as_str()),
            (code, text, "")
        );
    }
}

/// A new temporary folder.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// `games`, a suite of six games of train, three of valid_seen and two of valid_unseen.
pub(crate) fn with_games() -> (TempDir, Suite) {
    let folder = folder();
    let suite = tiny::suite(&folder.path().join("games"));
    (folder, suite)
}

/// Returns the arguments with which the expert plays the train games of `games` into the store `out`.
pub(crate) fn expert_plays<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let plays = [
        "collect", "--policy", "expert", "--suite", "games", "--out", out,
    ];
    [&plays, more].concat()
}

/// Requires that an object has these keys.
#[track_caller]
pub(crate) fn has_keys(object: &Value, keys: &[&str]) {
    let found: Vec<&str> = object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    for key in keys {
        assert!(found.contains(key), "{key} is not among {found:?}");
    }
}
