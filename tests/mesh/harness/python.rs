//! Handlers in Python, built by the SDK in `guest-sdk/python`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// The SDK, with an environment in which `cargo xtask test` has installed what it needs.
pub(crate) struct Python {
    program: PathBuf,
    built: TempDir,
}

impl Python {
    /// `None` if that environment is missing.
    pub(crate) fn find() -> Option<Self> {
        let program = root().join("target/python/bin/python");
        let mut asked = Command::new(&program);
        asked.args(["-c", "import componentize_py"]);
        let is_there = asked.output().is_ok_and(|output| output.status.success());
        is_there.then(|| Self {
            program,
            built: TempDir::new().unwrap(),
        })
    }

    /// `python -m meshage`, in the folder of the tests' sources.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["-m", "meshage"])
            .env("PYTHONPATH", root().join("guest-sdk/python/src"))
            .current_dir(root().join("tests/python"));
        command
    }

    pub(crate) fn try_build(&self, source: &str) -> (Output, PathBuf) {
        let stream = Path::new(source).file_stem().unwrap();
        let component = self.built.path().join(stream).with_extension("wasm");
        let mut build = self.command();
        build.args(["build", source, "-o"]).arg(&component);
        (build.output().unwrap(), component)
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

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
