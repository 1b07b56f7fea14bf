//! The SDKs for other languages than Rust, as the tests build handlers with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, OnceLock};

use tempfile::TempDir;

use super::skipped;

/// An SDK whose command builds components.
pub(crate) struct Sdk {
    /// Its command, and the folder of the tests' sources.
    program: Vec<PathBuf>,
    sources: PathBuf,
    variable: Option<(&'static str, PathBuf)>,
    built: TempDir,
}

impl Sdk {
    /// That for JavaScript and TypeScript. `None`, said loudly, if this machine has not what it needs.
    pub(crate) fn javascript(test: &str) -> Option<Self> {
        let sdk = root().join("guest-sdk/js");
        let is_there = sdk.join("node_modules/componentize-qjs").is_dir()
            && is_good(Command::new("node").arg("--version"));
        if !is_there {
            skipped(
                test,
                "Node.js and the packages of guest-sdk/js (`apt-get install nodejs npm`, `npm ci`)",
            );
            return None;
        }
        Some(Self {
            program: vec!["node".into(), sdk.join("build/cli.js")],
            sources: root().join("tests/javascript"),
            variable: None,
            built: TempDir::new().unwrap(),
        })
    }

    /// That for JavaScript, with StarlingMonkey. `None`, said loudly, if it is not there.
    pub(crate) fn starling_monkey(test: &str) -> Option<Self> {
        let sdk = Self::javascript(test)?;
        let package = "node_modules/@bytecodealliance/componentize-js";
        if !sdk.sources.join(package).is_dir() {
            skipped(test, "StarlingMonkey (`npm ci` in tests/javascript)");
            return None;
        }
        Some(sdk)
    }

    /// That for Python. `None`, said loudly, if this machine has not what it needs.
    pub(crate) fn python(test: &str) -> Option<Self> {
        let python = root().join("target/python/bin/python");
        if !is_good(Command::new(&python).args(["-c", "import componentize_py"])) {
            skipped(
                test,
                "Python with venv (`apt-get install python3-venv`) and componentize-py (`pip install`)",
            );
            return None;
        }
        Some(Self {
            program: vec![python, "-m".into(), "meshage".into()],
            sources: root().join("tests/python"),
            variable: Some(("PYTHONPATH", root().join("guest-sdk/python/src"))),
            built: TempDir::new().unwrap(),
        })
    }

    /// Its command, in the folder of the tests' sources.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]).current_dir(&self.sources);
        command.envs(self.variable.clone());
        command
    }

    /// Runs a program in its language, in this folder.
    pub(crate) fn run(&self, folder: &Path, program: &str) -> Output {
        let mut command = Command::new(&self.program[0]);
        command.envs(self.variable.clone()).current_dir(folder);
        command.args(["-c", program]).output().unwrap()
    }

    /// Builds a source, and returns where its component would be.
    pub(crate) fn try_build(&self, source: &str) -> (Output, PathBuf) {
        self.try_build_with(source, &[])
    }

    fn try_build_with(&self, source: &str, flags: &[&str]) -> (Output, PathBuf) {
        let stream = Path::new(source).file_stem().unwrap();
        let component = self.built.path().join(stream).with_extension("wasm");
        let mut build = self.command();
        build.args(["build", source]).args(flags);
        build.arg("--out").arg(&component);
        (build.output().unwrap(), component)
    }

    /// The component of a source.
    pub(crate) fn build(&self, source: &str) -> Vec<u8> {
        self.build_with(source, &[])
    }

    /// The component of a source, built with these flags: once, however many tests use it.
    pub(crate) fn build_with(&self, source: &str, flags: &[&str]) -> Vec<u8> {
        static BUILT: Mutex<BTreeMap<String, Arc<OnceLock<Vec<u8>>>>> = Mutex::new(BTreeMap::new());
        let name = format!("{source} {}", flags.join(" "));
        let built = BUILT.lock().unwrap().entry(name).or_default().clone();
        let build = || {
            let (output, component) = self.try_build_with(source, flags);
            assert!(output.status.success(), "{source}: {output:?}");
            std::fs::read(component).unwrap()
        };
        built.get_or_init(build).clone()
    }

    /// The component of this text.
    pub(crate) fn build_text(&self, name: &str, text: &str) -> Vec<u8> {
        let source = self.built.path().join(name);
        std::fs::write(&source, text).unwrap();
        let (output, component) = self.try_build(source.to_str().unwrap());
        assert!(output.status.success(), "{name}: {output:?}");
        std::fs::read(component).unwrap()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

fn is_good(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
