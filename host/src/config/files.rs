//! The files that settings name. They are read and parsed when settings are checked, so that an
//! invalid one ends the start at once, with its setting; the node then watches them for changes.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use super::setting::{ConfigError, Setting};
use super::written::Settings;

/// The content of files when the settings were checked, and the paths from which to read it again.
#[derive(Debug, Clone)]
pub struct FromFiles<F, T> {
    pub files: F,
    pub first: T,
}

/// Reads the file of a setting, if it is set.
pub(super) fn read<T, E: Display>(
    settings: &Settings,
    setting: &Setting,
    read: impl Fn(&Path) -> Result<T, E>,
) -> Result<Option<FromFiles<PathBuf, T>>, ConfigError> {
    let Some(files) = settings.optional(setting).map(PathBuf::from) else {
        return Ok(None);
    };
    match read(&files) {
        Ok(first) => Ok(Some(FromFiles { files, first })),
        Err(error) => Err(wrong(setting, &files, &error)),
    }
}

/// The error for a file that is not what its setting expects.
pub(super) fn wrong(setting: &Setting, file: &Path, error: &impl Display) -> ConfigError {
    let expected = format!("{}, but {error}", setting.expected);
    ConfigError::new(setting, &file.display().to_string(), &expected)
}
