//! The value of `--device`.

use crate::ui;
use agent::inference::device::DeviceChoice;

/// Reads the value of `--device`. `auto` is replaced by the device that it selects, with a note that
/// names it.
///
/// # Errors
/// If the text is not a device.
pub(crate) fn read(text: &str) -> Result<DeviceChoice, String> {
    if text != "auto" {
        return text.parse();
    }
    let device = DeviceChoice::automatic();
    ui::note(&format!("--device auto: {device}"));
    Ok(device)
}
