//! Builds a handler in Rust on each saving, and puts its component where a node looks for it. Other
//! languages have a command of their own for that.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use serde::Deserialize;

const TARGET: &str = "wasm32-wasip2";

/// Folders with files that a build depends on, besides those of the project's folder.
const WATCHED: [&str; 3] = ["src", "sdk", "wit"];

/// Editors save in several steps.
const SETTLED: Duration = Duration::from_millis(50);

/// Why nothing can be developed here.
#[derive(Debug, thiserror::Error)]
pub enum DevelopError {
    #[error(
        "there is no Cargo.toml here: `dev` is for projects in Rust; those in JavaScript have `npm run dev`, those in Python `python -m meshage dev`"
    )]
    NoProject,
    #[error("cannot watch this folder")]
    Watch(#[from] notify::Error),
}

/// A project whose component is built on each saving.
pub struct Develop {
    project: PathBuf,
    plugins: PathBuf,
    changes: Receiver<notify::Result<notify::Event>>,
    _watcher: RecommendedWatcher,
}

impl Develop {
    /// Watches the project in this folder. Its component goes into the folder `plugins`.
    ///
    /// # Errors
    /// If there is none, or it cannot be watched.
    pub fn new(project: &Path, plugins: &Path) -> Result<Self, DevelopError> {
        if !project.join("Cargo.toml").is_file() {
            return Err(DevelopError::NoProject);
        }
        let (sender, changes) = channel();
        let mut watcher = notify::recommended_watcher(sender)?;
        watcher.watch(project, RecursiveMode::NonRecursive)?;
        for folder in WATCHED.map(|name| project.join(name)) {
            if folder.is_dir() {
                watcher.watch(&folder, RecursiveMode::Recursive)?;
            }
        }
        Ok(Self {
            project: project.to_owned(),
            plugins: plugins.to_owned(),
            changes,
            _watcher: watcher,
        })
    }

    /// Builds now, and again on each saving, on a thread of its own.
    pub fn start(self) -> io::Result<()> {
        let work = move || {
            loop {
                self.build();
                if !self.wait() {
                    return;
                }
            }
        };
        thread::Builder::new().name("develop".into()).spawn(work)?;
        Ok(())
    }

    /// Waits until something is saved. `false`: nothing ever will be.
    fn wait(&self) -> bool {
        let mut settled: Option<Instant> = None;
        loop {
            let changed = match settled {
                None => self.changes.recv().map_err(RecvTimeoutError::from),
                Some(at) => {
                    let left = at.saturating_duration_since(Instant::now());
                    self.changes.recv_timeout(left)
                }
            };
            match changed {
                // A node may write its state into the same folder, again and again.
                Ok(event) => {
                    if event.is_ok_and(|event| concerns(&event)) {
                        settled = Some(Instant::now() + SETTLED);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return settled.is_some(),
            }
        }
    }

    /// What is wrong is told by cargo; the node runs on with what it has.
    fn build(&self) {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(&cargo);
        build
            .current_dir(&self.project)
            .args(["build", "--target", TARGET])
            .arg("--message-format=json-render-diagnostics")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let built = build.spawn().and_then(|mut cargo| {
            let output = BufReader::new(cargo.stdout.take().expect("it is piped"));
            let components = output.lines().map_while(Result::ok);
            let components: Vec<_> = components.filter_map(|line| component(&line)).collect();
            Ok((cargo.wait()?, components))
        });
        match built {
            Ok((status, components)) if status.success() => {
                if components.is_empty() {
                    eprintln!("meshage-host: the project has no library of the type \"cdylib\"");
                }
                for (stream, component) in components {
                    self.put(&stream, &component);
                }
            }
            Ok(_) => eprintln!("meshage-host: the last good one runs on"),
            Err(error) => eprintln!("meshage-host: cannot run {}: {error}", cargo.display()),
        }
    }

    /// By a rename, as the node looks at the folder.
    fn put(&self, stream: &str, component: &Path) {
        let target = self.plugins.join(format!("{stream}.wasm"));
        let beside = self.plugins.join(format!("{stream}.wasm.new"));
        let put = fs::copy(component, &beside).and_then(|_| fs::rename(&beside, &target));
        if let Err(error) = put {
            eprintln!("meshage-host: cannot write {}: {error}", target.display());
        }
    }
}

/// Whether a change is one of a file that a build depends on.
fn concerns(event: &notify::Event) -> bool {
    !event.kind.is_access()
        && event.paths.iter().any(|path| {
            let ending = path.extension().and_then(|ending| ending.to_str());
            ending.is_some_and(|ending| ["rs", "toml", "wit"].contains(&ending))
        })
}

/// What cargo tells of one thing that it built.
#[derive(Deserialize)]
struct Told {
    reason: String,
    #[serde(default)]
    target: Target,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

#[derive(Default, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// The stream and the component that a line of cargo's output tells of. Cargo writes underscores for
/// hyphens.
fn component(line: &str) -> Option<(String, PathBuf)> {
    let told: Told = serde_json::from_str(line).ok()?;
    let is_component = |file: &PathBuf| file.extension().is_some_and(|ending| ending == "wasm");
    let is_built =
        told.reason == "compiler-artifact" && told.target.kind.contains(&"cdylib".into());
    let file = told.filenames.into_iter().find(is_component);
    file.filter(|_| is_built)
        .map(|file| (told.target.name.replace('_', "-"), file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_found_in_what_cargo_tells() {
        let line = r#"{"reason":"compiler-artifact","target":{"kind":["cdylib"],"name":"order_book","src_path":"/p/src/lib.rs"},"filenames":["/t/order_book.wasm"],"fresh":true}"#;
        let expected = ("order-book".to_owned(), PathBuf::from("/t/order_book.wasm"));
        assert_eq!(component(line), Some(expected));
        let library = line.replace("cdylib", "lib").replace(".wasm", ".rlib");
        assert_eq!(component(&library), None);
        assert_eq!(
            component(r#"{"reason":"build-finished","success":true}"#),
            None
        );
        assert_eq!(component("no json"), None);
    }
}
