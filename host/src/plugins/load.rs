//! Loading: from the files of the plugins directory to plugins. Reloading while running has its place
//! here: it will call [`load_plugin`] for what changed.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use tracing::{error, info};

use super::catalog::{Plugin, PluginState};
use super::manifest::{Manifest, ManifestError, is_credential};
use crate::message::{Digest, NameError, StreamName};
use crate::runtime::{Engine, Handler, Limits, LoadError};

#[derive(Debug, thiserror::Error)]
#[error("the plugins directory {} cannot be read", .directory.display())]
pub struct DirectoryError {
    directory: PathBuf,
    source: io::Error,
}

/// Why one plugin does not run; the operator reads it in the log and in the admin API.
#[derive(Debug, thiserror::Error)]
enum PluginError {
    #[error("{0:?} cannot be a stream: {1}; rename the file")]
    Name(String, NameError),
    #[error("{} cannot be read: {}", .0.display(), .1)]
    Read(PathBuf, io::Error),
    #[error("{}: {}", .0.display(), .1)]
    Manifest(PathBuf, ManifestError),
    #[error("{}: {}", .0.display(), .1)]
    Component(PathBuf, LoadError),
}

/// Loads every `<stream>.wasm` of a directory, in the order of their names. What cannot be loaded is
/// in the result too, with the reason.
///
/// # Errors
/// If the directory itself cannot be read.
pub async fn load_directory(
    directory: &Path,
    engine: &Engine,
    default_timeout: Duration,
) -> Result<Vec<Plugin>, DirectoryError> {
    let files = wasm_files(directory).map_err(|source| DirectoryError { directory: directory.to_owned(), source })?;
    let mut plugins = Vec::with_capacity(files.len());
    for file in files {
        plugins.push(load_plugin(file, engine, default_timeout).await);
    }
    Ok(plugins)
}

fn wasm_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.retain(|file| file.extension() == Some(OsStr::new("wasm")) && !file.is_dir());
    files.sort();
    Ok(files)
}

async fn load_plugin(file: PathBuf, engine: &Engine, default_timeout: Duration) -> Plugin {
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut digest = Digest::from_text("");
    let result = try_load(&name, &file, &mut digest, engine, default_timeout).await;
    let state = match result {
        Ok((stream, handler)) => {
            info!(%stream, file = %file.display(), digest = digest.as_str(), "plugin ready");
            PluginState::Ready(stream, Box::new(handler))
        }
        Err(error) => {
            error!(plugin = name, %error, "plugin failed");
            PluginState::Failed(error.to_string())
        }
    };
    Plugin { name, file, digest, loaded_at: SystemTime::now(), state }
}

async fn try_load(
    name: &str,
    file: &Path,
    digest: &mut Digest,
    engine: &Engine,
    default_timeout: Duration,
) -> Result<(StreamName, Handler), PluginError> {
    let stream = StreamName::try_from(name).map_err(|error| PluginError::Name(name.to_owned(), error))?;
    let component = tokio::fs::read(file).await.map_err(|error| PluginError::Read(file.to_owned(), error))?;
    *digest = Digest::from_text(&format!("{:x}", Sha256::digest(&component)));
    let limits = read_manifest(&file.with_extension("toml"), default_timeout).await?;
    if let Some(header) = limits.headers.iter().find(|name| is_credential(name)) {
        info!(%stream, %header, "the plugin's manifest lets it see credentials");
    }
    let handler = Handler::load(engine, stream.clone(), component, limits)
        .await
        .map_err(|error| PluginError::Component(file.to_owned(), error))?;
    Ok((stream, handler))
}

async fn read_manifest(file: &Path, default_timeout: Duration) -> Result<Limits, PluginError> {
    match tokio::fs::read_to_string(file).await {
        Ok(text) => {
            Manifest::read(&text, default_timeout).map_err(|error| PluginError::Manifest(file.to_owned(), error))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Limits::with_timeout(default_timeout)),
        Err(error) => Err(PluginError::Read(file.to_owned(), error)),
    }
}
