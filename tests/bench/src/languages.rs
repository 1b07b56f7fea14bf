//! Handlers in other languages than Rust, built with the tools that are installed.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::process::installed;

/// File name of the component in its folder.
pub(crate) const COMPONENT: &str = "echo.wasm";

/// A tool that builds components from another language, and the source of the handler.
pub(crate) struct Language {
    pub(crate) name: &'static str,
    pub(crate) tool: &'static str,
    source: &'static str,
    pub(crate) arguments: &'static [&'static str],
}

/// The arguments name the handler's source, the folder `wit`, and the component, all relative to
/// the build folder.
pub(crate) const LANGUAGES: [Language; 3] = [
    Language {
        name: "JavaScript, by `componentize-qjs`",
        tool: "componentize-qjs",
        source: "body_echo.js",
        arguments: &[
            "--sync",
            "--wit",
            "wit",
            "--world",
            "handler",
            "--js",
            "body_echo.js",
            "--output",
            "echo.wasm",
        ],
    },
    Language {
        name: "JavaScript, by `componentize-js`",
        tool: "componentize-js",
        source: "body_echo.js",
        arguments: &[
            "body_echo.js",
            "--wit",
            "wit",
            "--world-name",
            "handler",
            "--out",
            "echo.wasm",
            "--disable",
            "stdio",
            "random",
            "clocks",
            "http",
            "fetch-event",
        ],
    },
    Language {
        name: "Python, by `componentize-py`",
        tool: "componentize-py",
        source: "body_echo.py",
        arguments: &[
            "--wit-path",
            "wit",
            "--world",
            "handler",
            "componentize",
            "body_echo",
            "--output",
            "echo.wasm",
        ],
    },
];

impl Language {
    /// Builds the component in a folder of its own; `None` if the tool is not installed.
    pub(crate) fn build(&self) -> Result<Option<TempDir>> {
        let Some(tool) = installed(self.tool) else {
            return Ok(None);
        };
        let (folder, project) = (
            TempDir::new()?,
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")),
        );
        let (wit, source) = (
            project.join("wit"),
            project.join("tests/guests/body-echo").join(self.source),
        );
        std::os::unix::fs::symlink(wit.canonicalize()?, folder.path().join("wit"))?;
        std::fs::copy(source, folder.path().join(self.source))?;
        let output = Command::new(tool)
            .args(self.arguments)
            .current_dir(&folder)
            .output()?;
        ensure!(
            output.status.success(),
            "{}: {}",
            self.tool,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(Some(folder))
    }
}
