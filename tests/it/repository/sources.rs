//! Reads the repository's own sources, for the tests that check structure and language.

use regex::Regex;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The source folders of the crates, by crate name.
pub(crate) const CRATES: [(&str, &str); 6] = [
    ("hearth", "src"),
    ("scenarios", "scenarios/src"),
    ("env_bridge", "env-bridge/src"),
    ("agent", "agent/src"),
    ("kernels", "agent/kernels/src"),
    ("trainer", "trainer/src"),
];

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below a folder of the workspace, sorted. The paths are relative to the root.
///
/// Folders that git ignores, and hidden folders, are left out.
pub(crate) fn files(folder: &str) -> Vec<PathBuf> {
    const IGNORED: [&str; 4] = ["target", "runs", "models", "__pycache__"];
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && !IGNORED.contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if !name.starts_with('.') {
                found.push(path.strip_prefix(root()).unwrap().to_path_buf());
            }
        }
    }
    found.sort();
    found
}

/// The Rust files below a folder, with their text. The paths use `/`.
pub(crate) fn rust_files(folder: &str) -> Vec<(String, String)> {
    files(folder)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let text = fs::read_to_string(root().join(&path)).unwrap();
            (path.to_string_lossy().replace('\\', "/"), text)
        })
        .collect()
}

/// The text without comments, and with empty strings in place of string and character literals.
pub(crate) fn code_of(text: &str) -> String {
    static TOKENS: LazyLock<Regex> = LazyLock::new(|| {
        let comments = r"//[^\n]*|(?s:/\*.*?\*/)";
        let raw = (0..3).map(|hashes| {
            let hashes = "#".repeat(hashes);
            format!("r{hashes}\"(?s:.*?)\"{hashes}")
        });
        let raw: Vec<String> = raw.rev().collect();
        let plain = r#"b?"(?s:\\.|[^"\\])*"|b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^'\\])'"#;
        Regex::new(&format!("{comments}|{}|{plain}", raw.join("|"))).unwrap()
    });
    let replaced = TOKENS.replace_all(text, |found: &regex::Captures<'_>| {
        if found[0].starts_with('/') {
            ""
        } else {
            "\"\""
        }
    });
    replaced.into_owned()
}

/// The code before the first test module of the file.
pub(crate) fn without_tests(code: &str) -> &str {
    static TESTS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"#\[cfg\(test\)\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([a-z]+\))? )?mod \w+")
            .unwrap()
    });
    TESTS
        .find(code)
        .map_or(code, |tests| &code[..tests.start()])
}
