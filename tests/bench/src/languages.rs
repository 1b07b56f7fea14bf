//! Handlers in other languages than Rust, built with the SDKs of this project, and HTTP handlers written with the
//! SDKs of others.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use tempfile::TempDir;

/// A handler in another language, and the command that builds it, in the project's folder.
pub(crate) struct Language {
    pub(crate) name: &'static str,
    /// The program and its arguments; `$OUT` is the component.
    pub(crate) command: &'static [&'static str],
}

const JAVASCRIPT: &str = "guest-sdk/js/build/cli.js";
const PYTHON: &str = "target/python/bin/python";

/// Handlers that answer a message with its body.
pub(crate) const LANGUAGES: [Language; 4] = [
    Language {
        name: "JavaScript",
        command: &[
            "node",
            JAVASCRIPT,
            "build",
            "tests/javascript/src/body-echo.js",
            "--out",
            "$OUT",
        ],
    },
    Language {
        name: "JavaScript, without the SDK",
        command: &[
            "node",
            "guest-sdk/js/node_modules/.bin/componentize-qjs",
            "--sync",
            "--wit",
            "wit",
            "--world",
            "handler",
            "--js",
            "tests/javascript/src/raw-echo.js",
            "--output",
            "$OUT",
        ],
    },
    Language {
        name: "JavaScript, on StarlingMonkey",
        command: &[
            "node",
            JAVASCRIPT,
            "build",
            "--engine",
            "starlingmonkey",
            "tests/javascript/src/body-echo.js",
            "--out",
            "$OUT",
        ],
    },
    Language {
        name: "Python",
        command: &[
            PYTHON,
            "-m",
            "meshage",
            "build",
            "tests/python/src/body_echo.py",
            "-o",
            "$OUT",
        ],
    },
];

/// HTTP handlers that answer a POST with its body.
pub(crate) const HTTP: [Language; 2] = [
    Language {
        name: "JavaScript, on StarlingMonkey",
        command: &[
            "node",
            JAVASCRIPT,
            "build",
            "--http",
            "tests/javascript/src/http-echo.js",
            "--out",
            "$OUT",
        ],
    },
    Language {
        name: "Python, WSGI",
        command: &[
            PYTHON,
            "-m",
            "meshage",
            "build",
            "tests/python/src/http_echo.py",
            "-o",
            "$OUT",
        ],
    },
];

/// HTTP handlers in Rust, built from `tests/others`: what they are written with.
pub(crate) const OTHERS: [&str; 3] = ["spin", "waki", "wstd"];

impl Language {
    /// Builds the component, into a folder of its own.
    pub(crate) fn build(&self) -> Result<(TempDir, PathBuf)> {
        let folder = TempDir::new()?;
        let component = folder.path().join("echo.wasm");
        let project = project();
        let mut arguments = self.command.iter().map(|argument| match *argument {
            "$OUT" => component.clone().into_os_string(),
            argument => argument.into(),
        });
        let program = arguments.next().expect("a command has a program");
        let output = Command::new(&program)
            .args(arguments)
            .current_dir(&project)
            .env("PYTHONPATH", project.join("guest-sdk/python/src"))
            .output()?;
        ensure!(
            output.status.success(),
            "{}: {}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok((folder, component))
    }
}

/// The component of an HTTP handler in Rust.
pub(crate) fn other(name: &str) -> PathBuf {
    project().join(format!(
        "target/others/wasm32-wasip2/release/other_{name}.wasm"
    ))
}

fn project() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).to_owned()
}
