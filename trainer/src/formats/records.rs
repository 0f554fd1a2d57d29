//! Splits a file of records before any of them is parsed, so that one that is damaged does not take the others with it.

/// How a Git LFS pointer begins.
const LFS_POINTER: &str = "version https://git-lfs";

/// The keys under which a file may hold its list of records.
const LISTS: [&str; 4] = ["data", "records", "trajectories", "episodes"];

/// Returns the records of a file as texts: the elements of a JSON list, the elements of a list in an object such as
/// `{"data": [...]}`, one value per line, or values one after another. A byte order mark is left out. If the file ends
/// inside a record, the rest of it is the last text.
///
/// # Errors
/// Returns the reason if the file is a Git LFS pointer.
pub(super) fn split(text: &str) -> Result<Vec<&str>, String> {
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.starts_with(LFS_POINTER) {
        return Err(
            "is a Git LFS pointer: the file itself was not downloaded\nhint: `git lfs pull` in the repository fetches it"
                .into(),
        );
    }
    if let Some(list) = text.strip_prefix('[') {
        return Ok(values(list));
    }
    if let Some(list) = list_in_object(text) {
        return Ok(values(list));
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    if lines
        .clone()
        .next()
        .is_some_and(|line| whole_value(line) == Some(line.len()))
    {
        return Ok(lines.by_ref().collect());
    }
    Ok(values(text))
}

/// What follows the bracket of the first list of records in an object.
fn list_in_object(text: &str) -> Option<&str> {
    // Several objects are records themselves.
    if whole_value(text).is_some_and(|end| end < text.len()) {
        return None;
    }
    let mut rest = text.strip_prefix('{')?;
    loop {
        let key_start = rest.trim_start();
        let key = &key_start[..end_of_value(key_start)];
        let value = key_start[key.len()..]
            .trim_start()
            .strip_prefix(':')?
            .trim_start();
        let name = key.trim_matches('"');
        if let Some(list) = value.strip_prefix('[').filter(|_| LISTS.contains(&name)) {
            return Some(list);
        }
        rest = value[end_of_value(value)..]
            .trim_start()
            .strip_prefix(',')?;
    }
}

/// The values of a list, up to its closing bracket, or up to the end of the text.
fn values(mut text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    loop {
        text = text.trim_start_matches(|letter: char| letter.is_whitespace() || letter == ',');
        if text.is_empty() || text.starts_with(']') {
            return found;
        }
        let end = end_of_value(text).max(1);
        let (value, rest) = text.split_at(text.ceil_char_boundary(end));
        found.push(value.trim_end());
        text = rest;
    }
}

/// The length of the JSON value at the beginning of a text. If it does not end, the whole length.
fn end_of_value(text: &str) -> usize {
    whole_value(text).unwrap_or(text.len())
}

/// The length of the JSON value at the beginning of a text; `None` if the text ends inside it.
fn whole_value(text: &str) -> Option<usize> {
    let (mut depth, mut in_text, mut is_escaped) = (0_usize, false, false);
    for (place, byte) in text.bytes().enumerate() {
        if in_text {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            if !in_text && depth == 0 {
                return Some(place + 1);
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth <= 1 => return Some(place + usize::from(depth == 1)),
            b'}' | b']' => depth -= 1,
            b',' | b':' if depth == 0 => return Some(place),
            _ if depth == 0 && byte.is_ascii_whitespace() => return Some(place),
            _ => {}
        }
    }
    (depth == 0 && !in_text).then_some(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_gives_the_same_records() {
        for text in [
            r#"[{"a": "]}"}, {"b": [1, 2]}]"#,
            "\u{feff}[\n {\"a\": \"]}\"},\n {\"b\": [1, 2]}\n]\n",
            r#"{"version": "1", "data": [{"a": "]}"}, {"b": [1, 2]}], "more": {}}"#,
            "{\"a\": \"]}\"}\n\n{\"b\": [1, 2]}\n",
        ] {
            assert_eq!(
                split(text).unwrap(),
                [r#"{"a": "]}"}"#, r#"{"b": [1, 2]}"#],
                "{text}"
            );
        }
        let rows = "{\"data\": [1]}\n{\"data\": [2]}";
        assert_eq!(split(rows).unwrap(), ["{\"data\": [1]}", "{\"data\": [2]}"]);
        assert_eq!(split("{\n\"a\": 1}\n{\n\"a\": 2}").unwrap().len(), 2);
        assert!(split("").unwrap().is_empty() && split("[]").unwrap().is_empty());
    }

    #[test]
    fn a_damaged_record_stands_alone() {
        let text = r#"[{"a": "\ud83d"}, {"a": NaN}, {"a": "\"}"}, {"a": "ends here"#;
        let records = split(text).unwrap();
        assert_eq!(
            records,
            [
                r#"{"a": "\ud83d"}"#,
                r#"{"a": NaN}"#,
                r#"{"a": "\"}"}"#,
                r#"{"a": "ends here"#
            ]
        );
        assert_eq!(split("{\"a\": 1}\n{\"a\": \n{\"a\": 3}").unwrap().len(), 3);
        assert!(
            split("version https://git-lfs.github.com/spec/v1")
                .unwrap_err()
                .contains("git lfs pull")
        );
    }

    /// Damaged files are split into texts, without a panic and without an endless loop.
    #[test]
    fn damaged_text_never_panics() {
        let seed = r#"{"data": [{"a": "ü\ud83d"}, [1, "]"], null], "more": {"b": "\\"}}"#;
        let mut state = 7_u64;
        for _ in 0..3000 {
            let mut bytes = seed.as_bytes().to_vec();
            for _ in 0..3 {
                state = scenarios::seed::spread(state, 1);
                let place = state as usize % bytes.len();
                bytes[place] = b"{}[]\",:\\ \n\xc3"[(state >> 32) as usize % 11];
            }
            let text = String::from_utf8_lossy(&bytes);
            let found = split(&text).unwrap();
            assert!(found.iter().all(|record| !record.is_empty()), "{text}");
        }
    }
}
