//! Which normalizers, pre-tokenizers and decoders are allowed, and how much work they may cost.

use serde_json::Value;

/// Most regular expressions, and most bytes of all together.
const MOST_PATTERNS: usize = 8;
const LONGEST_PATTERNS: usize = 2048;
/// Largest product of all counts such as `{1,3}` in these patterns. If a pattern is repeated n
/// times, it is compiled n times.
const MOST_REPEATED: u64 = 256;
/// Most parts that make a text longer; each one may double it.
const MOST_GROWING: usize = 4;
/// Most bytes that are put before a text.
const LONGEST_PREFIX: usize = 16;

/// What regular expressions and growing texts may still cost.
pub(super) struct GrowthBounds {
    patterns: usize,
    length: usize,
    repeated: u64,
    growing: usize,
}

impl GrowthBounds {
    pub(super) fn new() -> Self {
        Self {
            patterns: MOST_PATTERNS,
            length: LONGEST_PATTERNS,
            repeated: 1,
            growing: MOST_GROWING,
        }
    }

    pub(super) fn normalizer(&mut self, kind: &str, part: &Value) -> Result<(), String> {
        match kind {
            "NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" | "Nmt" | "Strip" | "StripAccents" => {
                Ok(())
            }
            "ByteLevel" => self.grow(),
            "Prepend" => {
                self.grow()?;
                // If the prefix is empty, the library panics: it loses its place in the text.
                match part["prepend"].as_str().map_or(0, str::len) {
                    1..=LONGEST_PREFIX => Ok(()),
                    length => Err(format!(
                        "Prepend has {length} bytes, 1 to {LONGEST_PREFIX} are allowed"
                    )),
                }
            }
            "Replace" => match (&part["pattern"]["String"], &part["pattern"]["Regex"]) {
                (Value::String(pattern), Value::Null) => check_shrinks(pattern, part),
                (Value::Null, Value::String(pattern)) => {
                    self.pattern(pattern)?;
                    self.grow()?;
                    // If the pattern matches an empty text, the content goes between all letters.
                    check_shrinks("x", part)
                }
                _ => Err("Replace without a pattern".into()),
            },
            other => Err(format!("{other:?} is not supported")),
        }
    }

    pub(super) fn pre_tokenizer(&mut self, kind: &str, part: &Value) -> Result<(), String> {
        match kind {
            "Digits" | "Punctuation" | "Whitespace" | "WhitespaceSplit" => Ok(()),
            "ByteLevel" | "Metaspace" => self.grow(),
            "Split" => match (&part["pattern"]["String"], &part["pattern"]["Regex"]) {
                (Value::String(pattern), Value::Null) | (Value::Null, Value::String(pattern)) => {
                    self.pattern(pattern)
                }
                _ => Err("Split without a pattern".into()),
            },
            other => Err(format!("{other:?} is not supported")),
        }
    }

    fn grow(&mut self) -> Result<(), String> {
        let left = self.growing.checked_sub(1);
        self.growing =
            left.ok_or_else(|| format!("more than {MOST_GROWING} parts that make a text longer"))?;
        Ok(())
    }

    fn pattern(&mut self, pattern: &str) -> Result<(), String> {
        let left = self.patterns.checked_sub(1);
        self.patterns = left.ok_or_else(|| format!("more than {MOST_PATTERNS} patterns"))?;
        let left = self.length.checked_sub(pattern.len());
        self.length =
            left.ok_or_else(|| format!("patterns of more than {LONGEST_PATTERNS} bytes"))?;
        self.repeated = counts(pattern).fold(self.repeated, u64::saturating_mul);
        if self.repeated > MOST_REPEATED {
            return Err(format!(
                "pattern {pattern:?} repeats too much: {MOST_REPEATED} times are allowed"
            ));
        }
        Ok(())
    }
}

pub(super) fn check_decoder(kind: &str, part: &Value) -> Result<(), String> {
    match kind {
        "ByteLevel" | "ByteFallback" | "Fuse" | "Metaspace" => Ok(()),
        "Replace" => match part["pattern"]["String"].as_str() {
            Some(pattern) => check_shrinks(pattern, part),
            None => Err("Replace without a text to replace".into()),
        },
        // If a token is shorter than what is to be cut, the library subtracts below 0.
        "Strip" if part["stop"] != 0 => Err("Strip at the end is not supported".into()),
        "Strip" => Ok(()),
        other => Err(format!("{other:?} is not supported")),
    }
}

/// The counts of a pattern's `{3}` and `{1,3}`. The braces of a letter by number, `\x{3000}`, are
/// not counts.
fn counts(pattern: &str) -> impl Iterator<Item = u64> {
    pattern.match_indices('{').filter_map(|(place, _)| {
        let by_number = [r"\x", r"\u", r"\U"]
            .iter()
            .any(|start| pattern[..place].ends_with(start));
        let (inside, _) = pattern[place + 1..].split_once('}')?;
        let parts = inside
            .split(',')
            .map(str::trim)
            .filter(|part| part.starts_with(|c: char| c.is_ascii_digit()));
        // If a count has more digits than a u64, it is too large.
        parts
            .map(|part| part.parse().unwrap_or(u64::MAX))
            .max()
            .filter(|_| !by_number)
    })
}

/// Refuses a replacement if it makes a text longer.
fn check_shrinks(pattern: &str, part: &Value) -> Result<(), String> {
    let content = part["content"].as_str().unwrap_or_default();
    if pattern.is_empty()
        || pattern.len() > LONGEST_PATTERNS
        || content.chars().count() > pattern.chars().count()
    {
        return Err(format!("Replace by {content:?} makes a text longer"));
    }
    Ok(())
}
