//! Handlers in JavaScript and TypeScript, built by the SDK in `guest-sdk/js`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// The sources of the tests' handlers.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("javascript")
}

/// The SDK with its packages, which `cargo xtask test` installs if npm is there.
pub(crate) struct JavaScript {
    cli: PathBuf,
    built: TempDir,
}

impl JavaScript {
    /// `None` if Node.js or the packages are missing.
    pub(crate) fn find() -> Option<Self> {
        let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-sdk/js");
        let node = Command::new("node").arg("--version").output();
        let is_there = sdk.join("node_modules/componentize-qjs").is_dir()
            && node.is_ok_and(|output| output.status.success());
        is_there.then(|| Self {
            cli: sdk.join("build/cli.js"),
            built: TempDir::new().unwrap(),
        })
    }

    /// Builds a source, named from the folder of the tests' sources.
    pub(crate) fn try_build(&self, source: &str) -> (Output, PathBuf) {
        let stream = Path::new(source).file_stem().unwrap();
        let component = self.built.path().join(stream).with_extension("wasm");
        let output = Command::new("node")
            .arg(&self.cli)
            .args(["build", source, "--out"])
            .arg(&component)
            .current_dir(sources())
            .output()
            .unwrap();
        (output, component)
    }

    /// The component of this text.
    pub(crate) fn build_text(&self, name: &str, text: &str) -> Vec<u8> {
        let source = self.built.path().join(name);
        std::fs::write(&source, text).unwrap();
        self.build(source.to_str().unwrap())
    }

    /// The component of a source.
    pub(crate) fn build(&self, source: &str) -> Vec<u8> {
        let (output, component) = self.try_build(source);
        assert!(output.status.success(), "{source}: {output:?}");
        std::fs::read(component).unwrap()
    }
}
