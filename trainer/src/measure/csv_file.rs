//! CSV files of rows of any type.

use crate::error::TrainerError;
use scenarios::files;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// Writes rows as CSV. The file is replaced as a whole; if an error occurs, it is unchanged.
///
/// # Errors
/// If the file cannot be written.
pub fn write_csv(path: &Path, rows: &[impl Serialize]) -> Result<(), TrainerError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer
            .serialize(row)
            .map_err(|e| TrainerError::content(path, e))?;
    }
    let bytes = writer
        .into_inner()
        .map_err(|e| TrainerError::content(path, e))?;
    files::replace(path, &bytes).map_err(TrainerError::file(path))
}

/// Reads the rows of a CSV file.
///
/// # Errors
/// If the file does not exist, or if a row cannot be parsed.
pub fn read_csv<R: DeserializeOwned>(path: &Path) -> Result<Vec<R>, TrainerError> {
    let mut reader = csv::Reader::from_path(path).map_err(|e| TrainerError::content(path, e))?;
    reader
        .deserialize()
        .map(|row| row.map_err(|e| TrainerError::content(path, e)))
        .collect()
}
