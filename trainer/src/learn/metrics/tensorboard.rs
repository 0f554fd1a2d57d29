//! TensorBoard event files with scalars.
//!
//! An event file is a sequence of TFRecords. Each contains one `Event` protocol buffer:
//!
//! ```text
//! record  = length: u64, masked CRC32C of length: u32, data, masked CRC32C of data: u32
//! Event   = 1: wall_time double, 2: step int64, 3: file_version string, 5: Summary
//! Summary = 1: Value { 1: tag string, 2: simple_value float }
//! masked(crc) = rotate_right(crc, 15) + 0xa282ead8
//! ```
//!
//! Numbers are little-endian. The first event has the file version, each later one a scalar. As in
//! proto3, if the step is 0 it is not written.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// A writer of scalars in TensorBoard's format.
pub(crate) struct EventWriter<W> {
    writer: W,
}

impl<W: Write> EventWriter<W> {
    /// Begins an event file.
    ///
    /// # Errors
    /// If the first event cannot be written.
    pub(crate) fn new(writer: W, wall_time: f64) -> io::Result<Self> {
        let mut events = Self { writer };
        events.write_event(wall_time, 0, 3, b"brain.Event:2")?;
        Ok(events)
    }

    /// Appends a scalar; `wall_time` is in seconds since 1970.
    ///
    /// # Errors
    /// If the event cannot be written.
    pub(crate) fn write_scalar(
        &mut self,
        wall_time: f64,
        tag: &str,
        step: u64,
        value: f32,
    ) -> io::Result<()> {
        let mut content = Vec::new();
        push_bytes(&mut content, 1, tag.as_bytes());
        content.push(key(2, FIXED_32));
        content.extend(value.to_le_bytes());
        let mut summary = Vec::new();
        push_bytes(&mut summary, 1, &content);
        self.write_event(wall_time, step, 5, &summary)
    }

    /// Writes one record: an event whose content is in `field`.
    fn write_event(
        &mut self,
        wall_time: f64,
        step: u64,
        field: u8,
        content: &[u8],
    ) -> io::Result<()> {
        let mut event = vec![key(1, FIXED_64)];
        event.extend(wall_time.to_le_bytes());
        if step > 0 {
            event.push(key(2, VARINT));
            push_varint(&mut event, step);
        }
        push_bytes(&mut event, field, content);
        let length = (event.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_crc32c(&length).to_le_bytes());
        record.extend(&event);
        record.extend(masked_crc32c(&event).to_le_bytes());
        self.writer.write_all(&record)?;
        self.writer.flush()
    }
}

/// Returns the present time in seconds since 1970.
pub(crate) fn wall_time() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |elapsed| elapsed.as_nanos() as f64 / 1e9)
}

/// Wire types of protocol buffers.
const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;
const FIXED_32: u8 = 5;

/// Returns the byte in front of a field's content.
fn key(field: u8, wire_type: u8) -> u8 {
    (field << 3) | wire_type
}

/// Appends a field of bytes: a string or a message.
fn push_bytes(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    message.push(key(field, LENGTH_DELIMITED));
    push_varint(message, bytes.len() as u64);
    message.extend(bytes);
}

/// Appends seven bits a byte, the lowest first; the high bit is set if more bytes follow.
fn push_varint(message: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Returns the CRC-32 of the Castagnoli polynomial, bit-reversed 0x82f63b78.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of the catalogue of CRC algorithms.
    #[test]
    fn crc32c_has_the_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn a_varint_has_seven_bits_a_byte() {
        let mut bytes = Vec::new();
        [0, 127, 128, 300, u64::MAX]
            .into_iter()
            .for_each(|value| push_varint(&mut bytes, value));
        let largest = [255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert_eq!(
            bytes,
            [&[0, 127, 128, 1, 172, 2], largest.as_slice()].concat()
        );
    }

    /// Recorded from TensorFlow: the file version and two scalars at steps 10 and 20.
    #[test]
    fn the_bytes_are_those_of_tensorflow() {
        let mut bytes = Vec::new();
        let mut events = EventWriter::new(&mut bytes, 1_608_105_178.0).expect("memory");
        events
            .write_scalar(1_608_105_178.569_808, "hello", 10, 42.0)
            .expect("memory");
        events
            .write_scalar(1_608_105_178.570_263, "world", 20, 1.0)
            .expect("memory");
        let expected = [
            24, 0, 0, 0, 0, 0, 0, 0, 163, 127, 75, 34, 9, 0, 0, 128, 54, 111, 246, 215, 65, 26, 13,
            98, 114, 97, 105, 110, 46, 69, 118, 101, 110, 116, 58, 50, 136, 162, 101, 134, 27, 0,
            0, 0, 0, 0, 0, 0, 26, 13, 158, 19, 9, 188, 119, 164, 54, 111, 246, 215, 65, 16, 10, 42,
            14, 10, 12, 10, 5, 104, 101, 108, 108, 111, 21, 0, 0, 40, 66, 93, 240, 111, 128, 27, 0,
            0, 0, 0, 0, 0, 0, 26, 13, 158, 19, 9, 48, 127, 164, 54, 111, 246, 215, 65, 16, 20, 42,
            14, 10, 12, 10, 5, 119, 111, 114, 108, 100, 21, 0, 0, 128, 63, 5, 210, 83, 151,
        ];
        assert_eq!(bytes, expected);
    }

    /// If the step is 0, the field is absent: the content follows the wall time.
    #[test]
    fn step_zero_is_not_written() {
        let mut bytes = Vec::new();
        let mut events = EventWriter::new(&mut bytes, 0.0).expect("memory");
        events.write_scalar(0.0, "a", 0, 0.0).expect("memory");
        let second = &bytes[8 + 4 + 24 + 4..];
        let event = [
            9, 0, 0, 0, 0, 0, 0, 0, 0, 42, 10, 10, 8, 10, 1, 97, 21, 0, 0, 0, 0,
        ];
        assert_eq!(second[0], 21);
        assert_eq!(second[12..33], event);
    }
}
