//! Checks plugins without a node: reports whether a node would load these files.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::spawn_blocking;

use crate::config::PluginTerms;
use crate::plugins::{Loader, ReadError, Scan, StateStore, Stray, read_files};
use crate::runtime::{Engine, EngineError};

/// One line of the report: `Ok` for a good plugin or a warning, `Err` for something that a node
/// would not load.
type Verdict = Result<String, String>;

/// Loads each component, and those in each directory, and reports in one line each that it is good
/// or why not. Warns of manifests that a node would not read.
///
/// # Errors
/// If this machine cannot run components at all.
pub async fn check(paths: &[PathBuf], terms: PluginTerms) -> Result<Vec<Verdict>, EngineError> {
    let PluginTerms {
        timeout_max,
        trusted_keys,
    } = terms;
    let loader = Loader {
        engine: Engine::without_cache()?,
        timeout_max,
        trusted_keys,
        store: Arc::new(AnyStore),
    };
    let mut verdicts = Vec::with_capacity(paths.len());
    for path in paths {
        // A directory with the name of a component is meant as one, and is reported as invalid.
        let is_directory = path.extension() != Some(OsStr::new("wasm")) && path.is_dir();
        verdicts.extend(if is_directory {
            check_directory(&loader, path).await
        } else {
            check_file(&loader, path).await
        });
    }
    Ok(verdicts)
}

/// Whether there is a store is not a matter of the plugin.
struct AnyStore;

#[async_trait]
impl StateStore for AnyStore {
    async fn open(&self) -> Result<(), String> {
        Ok(())
    }
}

async fn check_file(loader: &Loader, file: &Path) -> Vec<Verdict> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let directory = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // Ignore errors here: files of a directory that cannot be listed may still be readable.
    let strays = Scan::of(directory)
        .map(|scan| scan.strays)
        .unwrap_or_default();
    let verdict = match strays.iter().find(|stray| stray.name == name) {
        Some(stray) => Err(said(file, stray)),
        None if file.extension() == Some(OsStr::new("wasm")) => load(loader, file).await,
        None => Err(format!(
            "{}: expected a component, <stream>.wasm",
            file.display()
        )),
    };
    let manifests = strays.iter().filter(|stray| stray.is_manifest_of(&name));
    let warnings = manifests.map(|stray| Ok(warning(&file.with_file_name(&stray.name), stray)));
    std::iter::once(verdict).chain(warnings).collect()
}

async fn check_directory(loader: &Loader, directory: &Path) -> Vec<Verdict> {
    let scan = match Scan::of(directory) {
        Ok(scan) => scan,
        Err(error) => {
            return vec![Err(format!(
                "{} cannot be read: {error}",
                directory.display()
            ))];
        }
    };
    let mut verdicts = Vec::new();
    for component in scan.components() {
        verdicts.push(load(loader, component).await);
    }
    verdicts.extend(scan.strays.iter().map(|stray| {
        let file = directory.join(&stray.name);
        if stray.is_component() {
            Err(said(&file, stray))
        } else {
            Ok(warning(&file, stray))
        }
    }));
    // A node would start with an empty directory; but in a check it is probably the wrong one.
    if scan.components().next().is_none() {
        verdicts.push(Err(format!(
            "{}: expected components, <stream>.wasm, and found none",
            directory.display()
        )));
    }
    verdicts
}

async fn load(loader: &Loader, file: &Path) -> Verdict {
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let (path, signed) = (file.to_owned(), loader.needs_signatures());
    let reading = spawn_blocking(move || read_files(&path, signed));
    let files = reading.await.unwrap_or_else(|error| {
        let text = format!(
            "{} cannot be read: {}",
            file.display(),
            io::Error::from(error)
        );
        let is_lasting = false;
        Err(ReadError { text, is_lasting })
    });
    let origin = file.display().to_string();
    match loader.load(&name, &origin, files).await {
        Ok(plugin) => Ok(format!(
            "{}: good; it is the stream {}",
            file.display(),
            plugin.stream
        )),
        Err(failed) => Err(failed.error),
    }
}

fn said(file: &Path, stray: &Stray) -> String {
    format!("{}: {}", file.display(), stray.unused)
}

fn warning(file: &Path, stray: &Stray) -> String {
    format!("warning: {}", said(file, stray))
}
