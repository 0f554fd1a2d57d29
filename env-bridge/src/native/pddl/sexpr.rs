//! S-expressions: words and lists in parentheses, with the byte where each starts.
//!
//! The rules are those of the planner's reader: everything is lower-case (the caller converts the
//! text first), `;` starts a comment, `?` always starts a new word, and a character outside a
//! comment must be ASCII.

use crate::error::Fault;

/// The largest nesting depth of lists. The deepest official game needs 12.
pub(crate) const DEPTH_LIMIT: usize = 100;

/// A word or a list, and the byte where it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sexpr<'a> {
    pub(crate) at: usize,
    pub(crate) kind: SexprKind<'a>,
}

/// What a [`Sexpr`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SexprKind<'a> {
    Word(&'a str),
    List(Vec<Sexpr<'a>>),
}

impl<'a> Sexpr<'a> {
    /// Returns the word, or a fault if this is a list.
    pub(crate) fn word(&self) -> Result<&'a str, Fault> {
        match &self.kind {
            SexprKind::Word(word) => Ok(word),
            SexprKind::List(_) => Err(Fault::new(self.at, "expected a word, found a list")),
        }
    }

    /// Returns the items of the list, or a fault if this is a word.
    pub(crate) fn list(&self) -> Result<&[Sexpr<'a>], Fault> {
        match &self.kind {
            SexprKind::List(items) => Ok(items),
            SexprKind::Word(word) => Err(Fault::new(
                self.at,
                format!("expected a list, found {word:?}"),
            )),
        }
    }

    /// Returns the first word of a list and the items after it.
    pub(crate) fn headed(&self) -> Result<(&'a str, &[Sexpr<'a>]), Fault> {
        let items = self.list()?;
        let (head, rest) = items
            .split_first()
            .ok_or_else(|| Fault::new(self.at, "expected a word, found ()"))?;
        Ok((head.word()?, rest))
    }
}

/// Parses a lower-case text that consists of one list.
pub(crate) fn parse(text: &str) -> Result<Sexpr<'_>, Fault> {
    let bytes = text.as_bytes();
    let mut open: Vec<(usize, Vec<Sexpr<'_>>)> = Vec::new();
    let mut done: Option<Sexpr<'_>> = None;
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let byte = bytes[at];
        if is_blank(byte) {
            at += 1;
            continue;
        }
        if byte == b';' {
            at = bytes[at..]
                .iter()
                .position(|b| *b == b'\n')
                .map_or(bytes.len(), |n| at + n);
            continue;
        }
        if done.is_some() {
            return Err(Fault::new(
                start,
                "unexpected text after the closing parenthesis",
            ));
        }
        match byte {
            b'(' => {
                if open.len() == DEPTH_LIMIT {
                    return Err(Fault::new(
                        start,
                        format!("lists are nested deeper than {DEPTH_LIMIT}"),
                    ));
                }
                open.push((start, Vec::new()));
                at += 1;
            }
            b')' => {
                let (from, items) = open
                    .pop()
                    .ok_or_else(|| Fault::new(start, "unexpected ')'"))?;
                let node = Sexpr {
                    at: from,
                    kind: SexprKind::List(items),
                };
                match open.last_mut() {
                    Some((_, outer)) => outer.push(node),
                    None => done = Some(node),
                }
                at += 1;
            }
            _ => {
                at += 1;
                while at < bytes.len() && !is_blank(bytes[at]) && !b"();?".contains(&bytes[at]) {
                    at += 1;
                }
                if let Some(n) = bytes[start..at].iter().position(|b| !b.is_ascii()) {
                    return Err(Fault::new(
                        start + n,
                        "non-ASCII character outside a comment",
                    ));
                }
                let word = Sexpr {
                    at: start,
                    kind: SexprKind::Word(&text[start..at]),
                };
                match open.last_mut() {
                    Some((_, outer)) => outer.push(word),
                    None => {
                        return Err(Fault::new(
                            start,
                            format!("expected '(', found {:?}", &text[start..at]),
                        ));
                    }
                }
            }
        }
    }
    match (open.last(), done) {
        (Some((from, _)), _) => Err(Fault::new(*from, "this '(' is never closed")),
        (None, Some(node)) => Ok(node),
        (None, None) => Err(Fault::new(0, "expected '(', found nothing")),
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | 0x09..=0x0d | 0x1c..=0x1f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(node: &Sexpr<'_>) -> String {
        match &node.kind {
            SexprKind::Word(word) => (*word).to_owned(),
            SexprKind::List(items) => {
                format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" "))
            }
        }
    }

    #[test]
    fn comments_are_removed_and_question_marks_split_words() {
        let node = parse("(a ; (b\n (c?d ?e)(f))").expect("parses");
        assert_eq!(show(&node), "[a [c ?d ?e] [f]]");
    }

    #[test]
    fn faults_contain_the_place() {
        for (text, at, reason) in [
            ("", 0, "expected '(', found nothing"),
            ("a", 0, "expected '(', found \"a\""),
            ("(a (b)", 0, "this '(' is never closed"),
            ("(a))", 3, "unexpected text after the closing parenthesis"),
            (" )", 1, "unexpected ')'"),
            ("(a é)", 3, "non-ASCII character outside a comment"),
        ] {
            assert_eq!(parse(text), Err(Fault::new(at, reason)), "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_without_recursion() {
        let fault = parse(&"(".repeat(1_000_000)).expect_err("too deep");
        assert_eq!(
            fault,
            Fault::new(DEPTH_LIMIT, "lists are nested deeper than 100")
        );
    }
}
