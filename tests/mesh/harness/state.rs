//! Where nodes keep the state of entities.

use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;

/// A store. Clones are the same one; it is deleted with the last.
#[derive(Clone)]
pub(crate) enum State {
    /// A file that the nodes share.
    Sqlite(Arc<TempDir>),
}

impl State {
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(Arc::new(TempDir::new().unwrap()))
    }

    /// The file of a store on SQLite.
    pub(crate) fn file(&self) -> PathBuf {
        match self {
            Self::Sqlite(directory) => directory.path().join("state.db"),
        }
    }

    /// The value of `--state`.
    pub(crate) fn location(&self) -> String {
        match self {
            Self::Sqlite(_) => format!("sqlite:{}", self.file().display()),
        }
    }
}
