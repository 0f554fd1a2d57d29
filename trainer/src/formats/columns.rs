//! Rows as the columns of a Parquet file, by way of Arrow.

use arrow_json::ReaderBuilder;
use arrow_json::reader::Decoder;
use arrow_schema::Schema;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde::Serialize;
use std::fs::File;
use std::sync::Arc;

/// Number of rows that are converted into columns at once.
const BATCH: usize = 512;

/// A Parquet file that is being written. Every error is a reason in words, without the path of the file.
pub(super) struct Columns {
    decoder: Box<Decoder>,
    writer: Box<ArrowWriter<File>>,
    waiting: usize,
}

impl Columns {
    /// Starts a file whose rows have these columns, compressed with Snappy.
    pub(super) fn new(file: File, schema: Schema) -> Result<Self, String> {
        let schema = Arc::new(schema);
        let decoder = ReaderBuilder::new(Arc::clone(&schema))
            .build_decoder()
            .map_err(|error| error.to_string())?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .build();
        let writer = ArrowWriter::try_new(file, schema, Some(properties))
            .map_err(|error| error.to_string())?;
        Ok(Self {
            decoder: Box::new(decoder),
            writer: Box::new(writer),
            waiting: 0,
        })
    }

    /// Adds a row. Returns an error if the row does not fit the schema or cannot be written.
    pub(super) fn write<T: Serialize>(&mut self, row: &T) -> Result<(), String> {
        self.decoder
            .serialize(std::slice::from_ref(row))
            .map_err(|error| error.to_string())?;
        self.waiting += 1;
        if self.waiting == BATCH {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), String> {
        self.waiting = 0;
        let batch = self.decoder.flush().map_err(|error| error.to_string())?;
        match batch {
            Some(batch) => self.writer.write(&batch).map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }

    /// Writes the rows that are left and the footer. Returns the file, which is not synced yet.
    pub(super) fn finish(mut self) -> Result<File, String> {
        self.flush()?;
        self.writer.into_inner().map_err(|error| error.to_string())
    }
}
