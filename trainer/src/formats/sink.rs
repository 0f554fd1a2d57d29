//! A file that is written row by row and is there whole or not at all: rows go to `FILE.tmp`, which takes the name when all
//! of them are on the disk. What stands under that name already is never replaced.

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
    /// Columns of Parquet.
    #[cfg(feature = "parquet")]
    Parquet(Columns),
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
    /// If the file exists already, or cannot be created.
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
            #[cfg(feature = "parquet")]
            Form::Parquet(columns) => columns
                .write(row)
                .map_err(|reason| TrainerError::content(path, reason)),
        }
    }

    /// How many rows there are so far.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Gives the file its name, and tells how many rows it has.
    ///
    /// # Errors
    /// When it cannot be written to its end.
    pub fn finish(self) -> Result<usize, TrainerError> {
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
