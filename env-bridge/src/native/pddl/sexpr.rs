//! S-expressions: words and lists in parentheses, with their places. Knows nothing of what the words mean.
//!
//! As the planner's reader does: everything is lower-case (the caller lowers the text first), `;` starts a comment,
//! `?` always starts a new word, and outside comments only ASCII is allowed.

use crate::error::Fault;

/// Lists may be nested this deep. The deepest official game needs 12.
pub(crate) const DEPTH_LIMIT: usize = 100;

/// A word or a list, and the byte where it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node<'a> {
    pub(crate) at: usize,
    pub(crate) kind: Kind<'a>,
}

/// What a [`Node`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    Word(&'a str),
    List(Vec<Node<'a>>),
}

impl<'a> Node<'a> {
    pub(crate) fn word(&self) -> Result<&'a str, Fault> {
        match &self.kind {
            Kind::Word(word) => Ok(word),
            Kind::List(_) => Err(Fault::new(self.at, "expected a word, found a list")),
        }
    }

    pub(crate) fn list(&self) -> Result<&[Node<'a>], Fault> {
        match &self.kind {
            Kind::List(items) => Ok(items),
            Kind::Word(word) => Err(Fault::new(
                self.at,
                format!("expected a list, found {word:?}"),
            )),
        }
    }

    /// The first word of a list and what follows it.
    pub(crate) fn headed(&self) -> Result<(&'a str, &[Node<'a>]), Fault> {
        let items = self.list()?;
        let (head, rest) = items
            .split_first()
            .ok_or_else(|| Fault::new(self.at, "expected a word, found ()"))?;
        Ok((head.word()?, rest))
    }
}

/// Parses one list that fills the whole of a lower-case text.
pub(crate) fn parse(text: &str) -> Result<Node<'_>, Fault> {
    let bytes = text.as_bytes();
    let mut open: Vec<(usize, Vec<Node<'_>>)> = Vec::new();
    let mut done: Option<Node<'_>> = None;
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
                let node = Node {
                    at: from,
                    kind: Kind::List(items),
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
                let word = Node {
                    at: start,
                    kind: Kind::Word(&text[start..at]),
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

    fn show(node: &Node<'_>) -> String {
        match &node.kind {
            Kind::Word(word) => (*word).to_owned(),
            Kind::List(items) => {
                format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" "))
            }
        }
    }

    #[test]
    fn comments_vanish_and_question_marks_split_words() {
        let node = parse("(a ; (b\n (c?d ?e)(f))").expect("parses");
        assert_eq!(show(&node), "[a [c ?d ?e] [f]]");
    }

    #[test]
    fn faults_say_where() {
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
    fn a_mountain_of_parentheses_is_refused_without_recursion() {
        let fault = parse(&"(".repeat(1_000_000)).expect_err("too deep");
        assert_eq!(
            fault,
            Fault::new(DEPTH_LIMIT, "lists are nested deeper than 100")
        );
    }
}
