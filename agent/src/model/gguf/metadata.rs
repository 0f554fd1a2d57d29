//! The values of a GGUF file's metadata.

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataValue {
    /// One number or truth value.
    Number(MetadataNumber),
    /// A text.
    Text(String),
    /// An array of numbers or truth values.
    Numbers(NumberArray),
    /// An array of texts.
    Texts(Vec<String>),
}

/// A number or truth value of the metadata, with integers widened to 64 bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MetadataNumber {
    /// Of 8, 16, 32 or 64 bits.
    Unsigned(u64),
    /// Of 8, 16, 32 or 64 bits.
    Signed(i64),
    /// Of 32 bits.
    Single(f32),
    /// Of 64 bits.
    Double(f64),
    /// One byte, 0 or 1.
    Bool(bool),
}

/// An array of numbers, kept as the bytes of the file, so that it takes no more memory than on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct NumberArray {
    kind: NumberKind,
    bytes: Vec<u8>,
}

/// The eleven number types of the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NumberKind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

impl MetadataNumber {
    /// The value, if it is an integer that fits 64 signed bits.
    pub(super) fn integer(self) -> Option<i64> {
        match self {
            Self::Unsigned(number) => i64::try_from(number).ok(),
            Self::Signed(number) => Some(number),
            _ => None,
        }
    }
}

impl NumberArray {
    /// An array of the numbers in `bytes`, which must be whole numbers of this kind.
    pub(super) fn new(kind: NumberKind, bytes: Vec<u8>) -> Self {
        Self { kind, bytes }
    }

    /// The length of the array.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / self.kind.bytes()
    }

    /// Whether the array is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The numbers in order.
    pub fn iter(&self) -> impl Iterator<Item = MetadataNumber> {
        self.bytes
            .chunks_exact(self.kind.bytes())
            .map(|bytes| self.kind.decode(bytes))
    }
}

impl NumberKind {
    /// The kind that the format writes as this code.
    pub(super) fn of(code: u32) -> Option<Self> {
        use NumberKind::{Bool, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
        Some(match code {
            0 => U8,
            1 => I8,
            2 => U16,
            3 => I16,
            4 => U32,
            5 => I32,
            6 => F32,
            7 => Bool,
            10 => U64,
            11 => I64,
            12 => F64,
            _ => return None,
        })
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The number in that many little-endian bytes.
    pub(super) fn decode(self, bytes: &[u8]) -> MetadataNumber {
        let mut wide = [0; 8];
        let width = bytes.len().min(8);
        wide[..width].copy_from_slice(&bytes[..width]);
        let unsigned = u64::from_le_bytes(wide);
        let [b0, b1, b2, b3, ..] = wide;
        match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => MetadataNumber::Unsigned(unsigned),
            Self::I8 => MetadataNumber::Signed(i8::from_le_bytes([b0]).into()),
            Self::I16 => MetadataNumber::Signed(i16::from_le_bytes([b0, b1]).into()),
            Self::I32 => MetadataNumber::Signed(i32::from_le_bytes([b0, b1, b2, b3]).into()),
            Self::I64 => MetadataNumber::Signed(i64::from_le_bytes(wide)),
            Self::F32 => MetadataNumber::Single(f32::from_le_bytes([b0, b1, b2, b3])),
            Self::F64 => MetadataNumber::Double(f64::from_le_bytes(wide)),
            Self::Bool => MetadataNumber::Bool(b0 != 0),
        }
    }
}

/// The double with the shortest decimal that rounds to this single.
pub(super) fn shortest(single: f32) -> f64 {
    single.to_string().parse().unwrap_or(f64::from(single))
}
