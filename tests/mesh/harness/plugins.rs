//! Plugins directories, for one node or several, filled with the guests that were built for the
//! tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

/// A temporary directory, deleted with the last clone.
#[derive(Clone)]
pub(crate) struct Plugins {
    directory: Arc<TempDir>,
    path: PathBuf,
}

impl Plugins {
    pub(crate) fn empty() -> Self {
        let directory = TempDir::new().unwrap();
        Self {
            path: directory.path().to_owned(),
            directory: Arc::new(directory),
        }
    }

    /// `echo` and `fickle`.
    pub(crate) fn usual() -> Self {
        Self::empty().with("echo", "echo").with("fickle", "fickle")
    }

    /// Adds this guest as the plugin of the stream.
    pub(crate) fn with(self, stream: &str, guest_name: &str) -> Self {
        std::fs::copy(
            guest(guest_name),
            self.path().join(format!("{stream}.wasm")),
        )
        .unwrap();
        self
    }

    /// Adds any file.
    pub(crate) fn with_file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.path().join(name), content).unwrap();
        self
    }

    /// Adds or replaces a file atomically (by rename), as careful tools do.
    pub(crate) fn put(&self, name: &str, content: &[u8]) {
        let beside = self.path.join(format!("{name}.new"));
        std::fs::write(&beside, content).unwrap();
        std::fs::rename(beside, self.path.join(name)).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A path within it, for a test that moves or replaces the plugins directory itself.
    pub(crate) fn subdirectory(&self, name: &str) -> Self {
        Self {
            directory: self.directory.clone(),
            path: self.path.join(name),
        }
    }
}

/// A distinct version of a guest: the same code, with a custom section that holds the version.
pub(crate) fn stamped(guest_name: &str, version: u8) -> Vec<u8> {
    let mut component = std::fs::read(guest(guest_name)).unwrap();
    component.extend([0, 9, 7]);
    component.extend(b"version");
    component.push(version);
    component
}

/// A component that `cargo xtask test` has built.
pub(crate) fn guest(name: &str) -> PathBuf {
    built(&format!("guests/wasm32-wasip2/guest/{name}.wasm"))
}

/// A core module of a guest, for WASI preview 1.
pub(crate) fn module(name: &str) -> PathBuf {
    built(&format!("guests/wasm32-wasip1/guest/{name}.wasm"))
}

/// An HTTP handler that is written with the SDK of others.
pub(crate) fn other(sdk: &str) -> PathBuf {
    built(&format!("others/wasm32-wasip2/debug/other_{sdk}.wasm"))
}

fn built(file: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target")
        .join(file);
    assert!(
        file.exists(),
        "{} is missing: run the tests with `cargo xtask test`",
        file.display()
    );
    file
}
