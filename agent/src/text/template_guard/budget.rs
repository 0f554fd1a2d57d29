//! The budget that everything in one rendering pays from.

use super::limits::{DEPTH, NODE, WORK};
use minijinja::value::{ValueIter, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The value that a call from a template returns.
pub(super) type TemplateResult = Result<Value, Error>;

/// An error with a reason of ours.
pub(super) fn refused(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}

/// What one rendering may still make, in the units of [`WORK`].
pub(super) struct RenderBudget(AtomicU64);

impl RenderBudget {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(WORK))
    }

    pub(super) fn pay(&self, work: u64) -> Result<(), Error> {
        let paid = self
            .0
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(work));
        paid.map(drop).map_err(|_| {
            refused(format!(
                "the template makes more than {} MiB of text or lists",
                WORK >> 20
            ))
        })
    }

    pub(super) fn pay_text(&self, text: &str) -> Result<(), Error> {
        self.pay(text.len() as u64)
    }

    /// Pays for one look at a value, without what is nested in its items.
    pub(super) fn pay_surface(&self, value: &Value) -> Result<(), Error> {
        match value.as_str() {
            Some(text) => self.pay(1 + text.len() as u64 / 8),
            None => self.pay(NODE.saturating_mul(1 + value.len().unwrap_or(0) as u64)),
        }
    }

    /// Pays for a walk through all of a value. If it contains itself, or is too deep, it is refused.
    pub(super) fn pay_all(&self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH {
            return Err(too_deep());
        }
        self.pay(NODE + value.as_str().map_or(0, str::len) as u64)?;
        let Ok(items) = nested(value) else {
            return Ok(());
        };
        for item in items {
            if value.kind() == ValueKind::Map {
                self.pay_all(&value.get_item(&item)?, depth + 1)?;
            }
            self.pay_all(&item, depth + 1)?;
        }
        Ok(())
    }

    /// Pays for one value at this depth.
    pub(super) fn enter(&self, depth: usize) -> Result<(), Error> {
        self.pay(NODE)?;
        if depth > DEPTH {
            Err(too_deep())
        } else {
            Ok(())
        }
    }

    /// The items of a list, or the keys of a map, each paid for.
    pub(super) fn items(&self, value: &Value) -> Result<Vec<Value>, Error> {
        value
            .try_iter()?
            .map(|item| self.pay(NODE).map(|()| item))
            .collect()
    }

    /// A list in place of a lazy iterator, and an error in place of an error that is a value.
    pub(super) fn evaluated(&self, value: Value) -> TemplateResult {
        match value.kind() {
            ValueKind::Iterable => Ok(Value::from(self.items(&value)?)),
            ValueKind::Invalid => Err(refused(value.to_string())),
            _ => Ok(value),
        }
    }

    pub(super) fn list(&self, items: Vec<Value>) -> TemplateResult {
        let list = Value::from(items);
        self.pay_all(&list, 0)?;
        Ok(list)
    }
}

fn too_deep() -> Error {
    refused(format!("more than {DEPTH} lists or maps inside each other"))
}

fn nested(value: &Value) -> Result<ValueIter, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => value.try_iter(),
        _ => Err(refused("no items")),
    }
}
