//! The settings of a normalizer, a pre-tokenizer or a decoder as a JSON tree of limited size.

use serde::Deserialize;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};
use std::fmt::Formatter;

/// Most values in the settings of one part; parts in use have some twenty.
const MOST_VALUES: usize = 256;

/// Checks one part by its type.
pub(super) type PartCheck<'c> = dyn FnMut(&str, &Value) -> Result<(), String> + 'c;

/// A small JSON value in which no key is defined twice.
pub(super) struct SettingsTree(Value);

impl SettingsTree {
    /// Checks this part, or each part of it if it is a sequence; `what` names it in errors and
    /// `list` is the key of a sequence's parts.
    pub(super) fn check_parts(
        &self,
        what: &str,
        list: &str,
        check: &mut PartCheck<'_>,
    ) -> Result<(), String> {
        check_part(list, &self.0, check).map_err(|reason| format!("{what}: {reason}"))
    }

    /// Makes the library's value of this part.
    pub(super) fn build<P: DeserializeOwned>(self, what: &str) -> Result<P, String> {
        serde_json::from_value(self.0).map_err(|error| format!("{what}: {error}"))
    }
}

fn check_part(list: &str, part: &Value, check: &mut PartCheck<'_>) -> Result<(), String> {
    match part["type"].as_str() {
        None => Err("its type is missing".into()),
        Some("Sequence") => {
            let parts = part[list]
                .as_array()
                .ok_or_else(|| format!("a sequence without {list}"))?;
            parts
                .iter()
                .try_for_each(|part| check_part(list, part, check))
        }
        Some(kind) => check(kind, part),
    }
}

impl<'de> Deserialize<'de> for SettingsTree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut left = MOST_VALUES;
        SettingsNode(&mut left).deserialize(deserializer).map(Self)
    }
}

/// One value of a [`SettingsTree`], and how many more are allowed.
struct SettingsNode<'a>(&'a mut usize);

impl<'de> DeserializeSeed<'de> for SettingsNode<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        *self.0 = self
            .0
            .checked_sub(1)
            .ok_or_else(|| D::Error::custom(format!("more than {MOST_VALUES} settings")))?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SettingsNode<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        out.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(SettingsNode(&mut *self.0))? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(SettingsNode(&mut *self.0))?;
            if values.contains_key(&key) {
                return Err(A::Error::custom(format!("{key:?} is defined twice")));
            }
            values.insert(key, value);
        }
        Ok(values.into())
    }
}
