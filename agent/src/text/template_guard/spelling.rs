//! Values as text, as Python's `str`, `repr` and `json.dumps` write them.

use super::budget::{RenderBudget, TemplateResult, refused};
use super::limits::INDENT;
use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, Value};

impl RenderBudget {
    /// `str(value)`.
    pub(super) fn spelled(&self, value: &Value) -> Result<String, Error> {
        let mut out = BudgetedText::new(self);
        out.spell(value)?;
        Ok(out.text)
    }

    /// `by.join(items)`.
    pub(super) fn joined(&self, items: &Value, by: &str) -> TemplateResult {
        let mut out = BudgetedText::new(self);
        for (index, item) in self.items(items)?.iter().enumerate() {
            out.put(if index == 0 { "" } else { by })?;
            out.spell(item)?;
        }
        Ok(Value::from(out.text))
    }
}

/// The filter `tojson`: `json.dumps(value, ensure_ascii=False, indent=…)`.
pub(super) fn to_json(budget: &RenderBudget, values: &[Value]) -> TemplateResult {
    let (value, options): (Value, Kwargs) = from_args(values)?;
    let indent = options.get::<Option<usize>>("indent")?;
    let ascii = options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    if indent.is_some_and(|indent| indent > INDENT) || ascii == Some(true) {
        return Err(refused(format!(
            "tojson indents by at most {INDENT}, and keeps letters as they are"
        )));
    }
    let mut out = BudgetedText::new(budget);
    out.json(&value, indent, 0)?;
    Ok(Value::from(out.text))
}

/// A text that pays as it grows.
struct BudgetedText<'b> {
    text: String,
    budget: &'b RenderBudget,
}

impl<'b> BudgetedText<'b> {
    fn new(budget: &'b RenderBudget) -> Self {
        Self {
            text: String::new(),
            budget,
        }
    }

    fn put(&mut self, text: &str) -> Result<(), Error> {
        self.budget.pay_text(text)?;
        self.text.push_str(text);
        Ok(())
    }

    fn spell(&mut self, value: &Value) -> Result<(), Error> {
        match (value.as_str(), value.kind()) {
            (Some(text), _) => self.put(text),
            (None, ValueKind::Undefined) => Ok(()),
            _ => self.spell_nested(value, 0),
        }
    }

    /// `repr(value)`.
    fn spell_nested(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.budget.enter(depth)?;
        match value.kind() {
            ValueKind::String => self.put(&quoted(value.as_str().unwrap_or_default())),
            ValueKind::Undefined => self.put("Undefined"),
            ValueKind::None => self.put("None"),
            ValueKind::Bool => self.put(if value.is_true() { "True" } else { "False" }),
            ValueKind::Number => self.put(&value.to_string()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.put_items(value, ["[", ", ", "]"], |out, item| {
                    out.spell_nested(&item, depth + 1)
                })
            }
            ValueKind::Map => self.put_items(value, ["{", ", ", "}"], |out, key| {
                out.spell_nested(&key, depth + 1)?;
                out.put(": ")?;
                out.spell_nested(&value.get_item(&key)?, depth + 1)
            }),
            kind => Err(refused(format!("a {kind} has no spelling"))),
        }
    }

    fn put_items(
        &mut self,
        value: &Value,
        [open, between, close]: [&str; 3],
        mut put: impl FnMut(&mut Self, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.put(open)?;
        for (index, item) in self.budget.items(value)?.into_iter().enumerate() {
            self.put(if index == 0 { "" } else { between })?;
            put(self, item)?;
        }
        self.put(close)
    }

    fn json(&mut self, value: &Value, indent: Option<usize>, depth: usize) -> Result<(), Error> {
        self.budget.enter(depth)?;
        match value.kind() {
            ValueKind::None => self.put("null"),
            ValueKind::Bool | ValueKind::Number => self.put(&value.to_string()),
            ValueKind::String => self.put(&escaped(value.as_str().unwrap_or_default())),
            ValueKind::Seq | ValueKind::Iterable => {
                let [open, comma, close] = json_frame(value, indent, depth);
                let frame = [&format!("[{open}"), comma.as_str(), &format!("{close}]")];
                self.put_items(value, frame, |out, item| out.json(&item, indent, depth + 1))
            }
            ValueKind::Map => {
                let [open, comma, close] = json_frame(value, indent, depth);
                let frame = [&format!("{{{open}"), comma.as_str(), &format!("{close}}}")];
                self.put_items(value, frame, |out, key| {
                    let name = key
                        .as_str()
                        .ok_or_else(|| refused("a key of JSON is a text"))?;
                    out.put(&escaped(name))?;
                    out.put(": ")?;
                    out.json(&value.get_item(&key)?, indent, depth + 1)
                })
            }
            kind => Err(refused(format!("{kind} cannot be JSON"))),
        }
    }
}

/// The texts after the opening bracket, between items and before the closing bracket.
fn json_frame(value: &Value, indent: Option<usize>, depth: usize) -> [String; 3] {
    let open = line_break(indent, depth + 1);
    let comma = if indent.is_some() {
        format!(",{open}")
    } else {
        ", ".to_string()
    };
    if value.len() == Some(0) {
        [String::new(), comma, String::new()]
    } else {
        [open, comma, line_break(indent, depth)]
    }
}

fn line_break(indent: Option<usize>, depth: usize) -> String {
    indent.map_or(String::new(), |indent| {
        format!("\n{}", " ".repeat(indent * depth))
    })
}

/// `json.dumps(text, ensure_ascii=False)`.
fn escaped(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `repr(text)`, except that Python also escapes some other letters as unprintable.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut quoted = String::from(quote);
    for letter in text.chars() {
        match letter {
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            ' ' => quoted.push(' '),
            letter if letter.is_control() || letter.is_whitespace() => {
                let number = u32::from(letter);
                quoted += &if number < 256 {
                    format!("\\x{number:02x}")
                } else {
                    format!("\\u{number:04x}")
                };
            }
            letter if letter == quote || letter == '\\' => quoted.extend(['\\', letter]),
            letter => quoted.push(letter),
        }
    }
    quoted.push(quote);
    quoted
}
