//! A plugins directory for one node, made of the guests that were built for the tests.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A directory that goes with the value.
pub(crate) struct Plugins(TempDir);

impl Plugins {
    pub(crate) fn empty() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// `echo` and `fickle`.
    pub(crate) fn usual() -> Self {
        Self::empty().with("echo", "echo").with("fickle", "fickle")
    }

    /// Offers the stream by that guest.
    pub(crate) fn with(self, stream: &str, guest_name: &str) -> Self {
        std::fs::copy(guest(guest_name), self.path().join(format!("{stream}.wasm"))).unwrap();
        self
    }

    /// Adds any file.
    pub(crate) fn with_file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.path().join(name), content).unwrap();
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A component that `cargo xtask test` has built.
pub(crate) fn guest(name: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../target/guests/wasm32-wasip2/guest/{name}.wasm"));
    assert!(file.exists(), "{} is missing: run the tests with `cargo xtask test`", file.display());
    file
}
