//! Mutations of files: of their bytes, and of their structure (JSON, Jinja, safetensors, GGUF).

use crate::dictionary::FuzzDictionary;
use crate::seeds::GgufSeed;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;

/// The random draws of one input, which follow from a seed and the number of the input.
pub(crate) struct Mutator {
    rng: StdRng,
}

/// Numbers at which sizes overflow or change their sign.
const EDGES: [u64; 22] = [
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    31,
    32,
    127,
    255,
    256,
    65_535,
    65_536,
    1 << 24,
    (1 << 24) + 1,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 62,
    u64::MAX,
];

/// JSON values that readers do not expect.
const STRANGE: [&str; 26] = [
    "null",
    "true",
    "false",
    "0",
    "1",
    "-1",
    "2",
    "16777216",
    "16777217",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "0.5",
    "-0.0",
    "1e-320",
    "1e308",
    "1e400",
    "\"\"",
    "\"a\"",
    "\"\\u0000\\u001b[2J\\ud83d\\ude42 \\u202e\"",
    "[]",
    "{}",
    "[[],{},null,\"\",0]",
];

impl Mutator {
    pub(crate) fn new(seed: u64, iteration: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(
                seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)
                    .wrapping_add(iteration),
            ),
        }
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.rng.random_range(0..end.max(1))
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// A number near one of [`EDGES`], or any number.
    fn number(&mut self) -> u64 {
        let edge = *self.choose(&EDGES);
        match self.below(6) {
            0 => edge.wrapping_add(1),
            1 => edge.wrapping_sub(1),
            2 => self.rng.next_u64() >> self.below(64),
            3 => self.below(64) as u64,
            _ => edge,
        }
    }

    /// Damages bytes of any kind. Pieces of `other` may be inserted.
    pub(crate) fn bytes(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.below(4) {
            let place = self.below(bytes.len());
            match self.below(9) {
                _ if bytes.is_empty() => bytes.push(0),
                0 => bytes[place] ^= 1 << self.below(8),
                1 => {
                    bytes[place] =
                        *self.choose(&[0, 1, 0x7F, 0x80, 0xFF, b'"', b'{', b'}', b'[', b',', b'\\'])
                }
                2 | 3 => {
                    let width = *self.choose(&[2, 4, 8]);
                    let number = self.number().to_le_bytes();
                    let end = bytes.len().min(place + width);
                    bytes[place..end].copy_from_slice(&number[..end - place]);
                }
                4 => bytes.truncate(place),
                5 => {
                    let end = bytes.len().min(place + 1 + self.below(16));
                    bytes.drain(place..end);
                }
                6 => {
                    let end = bytes.len().min(place + 1 + self.below(64));
                    let piece = bytes[place..end].repeat(1 + self.below(3));
                    bytes.splice(place..place, piece);
                }
                7 => {
                    let start = self.below(other.len());
                    let end = other.len().min(start + 1 + self.below(64));
                    bytes.splice(place..place, other[start..end].iter().copied());
                }
                _ => {
                    let number = self.number().to_string();
                    let end = place
                        + bytes[place..]
                            .iter()
                            .take_while(|byte| byte.is_ascii_digit())
                            .count();
                    bytes.splice(place..end, number.into_bytes());
                }
            }
        }
    }

    /// Damages values of a JSON text. If the text is not JSON, its bytes are damaged.
    pub(crate) fn json(&mut self, bytes: &mut Vec<u8>, other: &[u8], words: &FuzzDictionary) {
        let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else {
            return self.bytes(bytes, other);
        };
        let mut raw = Vec::new();
        for _ in 0..=self.below(3) {
            self.damage(&mut value, &mut raw, words);
        }
        let mut text = value.to_string();
        for (index, piece) in raw.iter().enumerate() {
            text = text.replace(&format!("\"\\u0000raw {index}\""), piece);
        }
        *bytes = text.into_bytes();
        if self.one_in(16) {
            self.bytes(bytes, other);
        }
    }

    /// Damages one value inside. `raw` collects texts that are inserted later, because a [`Value`]
    /// cannot represent them.
    fn damage(&mut self, value: &mut Value, raw: &mut Vec<String>, words: &FuzzDictionary) {
        let inside = match value {
            Value::Object(map) => map.len(),
            Value::Array(list) => list.len(),
            _ => 0,
        };
        if inside > 0 && !self.one_in(5) {
            let index = self.below(inside);
            let remove = self.one_in(6);
            match value {
                Value::Object(map) => {
                    let key = map.keys().nth(index).cloned().unwrap_or_default();
                    if remove {
                        map.remove(&key);
                    } else if self.one_in(12) {
                        let again = map[&key].clone();
                        let key = self.renamed(&key);
                        map.insert(key, again);
                    } else if let Some(value) = map.get_mut(&key) {
                        self.damage(value, raw, words);
                    }
                }
                Value::Array(list) if remove => drop(list.remove(index)),
                Value::Array(list) if self.one_in(8) => {
                    let again = list[index].clone();
                    for _ in 0..=self.below(4) {
                        list.insert(self.below(list.len()), again.clone());
                    }
                }
                Value::Array(list) => self.damage(&mut list[index], raw, words),
                _ => {}
            }
            return;
        }
        let piece = match self.below(10) {
            0..=2 => (*self.choose(&STRANGE)).to_string(),
            3 => self.number().to_string(),
            4 => format!("-{}", self.number()),
            5..=7 if !words.json.is_empty() => (*self.choose(words.json)).to_string(),
            8 => self.deep(value),
            9 => self.long(value),
            _ => self.near(value),
        };
        raw.push(piece);
        *value = Value::String(format!("\0raw {}", raw.len() - 1));
    }

    fn renamed(&mut self, key: &str) -> String {
        match self.below(4) {
            0 => key.to_uppercase(),
            1 => String::new(),
            2 => format!("{key}\u{301}"),
            _ => format!("{key}{}", self.below(1000)),
        }
    }

    /// The value inside many others, or in a map that defines a key twice.
    fn deep(&mut self, value: &Value) -> String {
        let depth = *self.choose(&[2, 40, 126, 129, 1000, 20_000]);
        match self.below(3) {
            0 => format!("{}{value}{}", "[".repeat(depth), "]".repeat(depth)),
            1 => format!("{}{value}{}", "{\"a\":".repeat(depth), "}".repeat(depth)),
            _ => format!("{{\"type\":{value},\"type\":{value},\"a\":1,\"a\":[]}}"),
        }
    }

    fn long(&mut self, value: &Value) -> String {
        let times = *self.choose(&[2, 17, 257, 4097, 30_000]);
        match value {
            Value::String(text) => {
                Value::String(text.repeat(times.min(1 + 60_000 / text.len().max(1)))).to_string()
            }
            Value::Number(number) => format!("{number}{}", "0".repeat(times)),
            _ => format!("[{}]", vec!["0"; times].join(",")),
        }
    }

    fn near(&mut self, value: &Value) -> String {
        match value {
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or(0.0);
                let factor = *self.choose(&[0.5, 2.0, -1.0, 1e3, 1e-3, 0.0]);
                let moved = if self.one_in(2) {
                    number + 1.0
                } else {
                    number * factor
                };
                if moved.fract() == 0.0 && self.one_in(2) {
                    format!("{moved:.0}")
                } else {
                    format!("{moved:?}")
                }
            }
            Value::String(text) => {
                let mut letters: Vec<char> = text.chars().collect();
                let place = self.below(letters.len() + 1);
                let letter = *self.choose(&[
                    '\0', 'é', '🙂', '\u{301}', '\u{FFFD}', '.', '/', '\\', '(', '[', '{', '*', ' ',
                ]);
                letters.insert(place.min(letters.len()), letter);
                if self.one_in(3) {
                    letters.truncate(place);
                }
                Value::String(letters.into_iter().collect()).to_string()
            }
            Value::Bool(flag) => (!flag).to_string(),
            _ => "[null]".to_string(),
        }
    }

    /// Damages a template word by word.
    pub(crate) fn jinja(&mut self, bytes: &mut Vec<u8>, other: &[u8], words: &FuzzDictionary) {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let other = String::from_utf8_lossy(other).into_owned();
        let others = pieces(&other);
        let mut pieces = pieces(&text);
        for _ in 0..=self.below(5) {
            let place = self.below(pieces.len());
            match self.below(7) {
                _ if pieces.is_empty() || others.is_empty() => break,
                0 => drop(pieces.remove(place)),
                1 => pieces.insert(place, *self.choose(&others)),
                2 => pieces[place] = *self.choose(&others),
                3 | 4 => pieces.insert(place, *self.choose(words.jinja)),
                5 => {
                    let start = self.below(others.len());
                    let end = others.len().min(start + self.below(30));
                    pieces.splice(place..place, others[start..end].iter().copied());
                }
                _ => {
                    let end = pieces.len().min(place + 1 + self.below(12));
                    let again = pieces[place..end].repeat(*self.choose(&[1, 2, 30, 500]));
                    pieces.splice(place..place, again);
                }
            }
        }
        let mut damaged = pieces.concat().into_bytes();
        if self.one_in(10) {
            self.bytes(&mut damaged, other.as_bytes());
        }
        *bytes = damaged;
    }

    /// Damages the header of a safetensors file as JSON, and mostly writes its new length.
    pub(crate) fn safetensors(
        &mut self,
        bytes: &mut Vec<u8>,
        other: &[u8],
        words: &FuzzDictionary,
    ) {
        let header = bytes
            .get(..8)
            .and_then(|size| size.try_into().ok())
            .map_or(0, u64::from_le_bytes);
        let end = usize::try_from(header)
            .ok()
            .and_then(|header| header.checked_add(8))
            .unwrap_or(usize::MAX);
        if self.one_in(4) || end > bytes.len() {
            return self.bytes(bytes, other);
        }
        let mut json = bytes[8..end].to_vec();
        self.json(&mut json, other, words);
        let length = if self.one_in(20) {
            self.number()
        } else {
            json.len() as u64
        };
        let mut data = bytes[end..].to_vec();
        if self.one_in(8) {
            self.bytes(&mut data, other);
        }
        *bytes = [&length.to_le_bytes()[..], &json, &data].concat();
    }

    /// Damages a GGUF file before it is written, its bytes, or both.
    pub(crate) fn gguf(&mut self, seed: &GgufSeed, other: &GgufSeed) -> Vec<u8> {
        let mut gguf = seed.clone();
        for _ in 0..self.below(4) {
            self.damage_gguf(&mut gguf, other);
        }
        let mut bytes = gguf.bytes();
        if self.one_in(2) {
            // Most of a file is vocabulary and numbers; counts and types are at the start and between.
            let reach = if self.one_in(2) { 400 } else { bytes.len() };
            let rest = bytes.split_off(bytes.len().min(1 + self.below(reach)));
            self.bytes(&mut bytes, &rest);
            bytes.extend(rest);
        }
        bytes
    }

    fn damage_gguf(&mut self, gguf: &mut GgufSeed, other: &GgufSeed) {
        let value = self.below(gguf.values.len());
        let tensor = self.below(gguf.tensors.len());
        match self.below(12) {
            _ if gguf.values.is_empty() || gguf.tensors.is_empty() => {}
            0 => drop(gguf.values.remove(value)),
            1 => gguf.values.push(self.choose(&other.values).clone()),
            2 => gguf.values[value].1 = self.choose(&other.values).1.clone(),
            3 => {
                let number = self.number().to_le_bytes();
                let code = *self.choose(&[0_u32, 1, 4, 5, 6, 7, 10, 11, 12]);
                let width = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][code as usize];
                gguf.values[value].1 = [&code.to_le_bytes()[..], &number[..width]].concat();
            }
            4 => {
                let number =
                    (*self.choose(&[0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, f32::NAN, f32::INFINITY]))
                        .to_le_bytes();
                gguf.values[value].1 = [&6_u32.to_le_bytes()[..], &number].concat();
            }
            5 => self.bytes(&mut gguf.values[value].1, &[]),
            6 => drop(gguf.tensors.remove(tensor)),
            7 => gguf.tensors.push(self.choose(&other.tensors).clone()),
            8 => {
                let sizes = &mut gguf.tensors[tensor].sizes;
                let place = self.below(sizes.len());
                sizes[place] = if self.one_in(2) {
                    self.number()
                } else {
                    sizes[place].wrapping_mul(2)
                };
            }
            9 => gguf.tensors[tensor].code = self.below(42) as u32,
            10 => {
                let data = self.below(gguf.tensors[tensor].data.len() + 64);
                gguf.tensors[tensor].data.resize(data, 0x3F);
            }
            _ => gguf.tensors[tensor].name = self.choose(&other.tensors).name.clone(),
        }
    }
}

/// Splits a text into words, numbers, blanks and signs.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut last = None;
    for (place, letter) in text.char_indices() {
        let class = letter_class(letter);
        if last.is_some_and(|last| last != class || class == 3) {
            pieces.push(&text[start..place]);
            start = place;
        }
        last = Some(class);
    }
    pieces.push(&text[start..]);
    pieces
}

/// 0 in words, 1 for blanks, 2 for the signs of tags, 3 for other signs.
fn letter_class(letter: char) -> u8 {
    match letter {
        '_' => 0,
        letter if letter.is_alphanumeric() => 0,
        letter if letter.is_whitespace() => 1,
        '{' | '}' | '%' => 2,
        _ => 3,
    }
}
