//! Secret files, as operators make them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use tempfile::TempDir;

use super::binary;

/// A file of secrets that goes with the last clone of the value.
#[derive(Clone)]
pub(crate) struct Secret {
    file: String,
    _directory: Arc<TempDir>,
}

impl Secret {
    /// One for all tests that need any.
    pub(crate) fn shared() -> Self {
        static SHARED: OnceLock<Secret> = OnceLock::new();
        SHARED.get_or_init(|| Self::of(&[new_secret()])).clone()
    }

    pub(crate) fn of(secrets: &[String]) -> Self {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("secret").to_str().unwrap().to_owned();
        let secret = Self {
            file,
            _directory: Arc::new(directory),
        };
        secret.put(secrets);
        secret
    }

    /// Replaces the secrets, in one step.
    pub(crate) fn put(&self, secrets: &[String]) {
        let beside = format!("{}.new", self.file);
        fs::write(&beside, secrets.join("\n")).unwrap();
        fs::set_permissions(&beside, Permissions::from_mode(0o600)).unwrap();
        fs::rename(&beside, &self.file).unwrap();
    }

    pub(crate) fn file(&self) -> &str {
        &self.file
    }
}

/// What `meshage-host secret` prints.
pub(crate) fn new_secret() -> String {
    let output = Command::new(binary()).arg("secret").output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
