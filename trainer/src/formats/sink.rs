//! A file that is written row by row and is there whole or not at all: rows go to `FILE.tmp`, which takes the name when all
//! of them are on the disk. What stands under that name already is never replaced.

use crate::error::TrainerError;
use arrow_json::ReaderBuilder;
use arrow_json::reader::Decoder;
use arrow_schema::Schema;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde::Serialize;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of Parquet that are put into columns at once.
const BATCH: usize = 512;

/// A file that is being written.
pub struct Sink {
    path: PathBuf,
    draft: Draft,
    rows: usize,
    form: Form,
}

/// A file that is gone when it does not get its name.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // whoever named it has left nothing here
    }
}

enum Form {
    /// A JSON object a line.
    Lines(BufWriter<File>),
    /// The same between brackets, with commas.
    Array(BufWriter<File>),
    Parquet {
        decoder: Box<Decoder>,
        writer: Box<ArrowWriter<File>>,
    },
}

impl Sink {
    /// Rows as JSON: a list of them in a file named `.json`, else a line each.
    ///
    /// # Errors
    /// When something stands there already, or the file cannot be made.
    pub fn json(path: &Path) -> Result<Self, TrainerError> {
        let is_array = path
            .extension()
            .is_some_and(|extension| extension == "json");
        Self::create(path, |file| {
            let file = BufWriter::new(file);
            Ok(if is_array {
                Form::Array(file)
            } else {
                Form::Lines(file)
            })
        })
    }

    /// Rows as columns of Parquet.
    ///
    /// # Errors
    /// When something stands there already, or the file cannot be made.
    pub(super) fn parquet(path: &Path, schema: Schema) -> Result<Self, TrainerError> {
        let schema = Arc::new(schema);
        Self::create(path, |file| {
            let refused = |reason: String| TrainerError::content(path, reason);
            let decoder = ReaderBuilder::new(Arc::clone(&schema))
                .build_decoder()
                .map_err(|e| refused(e.to_string()))?;
            let properties = WriterProperties::builder()
                .set_compression(Compression::SNAPPY)
                .build();
            let writer = ArrowWriter::try_new(file, schema, Some(properties))
                .map_err(|e| refused(e.to_string()))?;
            Ok(Form::Parquet {
                decoder: Box::new(decoder),
                writer: Box::new(writer),
            })
        })
    }

    fn create(
        path: &Path,
        form: impl FnOnce(File) -> Result<Form, TrainerError>,
    ) -> Result<Self, TrainerError> {
        if path.exists() {
            return Err(TrainerError::content(
                path,
                "is there already\nhint: choose another --out, or remove it",
            ));
        }
        let mut draft = path.as_os_str().to_owned();
        draft.push(".tmp");
        let draft = Draft(draft.into());
        let file = File::create(&draft.0).map_err(TrainerError::file(path))?;
        Ok(Self {
            path: path.into(),
            draft,
            rows: 0,
            form: form(file)?,
        })
    }

    /// Writes a row.
    ///
    /// # Errors
    /// When it cannot be written, or is not of the columns that the file began with.
    pub fn write<T: Serialize>(&mut self, row: &T) -> Result<(), TrainerError> {
        let Self {
            path, rows, form, ..
        } = self;
        *rows += 1;
        match form {
            Form::Lines(file) => json_line(file, "", row).map_err(TrainerError::file(path)),
            Form::Array(file) => {
                let before = if *rows == 1 { "[\n" } else { "," };
                json_line(file, before, row).map_err(TrainerError::file(path))
            }
            Form::Parquet { decoder, .. } => {
                decoder
                    .serialize(std::slice::from_ref(row))
                    .map_err(|e| TrainerError::content(path, e))?;
                if rows.is_multiple_of(BATCH) {
                    self.flush()
                } else {
                    Ok(())
                }
            }
        }
    }

    /// How many rows there are so far.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Puts the rows so far into columns.
    fn flush(&mut self) -> Result<(), TrainerError> {
        let Form::Parquet { decoder, writer } = &mut self.form else {
            return Ok(());
        };
        if let Some(batch) = decoder
            .flush()
            .map_err(|e| TrainerError::content(&self.path, e))?
        {
            writer
                .write(&batch)
                .map_err(|e| TrainerError::content(&self.path, e))?;
        }
        Ok(())
    }

    /// Gives the file its name, and tells how many rows it has.
    ///
    /// # Errors
    /// When it cannot be written to its end.
    pub fn finish(mut self) -> Result<usize, TrainerError> {
        self.flush()?;
        let Self {
            path,
            draft,
            rows,
            form,
        } = self;
        let file = match form {
            Form::Lines(file) => whole(file),
            Form::Array(mut file) => {
                let end: &[u8] = if rows == 0 { b"[]\n" } else { b"]\n" };
                file.write_all(end).and_then(|()| whole(file))
            }
            Form::Parquet { writer, .. } => Ok(writer
                .into_inner()
                .map_err(|e| TrainerError::content(&path, e))?),
        };
        let named = file
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&draft.0, &path));
        named.map_err(TrainerError::file(&path))?;
        Ok(rows)
    }
}

fn whole(file: BufWriter<File>) -> std::io::Result<File> {
    file.into_inner()
        .map_err(std::io::IntoInnerError::into_error)
}

fn json_line<T: Serialize>(
    file: &mut BufWriter<File>,
    before: &str,
    row: &T,
) -> std::io::Result<()> {
    file.write_all(before.as_bytes())?;
    serde_json::to_writer(&mut *file, row)?;
    file.write_all(b"\n")
}
