//! Two measures of plain English: conditions are written with "if", and the README has short
//! sentences.

use super::sources::{files, root, rust_files};
use regex::Regex;
use std::fs;

/// Occurrences of "if" in 1000 words of comments and docs, at least.
const IFS: f64 = 4.0;
/// Words of a README sentence at the 90th percentile, at most.
const SENTENCE_WORDS: usize = 30;
/// Lines of the README, at most.
const README_LINES: usize = 120;

#[test]
fn conditions_are_written_with_if() {
    let mut comments: String = rust_files(".")
        .iter()
        .flat_map(|(_, text)| text.lines())
        .filter_map(|line| line.trim_start().strip_prefix("//"))
        .map(|comment| comment.to_string() + "\n")
        .collect();
    for file in files(".") {
        if file.extension().is_some_and(|extension| extension == "md") {
            comments += &prose(&fs::read_to_string(root().join(file)).unwrap());
        }
    }
    let words: Vec<String> = words(&comments);
    assert!(
        words.len() > 30_000,
        "only {} words were found",
        words.len()
    );
    let ifs = words.iter().filter(|word| *word == "if").count();
    let share = 1000.0 * ifs as f64 / words.len() as f64;
    assert!(
        share >= IFS,
        "\"if\" occurs {share:.1} times per 1000 words"
    );
}

#[test]
fn the_readme_is_short_and_has_short_sentences() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let lines = text.lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines");
    let end = Regex::new(r"[.!?:](?:\s+|$)|\n\s*\n|\n\s*[-*] ").unwrap();
    let mut lengths: Vec<usize> = end
        .split(&prose(&text))
        .map(|sentence| words(sentence).len())
        .filter(|length| *length > 0)
        .collect();
    lengths.sort_unstable();
    assert!(
        lengths.len() > 20,
        "only {} sentences were found",
        lengths.len()
    );
    let percentile = lengths[(lengths.len() * 9).div_ceil(10) - 1];
    assert!(
        percentile <= SENTENCE_WORDS,
        "one sentence in ten has more than {percentile} words"
    );
}

/// Markdown without code blocks, tables and headings.
fn prose(markdown: &str) -> String {
    let mut in_code = false;
    let mut kept = String::new();
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
            continue;
        }
        if in_code || line.starts_with('|') || line.starts_with('#') {
            kept.push('\n');
            continue;
        }
        kept += line;
        kept.push('\n');
    }
    kept
}

fn words(text: &str) -> Vec<String> {
    text.split(|letter: char| !letter.is_alphabetic() && letter != '\'')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}
