//! A file that is written row by row and appears only if it is complete. Rows are written to
//! `FILE.tmp`, which is renamed after all of them are on the disk. If the file exists already, it is
//! never replaced.

#[cfg(feature = "parquet")]
use super::columns::Columns;
use crate::error::TrainerError;
#[cfg(feature = "parquet")]
use arrow_schema::Schema;
use serde::Serialize;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// A file that is being written.
pub struct Sink {
    path: PathBuf,
    draft: Draft,
    rows: usize,
    form: Form,
}

/// The temporary file. It is removed when it is dropped, unless it has been renamed.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        // If the file was renamed, there is nothing to remove and the error is expected.
        let _ = fs::remove_file(&self.0);
    }
}

enum Form {
    /// JSON lines: one object per line.
    Lines(BufWriter<File>),
    /// A JSON list of objects.
    Array(BufWriter<File>),
    /// The columns of a Parquet file.
    #[cfg(feature = "parquet")]
    Parquet(Columns),
}

impl Sink {
    /// Creates a file of JSON rows. If the extension is `.json`, the file is a JSON list. Otherwise it
    /// contains JSON lines.
    ///
    /// # Errors
    /// If the file exists already, or if it cannot be created.
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

    /// Creates a Parquet file.
    ///
    /// # Errors
    /// If the file exists already, or if it cannot be created.
    #[cfg(feature = "parquet")]
    pub(super) fn parquet(path: &Path, schema: Schema) -> Result<Self, TrainerError> {
        Self::create(path, |file| {
            let columns = Columns::new(file, schema);
            columns
                .map(Form::Parquet)
                .map_err(|reason| TrainerError::content(path, reason))
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
    /// If the row cannot be written, or if it does not match the columns of a Parquet file.
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
            #[cfg(feature = "parquet")]
            Form::Parquet(columns) => columns
                .write(row)
                .map_err(|reason| TrainerError::content(path, reason)),
        }
    }

    /// Returns the number of rows so far.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Renames the temporary file to its final name. Returns the number of rows.
    ///
    /// # Errors
    /// If the file cannot be written completely.
    pub fn finish(self) -> Result<usize, TrainerError> {
        let Self {
            path,
            draft,
            rows,
            form,
        } = self;
        let file = match form {
            Form::Lines(file) => flushed(file),
            Form::Array(mut file) => {
                let end: &[u8] = if rows == 0 { b"[]\n" } else { b"]\n" };
                file.write_all(end).and_then(|()| flushed(file))
            }
            #[cfg(feature = "parquet")]
            Form::Parquet(columns) => Ok(columns
                .finish()
                .map_err(|reason| TrainerError::content(&path, reason))?),
        };
        let named = file
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&draft.0, &path));
        named.map_err(TrainerError::file(&path))?;
        Ok(rows)
    }
}

/// Writes the buffered bytes and returns the file.
fn flushed(file: BufWriter<File>) -> std::io::Result<File> {
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
