//! The file that is open, and whether its name still leads to it: what is committed to one that was
//! replaced or deleted nobody would find again.

use std::fs::{Metadata, metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::backend::StoreError;

pub(super) struct OpenFile {
    path: PathBuf,
    id: (u64, u64),
}

impl OpenFile {
    /// The file of this name, which has just been opened.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn new(path: &Path) -> Result<Self, StoreError> {
        let found = metadata(path).map_err(|error| StoreError(error.to_string()))?;
        Ok(Self {
            path: path.to_owned(),
            id: id(&found),
        })
    }

    /// # Errors
    /// If its name leads to another file now, or to none.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if metadata(&self.path).is_ok_and(|found| id(&found) == self.id) {
            return Ok(());
        }
        let path = self.path.display();
        Err(StoreError(format!(
            "{path} was replaced or deleted while it was open: put it back, or restart all nodes that use it"
        )))
    }
}

/// What a file system knows it by.
fn id(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}
