//! The names that stage inputs had before recipe keys were renamed.
//!
//! A stage is identified by the hash of its inputs. The hash is computed over the old names, so that a run folder keeps
//! its finished stages although the recipe keys have new names. Manifests are written with the new names; if a manifest
//! has old ones, they are translated when it is read.

use serde_json::Value;

/// Parts of keys: old name, new name.
const KEYS: [(&str, &str); 7] = [
    ("lesson", "job"),
    ("thinned", "receptacle_dropout"),
    ("slips", "expert_noise"),
    ("names", "numbers"),
    ("chosen_rollouts", "selected_rollouts"),
    ("value_warmup", "critic_only_share"),
    ("chosen_by", "scorer"),
];

/// The beginning of a stage's name in `data.STAGE`: the episodes of the expert with a student.
const STUDENT: (&str, &str) = ("guided-", "dagger-");

/// Values that were renamed: last part of the key, old value, new value.
const VALUES: [(&str, &str, &str); 3] = [
    ("data", "guided", "dagger"),
    ("numbers", "apart", "digits"),
    ("activations", "recomputed", "checkpointed"),
];

/// The new form of an input with old names. An input with new names stays as it is.
pub(super) fn to_new(key: &str, value: Value) -> (String, Value) {
    let key = translate(key, |(old, new)| (old, new));
    let new_value = value.as_str().map(|text| {
        let name = VALUES.iter().find(|(_, old, _)| *old == text);
        name.filter(|(of, ..)| *of == last_part(&key))
            .map(|(.., new)| *new)
    });
    let value = new_value.flatten().map_or(value.clone(), Value::from);
    (key, value)
}

/// The old form of an input with new names.
pub(super) fn to_old(key: &str, value: &Value) -> (String, Value) {
    let old_value = value.as_str().and_then(|text| {
        let name = VALUES.iter().find(|(_, _, new)| *new == text);
        name.filter(|(of, ..)| *of == last_part(key))
            .map(|(_, old, _)| *old)
    });
    let value = old_value.map_or(value.clone(), Value::from);
    (translate(key, |(old, new)| (new, old)), value)
}

/// A key with every part renamed. `direction` orders a pair of names as (from, to).
fn translate(
    key: &str,
    direction: fn((&'static str, &'static str)) -> (&'static str, &'static str),
) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in key.split('.') {
        let (name, index) = part.split_at(part.find('[').unwrap_or(part.len()));
        let whole = KEYS
            .map(direction)
            .into_iter()
            .find(|(from, _)| *from == name);
        let (from, to) = direction(STUDENT);
        let renamed = match (whole, name.strip_prefix(from)) {
            (Some((_, to)), _) => to.to_string(),
            (None, Some(student)) if parts.first().is_some_and(|first| first == "data") => {
                format!("{to}{student}")
            }
            _ => name.to_string(),
        };
        parts.push(renamed + index);
    }
    parts.join(".")
}

/// The last part of a key without its index: `data` for `job.data[1]`.
fn last_part(key: &str) -> &str {
    let part = key.rsplit('.').next().unwrap_or(key);
    part.split('[').next().unwrap_or(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn old_and_new_inputs_translate_into_each_other() {
        for (old_key, old_value, new_key, new_value) in [
            (
                "lesson.thinned",
                json!(0.8),
                "job.receptacle_dropout",
                json!(0.8),
            ),
            ("lesson.name", json!("guided"), "job.name", json!("guided")),
            (
                "lesson.data[1]",
                json!("guided"),
                "job.data[1]",
                json!("dagger"),
            ),
            (
                "lesson.from.lesson",
                json!("sft"),
                "job.from.job",
                json!("sft"),
            ),
            (
                "lesson.data[1].chosen_rollouts.last",
                json!(2),
                "job.data[1].selected_rollouts.last",
                json!(2),
            ),
            (
                "lesson.algorithm.value_warmup",
                json!(0.15),
                "job.algorithm.critic_only_share",
                json!(0.15),
            ),
            (
                "lesson.optimizer.activations",
                json!("recomputed"),
                "job.optimizer.activations",
                json!("checkpointed"),
            ),
            (
                "model.names",
                json!("apart"),
                "model.numbers",
                json!("digits"),
            ),
            (
                "demonstrations.slips",
                json!(0.1),
                "demonstrations.expert_noise",
                json!(0.1),
            ),
            (
                "data.guided-sft",
                json!("ab12"),
                "data.dagger-sft",
                json!("ab12"),
            ),
            (
                "protocol.temperature",
                json!(1.0),
                "protocol.temperature",
                json!(1.0),
            ),
        ] {
            let new = (new_key.to_string(), new_value.clone());
            assert_eq!(to_new(old_key, old_value.clone()), new);
            assert_eq!(to_new(new_key, new_value.clone()), new, "new names stay");
            assert_eq!(
                to_old(new_key, &new_value),
                (old_key.to_string(), old_value)
            );
        }
    }
}
