//! Compiles expressions such as `x.name + ' and ' + y.name`.

use super::document::is_word;
use super::program::{FramePlace, ObjectAttribute, Piece};
use super::scope::PlaceholderScope;
use crate::error::Fault;

/// The largest nesting depth of parentheses.
const NESTING_LIMIT: usize = 100;

/// Compiles `x`, `x.name`, `'text'`, `a + b`, `a or b` and parentheses. Other forms of Python are
/// not supported.
pub(super) fn compile_expression(
    text: &str,
    scope: &PlaceholderScope<'_>,
    at: usize,
) -> Result<Vec<Piece>, Fault> {
    parse_expression(text, scope)
        .map_err(|reason| Fault::new(at, format!("expression {text:?}: {reason}")))
}

fn parse_expression(text: &str, scope: &PlaceholderScope<'_>) -> Result<Vec<Piece>, String> {
    let mut parser = ExpressionParser {
        rest: text.trim(),
        scope,
        depth: 0,
    };
    let value = parser.alternatives()?;
    let rest = parser.rest.trim();
    if !rest.is_empty() {
        return Err(format!("cannot read {rest:?}"));
    }
    Ok(match value {
        ExpressionValue::Object(place) => vec![Piece::Show(place, ObjectAttribute::Name)],
        ExpressionValue::Text(pieces) => pieces,
    })
}

/// The value of an expression: an object or a text.
enum ExpressionValue {
    Object(FramePlace),
    Text(Vec<Piece>),
}

impl ExpressionValue {
    /// Returns whether the value is an empty text.
    fn is_empty(&self) -> bool {
        match self {
            Self::Object(_) => false,
            Self::Text(pieces) => pieces
                .iter()
                .all(|piece| matches!(piece, Piece::Text(text) if text.is_empty())),
        }
    }
}

struct ExpressionParser<'a> {
    rest: &'a str,
    scope: &'a PlaceholderScope<'a>,
    depth: usize,
}

impl<'a> ExpressionParser<'a> {
    fn accept(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        let Some(rest) = self.rest.strip_prefix(token) else {
            return false;
        };
        if token == "or" && rest.starts_with(is_word) {
            return false;
        }
        self.rest = rest;
        true
    }

    fn alternatives(&mut self) -> Result<ExpressionValue, String> {
        let mut value = self.sum()?;
        while self.accept("or") {
            let other = self.sum()?;
            // Names, ids and types are never empty, so only an empty literal is replaced.
            if value.is_empty() {
                value = other;
            }
        }
        Ok(value)
    }

    fn sum(&mut self) -> Result<ExpressionValue, String> {
        let mut value = self.term()?;
        while self.accept("+") {
            match (value, self.term()?) {
                (ExpressionValue::Text(mut left), ExpressionValue::Text(right)) => {
                    left.extend(right);
                    value = ExpressionValue::Text(left);
                }
                _ => return Err("only texts can be added; an object needs .name".to_owned()),
            }
        }
        Ok(value)
    }

    fn term(&mut self) -> Result<ExpressionValue, String> {
        if self.accept("(") {
            self.depth += 1;
            if self.depth > NESTING_LIMIT {
                return Err(format!("nested deeper than {NESTING_LIMIT}"));
            }
            let value = self.alternatives()?;
            self.depth -= 1;
            return if self.accept(")") {
                Ok(value)
            } else {
                Err("expected ')'".to_owned())
            };
        }
        for quote in ["'", "\""] {
            if self.accept(quote) {
                let end = self.rest.find(quote).ok_or("a text is never closed")?;
                let text = &self.rest[..end];
                self.rest = &self.rest[end + 1..];
                return Ok(ExpressionValue::Text(vec![Piece::Text(text.into())]));
            }
        }
        let name = self.identifier()?;
        let place = self
            .scope
            .newest(name)
            .ok_or_else(|| format!("unknown variable {name:?}"))?;
        if !self.accept(".") {
            return Ok(ExpressionValue::Object(place));
        }
        let piece = match self.identifier()? {
            "name" => Piece::Show(place, ObjectAttribute::Name),
            "id" => Piece::Show(place, ObjectAttribute::Id),
            "type" => Piece::Show(place, ObjectAttribute::Type),
            "definite" => Piece::Text("the".into()),
            "indefinite" => Piece::Text("a".into()),
            other => {
                return Err(format!(
                    "unknown attribute {other:?}; known: name, id, type, definite, indefinite"
                ));
            }
        };
        Ok(ExpressionValue::Text(vec![piece]))
    }

    fn identifier(&mut self) -> Result<&'a str, String> {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        if name.is_empty() {
            Err(format!("expected a variable at {rest:?}"))
        } else {
            Ok(name)
        }
    }
}
