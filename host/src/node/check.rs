//! Checking plugins without a node: what a node would say of these files.

use std::ffi::OsStr;
use std::path::PathBuf;

use crate::config::PluginTerms;
use crate::plugins::Loader;
use crate::runtime::{Engine, EngineError};

/// Loads each of the files, and says in a line that it is good, or what is wrong with it.
///
/// # Errors
/// If this machine cannot run components at all.
pub async fn check(files: &[PathBuf], terms: PluginTerms) -> Result<Vec<Result<String, String>>, EngineError> {
    let PluginTerms { timeout_max, trusted_keys } = terms;
    let loader = Loader { engine: Engine::without_cache()?, timeout_max, trusted_keys };
    let mut verdicts = Vec::with_capacity(files.len());
    for file in files {
        if file.extension() != Some(OsStr::new("wasm")) {
            verdicts.push(Err(format!("{}: expected a component, <stream>.wasm", file.display())));
            continue;
        }
        verdicts.push(match loader.load_file(file).await {
            Ok(plugin) => Ok(format!("{}: good; it is the stream {}", file.display(), plugin.stream)),
            Err(failed) => Err(failed.error),
        });
    }
    Ok(verdicts)
}
