//! Checks the text of a template before it is compiled, and replaces `{% generation %}`.

use super::limits::{SOURCE, WORDS};
use minijinja::Error;
use minijinja::machinery::{Token, WhitespaceConfig, tokenize};

/// The text that is compiled in place of `source`; an error if the template is too large.
pub(super) fn prepared(source: &str) -> Result<String, String> {
    if source.len() > SOURCE {
        return Err(format!(
            "{} bytes are too long for a template; at most {SOURCE} are allowed",
            source.len()
        ));
    }
    let source = without_generation(source);
    check_words(&source)?;
    Ok(source)
}

/// How transformers treats white space around tags.
pub(super) fn whitespace() -> WhitespaceConfig {
    WhitespaceConfig {
        keep_trailing_newline: false,
        lstrip_blocks: true,
        trim_blocks: true,
    }
}

/// Line, if there is one, and cause of an error.
pub(super) fn reason(error: &Error) -> String {
    let line = error
        .line()
        .map_or(String::new(), |line| format!("line {line}: "));
    let cause = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_string);
    format!("{line}{cause}")
}

/// Replaces the tag `{% generation %}` by `{% if true %}`. The tag marks what the policy wrote and
/// renders as its body.
fn without_generation(source: &str) -> String {
    let mut kept = String::new();
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        let sign = &tag[..usize::from(tag.starts_with(['-', '+']))];
        let word = tag[sign.len()..].trim_start();
        let replacement = [("generation", " if true "), ("endgeneration", " endif ")]
            .into_iter()
            .find_map(|(name, by)| {
                let after = word.strip_prefix(name)?.trim_start();
                after
                    .trim_start_matches(['-', '+'])
                    .starts_with("%}")
                    .then_some((by, after))
            });
        kept.push_str(before);
        rest = tag;
        if let Some((by, after)) = replacement {
            kept.extend([sign, by]);
            rest = after;
        }
    }
    kept + rest
}

/// Refuses a text if the compiler itself would need too much for it: a constant such as
/// `'a' * 1000000`, which is folded at compile time, or recursion that needs no brackets.
fn check_words(source: &str) -> Result<(), String> {
    let mut words = 0;
    let mut branches = 0;
    let mut is_first_in_tag = false;
    let mut last = OperandKind::Other;
    for token in tokenize(source, false, Default::default(), whitespace()) {
        let (token, span) = token.map_err(|error| reason(&error))?;
        words = if matches!(token, Token::BlockStart | Token::VariableStart) {
            0
        } else {
            words + 1
        };
        branches += usize::from(is_first_in_tag && matches!(token, Token::Ident("elif")));
        is_first_in_tag = matches!(token, Token::BlockStart);
        if words > WORDS || branches > WORDS {
            return Err(format!(
                "line {}: more than {WORDS} words in a tag, or branches",
                span.start_line
            ));
        }
        let next = OperandKind::of(&token);
        if matches!(
            (last, next),
            (OperandKind::Times, OperandKind::Literal) | (OperandKind::Literal, OperandKind::Times)
        ) {
            return Err(format!(
                "line {}: `*` on texts, lists or arguments is not supported",
                span.start_line
            ));
        }
        last = next;
    }
    Ok(())
}

/// Whether a token can be part of the repetition of a constant.
#[derive(Clone, Copy)]
enum OperandKind {
    Times,
    Literal,
    Other,
}

impl OperandKind {
    fn of(token: &Token) -> Self {
        match token {
            Token::Mul | Token::Pow => Self::Times,
            Token::Str(_)
            | Token::String(_)
            | Token::BracketOpen
            | Token::BracketClose
            | Token::BraceOpen => Self::Literal,
            Token::BraceClose | Token::ParenOpen | Token::ParenClose | Token::Comma => {
                Self::Literal
            }
            _ => Self::Other,
        }
    }
}
