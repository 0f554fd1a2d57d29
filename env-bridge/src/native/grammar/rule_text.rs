//! Splits the text of a rule into symbols, by the rules of TextWorld's parser.

use super::document::is_word;

/// One symbol of a rule text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TextSymbol<'a> {
    /// Plain text.
    Text(&'a str),
    /// `#symbol#`.
    Call(&'a str),
    /// `{content | query}`, or `[{content | query}]` if `list` is true.
    Each {
        content: EachContent<'a>,
        query: Option<&'a str>,
        list: bool,
    },
}

/// The content of [`TextSymbol::Each`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EachContent<'a> {
    Call(&'a str),
    Expression(&'a str),
}

/// Splits a rule text into symbols, up to the first character that fits none.
pub(super) fn split_rule(text: &str) -> Vec<TextSymbol<'_>> {
    let mut scanner = RuleScanner { text, at: 0 };
    let mut symbols = Vec::new();
    loop {
        let before = scanner.at;
        match scanner.symbol() {
            Some(symbol) => symbols.push(symbol),
            None => return symbols,
        }
        if scanner.at == before || scanner.at == text.len() {
            return symbols;
        }
    }
}

struct RuleScanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> RuleScanner<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Skips tabs. At the start of a line, skips all white space and `//` comments too.
    fn skip(&mut self) {
        loop {
            let before = self.at;
            self.at += self.rest().len() - self.rest().trim_start_matches('\t').len();
            if self.at == 0 || self.text.as_bytes()[self.at - 1] == b'\n' {
                let rest = self.rest();
                if rest.starts_with("//") {
                    self.at += rest.find('\n').map_or(rest.len(), |end| end + 1);
                } else {
                    self.at += rest.len() - rest.trim_start().len();
                }
            }
            if self.at == before {
                return;
            }
        }
    }

    /// Skips blanks and then a token.
    fn token(&mut self, token: &str) -> Option<()> {
        self.skip();
        self.rest()
            .starts_with(token)
            .then(|| self.at += token.len())
    }

    /// Reads the longest run of characters for which `pass` is true. Returns `None` if it is empty.
    fn run(&mut self, pass: impl Fn(char) -> bool) -> Option<&'a str> {
        let rest = self.rest();
        let end = rest.find(|c| !pass(c)).unwrap_or(rest.len());
        self.at += end;
        (end > 0).then(|| &rest[..end])
    }

    /// Calls `read`. If it fails, goes back to the place before.
    fn attempt<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let before = self.at;
        let found = read(self);
        if found.is_none() {
            self.at = before;
        }
        found
    }

    fn symbol(&mut self) -> Option<TextSymbol<'a>> {
        self.attempt(Self::list)
            .or_else(|| self.attempt(|s| s.each(false)))
            .or_else(|| self.attempt(Self::call).map(TextSymbol::Call))
            .or_else(|| self.plain())
    }

    fn list(&mut self) -> Option<TextSymbol<'a>> {
        self.token("[")?;
        let inner = self.each(true)?;
        self.token("]")?;
        Some(inner)
    }

    fn each(&mut self, list: bool) -> Option<TextSymbol<'a>> {
        self.token("{")?;
        let content = match self.attempt(Self::call) {
            Some(name) => EachContent::Call(name),
            None => {
                self.skip();
                EachContent::Expression(
                    self.run(|c| !matches!(c, '|' | '[' | ']' | '{' | '}' | '\n' | '<' | '>'))?,
                )
            }
        };
        let query = self.attempt(|s| {
            s.run(char::is_whitespace);
            s.rest().starts_with('|').then(|| s.at += 1)?;
            s.run(char::is_whitespace);
            s.skip();
            s.run(|c| !matches!(c, ';' | '|' | '{' | '}' | '\n' | '[' | ']' | '#'))
        });
        self.token("}")?;
        Some(TextSymbol::Each {
            content,
            query,
            list,
        })
    }

    fn call(&mut self) -> Option<&'a str> {
        self.token("#")?;
        self.skip();
        let name = self.run(is_tag)?;
        self.token("#")?;
        Some(name)
    }

    fn plain(&mut self) -> Option<TextSymbol<'a>> {
        self.skip();
        let quoted = self.attempt(|s| {
            s.token("\"")?;
            let text = s.run(is_plain_text).unwrap_or("");
            s.token("\"")?;
            Some(text)
        });
        // If the plain text is empty, the place does not change and the rule text ends.
        quoted
            .or_else(|| self.run(is_plain_text))
            .map(TextSymbol::Text)
    }
}

fn is_plain_text(c: char) -> bool {
    !matches!(c, ';' | '|' | '"' | '<' | '>' | '[' | ']' | '#' | '{' | '}')
}

/// Returns whether a character can be part of a symbol's name.
fn is_tag(c: char) -> bool {
    is_word(c)
        || c.is_whitespace()
        || matches!(c, '(' | ')' | '/' | '!' | '<' | '>' | '-' | ',' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each<'a>(expression: &'a str, query: Option<&'a str>, list: bool) -> TextSymbol<'a> {
        TextSymbol::Each {
            content: EachContent::Expression(expression),
            query,
            list,
        }
    }

    /// The expected rows were printed by TextWorld's own parser.
    #[test]
    fn rule_texts_split_as_textworld_splits_them() {
        let rows: Vec<(&str, Vec<TextSymbol<'_>>)> = vec![
            ("a;b#c#", vec![TextSymbol::Text("a")]),
            ("x <b> y", vec![TextSymbol::Text("x ")]),
            (
                "hi {o.name} (in)} tail",
                vec![
                    TextSymbol::Text("hi "),
                    each("o.name", None, false),
                    TextSymbol::Text(" (in)"),
                ],
            ),
            (
                "\n\n  lead\n#a#\n b",
                vec![
                    TextSymbol::Text("lead\n"),
                    TextSymbol::Call("a"),
                    TextSymbol::Text("\n b"),
                ],
            ),
            (
                "#a#\tfoo",
                vec![TextSymbol::Call("a"), TextSymbol::Text("foo")],
            ),
            ("// c\nx", vec![TextSymbol::Text("x")]),
            (
                "say \"hi\" there",
                vec![
                    TextSymbol::Text("say "),
                    TextSymbol::Text("hi"),
                    TextSymbol::Text(" there"),
                ],
            ),
            ("say \"hi there", vec![TextSymbol::Text("say ")]),
            (
                "#a#  #b#",
                vec![
                    TextSymbol::Call("a"),
                    TextSymbol::Text("  "),
                    TextSymbol::Call("b"),
                ],
            ),
            (
                "[{o.name|p(o)}] x",
                vec![each("o.name", Some("p(o)"), true), TextSymbol::Text(" x")],
            ),
            (
                "{o.name  |  p(o:t) & q(o:t)}",
                vec![each("o.name  ", Some("p(o:t) & q(o:t)"), false)],
            ),
            ("#a b#", vec![TextSymbol::Call("a b")]),
            (
                "#a#//b",
                vec![TextSymbol::Call("a"), TextSymbol::Text("//b")],
            ),
            (
                "x\n\n  {o.name}",
                vec![TextSymbol::Text("x\n\n  "), each("o.name", None, false)],
            ),
            (
                "a\n//c {o.name}",
                vec![TextSymbol::Text("a\n//c "), each("o.name", None, false)],
            ),
            ("a [b] c", vec![TextSymbol::Text("a ")]),
        ];
        for (text, expected) in rows {
            assert_eq!(split_rule(text), expected, "{text:?}");
        }
    }
}
