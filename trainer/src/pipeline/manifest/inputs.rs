//! The inputs of a stage: everything that decides what it computes, and how two sets of inputs differ.

use super::old_names;
use scenarios::suite::hex_sha256;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Everything that decides what a stage computes, as flat keys: `job.optimizer.batch` → 16.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StageInputs(#[serde(deserialize_with = "with_new_names")] BTreeMap<String, Value>);

fn with_new_names<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Value>, D::Error> {
    let inputs = BTreeMap::<String, Value>::deserialize(deserializer)?;
    Ok(inputs
        .into_iter()
        .map(|(key, value)| old_names::to_new(&key, value))
        .collect())
}

/// An input whose value has changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InputDifference {
    /// The input's key.
    pub key: String,
    /// The value now, or `None` if the input no longer exists.
    pub is: Option<Value>,
    /// The value before, or `None` if the input did not exist.
    pub was: Option<Value>,
}

impl StageInputs {
    /// Returns the inputs with one more. A table or list becomes one key per leaf.
    ///
    /// # Panics
    /// If the value cannot be written as JSON. Recipes, protocols and hashes always can.
    #[must_use]
    pub fn with(mut self, key: &str, value: &impl Serialize) -> Self {
        // The value goes through text, so that 0.3 as an f32 stays 0.3.
        let text = serde_json::to_string(value).expect("an input is plain data");
        self.add(
            key,
            serde_json::from_str(&text).expect("JSON that was just written"),
        );
        self
    }

    fn add(&mut self, key: &str, value: Value) {
        match value {
            Value::Object(table) => table
                .into_iter()
                .for_each(|(name, value)| self.add(&format!("{key}.{name}"), value)),
            Value::Array(list) => {
                list.into_iter()
                    .enumerate()
                    .for_each(|(index, value)| self.add(&format!("{key}[{index}]"), value));
            }
            leaf => {
                self.0.insert(key.into(), leaf);
            }
        }
    }

    /// Returns the lower-case hexadecimal SHA-256 over all inputs. The hash uses the keys' old names, so that
    /// it is the same as in versions before the keys were renamed.
    #[must_use]
    pub fn hash(&self) -> String {
        let old: BTreeMap<String, Value> = self
            .0
            .iter()
            .map(|(key, value)| old_names::to_old(key, value))
            .collect();
        let lines: String = old
            .iter()
            .map(|(key, value)| format!("{key}\t{value}\n"))
            .collect();
        hex_sha256(lines.as_bytes())
    }

    /// Returns the inputs whose values differ from those before.
    #[must_use]
    pub fn differences(&self, before: &Self) -> Vec<InputDifference> {
        let removed = before.0.keys().filter(|key| !self.0.contains_key(*key));
        self.0
            .keys()
            .chain(removed)
            .map(|key| InputDifference {
                key: key.clone(),
                is: self.0.get(key).cloned(),
                was: before.0.get(key).cloned(),
            })
            .filter(|difference| difference.is != difference.was)
            .collect()
    }
}

impl std::fmt::Display for InputDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` is {} and was {}",
            self.key,
            shortened(self.is.as_ref()),
            shortened(self.was.as_ref())
        )
    }
}

/// Returns a value as text. If it is longer than 60 bytes, as a hash is, only its beginning.
fn shortened(value: Option<&Value>) -> String {
    match value.map(ToString::to_string) {
        None => "not there".into(),
        Some(text) if text.len() > 60 => {
            let start: String = text.chars().take(12).collect();
            format!("{}…", start.replace('"', ""))
        }
        Some(text) => text,
    }
}

/// Returns differences as a sentence: the first three, and how many more there are.
#[must_use]
pub fn sentence(differences: &[InputDifference]) -> String {
    let first: Vec<String> = differences
        .iter()
        .take(3)
        .map(ToString::to_string)
        .collect();
    let mut text = first.join(", ");
    if differences.len() > first.len() {
        text += &format!(" (and {} more)", differences.len() - first.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn inputs_are_flat_and_differences_name_their_keys() {
        let table = json!({"rate": 0.5, "data": ["a", {"last": 2}], "none": null});
        let inputs = StageInputs::default()
            .with("job", &table)
            .with("temperature", &0.3_f32);
        let written = serde_json::to_string(&inputs).expect("JSON");
        let expected = r#"{"job.data[0]":"a","job.data[1].last":2,"job.none":null,"job.rate":0.5,"temperature":0.3}"#;
        assert_eq!(written, expected);
        let other = inputs
            .clone()
            .with("job.rate", &0.25)
            .with("policy", &"0".repeat(64));
        assert_ne!(inputs.hash(), other.hash());
        assert_eq!(
            sentence(&other.differences(&inputs)),
            "`job.rate` is 0.25 and was 0.5, `policy` is 00000000000… and was not there"
        );
        assert_eq!(sentence(&inputs.differences(&inputs)), "");
    }

    /// A manifest of an earlier version has old key names. They are read as the new ones, and the hash is the
    /// one that the earlier version wrote.
    #[test]
    fn inputs_with_old_names_are_read_and_keep_their_hash() {
        let old = r#"{"lesson.data[0]":"guided","lesson.thinned":0.8,"model.names":"apart"}"#;
        let inputs: StageInputs = serde_json::from_str(old).expect("reads");
        let new = StageInputs::default()
            .with("job.data", &["dagger"])
            .with("job.receptacle_dropout", &0.8)
            .with("model.numbers", &"digits");
        assert_eq!(inputs, new);
        let lines = "lesson.data[0]\t\"guided\"\nlesson.thinned\t0.8\nmodel.names\t\"apart\"\n";
        assert_eq!(new.hash(), hex_sha256(lines.as_bytes()));
    }
}
