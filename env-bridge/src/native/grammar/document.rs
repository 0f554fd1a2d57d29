//! Parses the TWL2 document: its grammar blocks and actions.

use crate::error::Fault;
use rustc_hash::FxHashMap;
use serde::Deserialize;

/// A rule as the JSON of a grammar block contains it.
#[derive(Debug, Deserialize)]
pub(super) struct RuleText {
    pub(super) rhs: String,
    #[serde(default)]
    pub(super) condition: Option<String>,
}

/// The rules of a symbol, and the byte where their block starts.
pub(super) struct SymbolRules {
    pub(super) at: usize,
    pub(super) rules: Vec<RuleText>,
}

/// An action of the document.
pub(super) struct ActionBlock<'a> {
    pub(super) at: usize,
    pub(super) template: Option<&'a str>,
    pub(super) feedback: Option<&'a str>,
}

/// A parsed document.
#[derive(Default)]
pub(super) struct Document<'a> {
    pub(super) symbols: FxHashMap<String, SymbolRules>,
    pub(super) actions: FxHashMap<String, ActionBlock<'a>>,
}

impl<'a> Document<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, Fault> {
        let mut document = Self::default();
        let mut reader = DocumentReader { text, at: 0 };
        loop {
            reader.skip();
            if reader.rest().is_empty() {
                return Ok(document);
            }
            if reader.accept("action") {
                document.read_action(&mut reader)?;
            } else if reader.accept("grammar") {
                let (at, block) = reader.field("\"\"\"")?;
                document.add_rules(at, block, text)?;
            } else {
                return Err(Fault::new(reader.at, "expected \"action\" or \"grammar\""));
            }
        }
    }

    fn read_action(&mut self, reader: &mut DocumentReader<'a>) -> Result<(), Fault> {
        let name = reader.name()?.to_lowercase();
        let mut action = ActionBlock {
            at: reader.at,
            template: None,
            feedback: None,
        };
        let mut block = None;
        reader.expect("{")?;
        while !reader.accept("}") {
            if reader.accept("template") {
                action.template = Some(reader.field("\"")?.1);
            } else if reader.accept("feedback") {
                action.feedback = Some(reader.field("\"")?.1);
            } else if reader.accept("pddl") {
                reader.field("\"\"\"")?;
            } else if reader.accept("grammar") {
                block = Some(reader.field("\"\"\"")?);
            } else {
                return Err(Fault::new(
                    reader.at,
                    "expected \"template\", \"feedback\", \"grammar\", \"pddl\" or \"}\"",
                ));
            }
        }
        self.actions.insert(name, action);
        match block {
            None => Ok(()),
            Some((at, block)) if block.lines().any(is_comment) => {
                self.add_rules(at, &without_comments(block), reader.text)
            }
            Some((at, block)) => self.add_rules(at, block, reader.text),
        }
    }

    /// Adds the symbols of one JSON block. If an earlier block has the same symbol, it is replaced.
    fn add_rules(&mut self, at: usize, block: &str, text: &str) -> Result<(), Fault> {
        let symbols: FxHashMap<String, Vec<RuleText>> =
            serde_json::from_str(block).map_err(|error| {
                let line_start: usize = block
                    .split_inclusive('\n')
                    .take(error.line().saturating_sub(1))
                    .map(str::len)
                    .sum();
                let offset = (at + line_start + error.column().saturating_sub(1)).min(text.len());
                let message = error.to_string();
                let reason = message.split(" at line ").next().unwrap_or_default();
                Fault::new(
                    offset,
                    format!("a grammar block is not JSON rules: {reason}"),
                )
            })?;
        for (name, rules) in symbols {
            self.symbols.insert(name, SymbolRules { at, rules });
        }
        Ok(())
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// Replaces comment lines by blanks, so that the places of faults stay correct.
fn without_comments(block: &str) -> String {
    let mut lines = Vec::new();
    for line in block.split('\n') {
        lines.push(if is_comment(line) {
            " ".repeat(line.len())
        } else {
            line.to_owned()
        });
    }
    lines.join("\n")
}

/// Returns whether a character can be part of a name.
pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

struct DocumentReader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> DocumentReader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Skips blanks and `# …` comments.
    fn skip(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with('#') {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn accept(&mut self, token: &str) -> bool {
        self.skip();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str) -> Result<(), Fault> {
        if self.accept(token) {
            Ok(())
        } else {
            Err(Fault::new(self.at, format!("expected {token:?}")))
        }
    }

    fn name(&mut self) -> Result<&'a str, Fault> {
        self.skip();
        let rest = self.rest();
        let end = rest
            .find(|c: char| !is_word(c) && c != '/' && c != '-')
            .unwrap_or(rest.len());
        if end == 0 {
            return Err(Fault::new(self.at, "expected a name"));
        }
        self.at += end;
        Ok(&rest[..end])
    }

    /// Reads a quoted text. Returns the byte where it starts, and the text.
    fn quoted(&mut self, quote: &str) -> Result<(usize, &'a str), Fault> {
        self.expect(quote)?;
        let start = self.at;
        let rest = self.rest();
        let end = rest
            .find(quote)
            .ok_or_else(|| Fault::new(start, format!("this {quote} is never closed")))?;
        self.at += end + quote.len();
        Ok((start, &rest[..end]))
    }

    /// Reads `:: QUOTED;`.
    fn field(&mut self, quote: &str) -> Result<(usize, &'a str), Fault> {
        self.expect("::")?;
        let value = self.quoted(quote)?;
        self.expect(";")?;
        Ok(value)
    }
}
