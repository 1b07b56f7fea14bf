//! Loading: from the files of one plugin to a version of it that can run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use tracing::info;

use super::catalog::{Failed, Plugin};
use super::manifest::{ManifestError, is_credential, read_manifest};
use super::scan::Stamp;
use crate::message::{Digest, NameError, StreamName};
use crate::runtime::{COMPONENT_BYTES_MAX, Engine, Handler, Limits, LoadError};

/// The largest manifest. A longer file is none.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// Why one plugin does not run; the operator reads it in the log and in the admin API.
#[derive(Debug, thiserror::Error)]
enum PluginError {
    #[error("{} cannot be a stream: its name {name:?} is wrong: {problem}; rename the file", .file.display())]
    Name { file: PathBuf, name: String, problem: NameError },
    #[error("{} cannot be read: {}", .0.display(), .1)]
    Read(PathBuf, io::Error),
    #[error("{} is no regular file; a plugin is one, or a link to one", .0.display())]
    NotAFile(PathBuf),
    #[error("{} has {bytes} bytes; the limit of a manifest is {MANIFEST_BYTES_MAX}", .file.display())]
    ManifestSize { file: PathBuf, bytes: u64 },
    #[error("{}: {}", .0.display(), .1)]
    Manifest(PathBuf, ManifestError),
    #[error("{}: {}", .0.display(), .1)]
    Component(PathBuf, LoadError),
}

/// What became of the files of a plugin.
pub(super) enum Loaded {
    Plugin(Box<Plugin>),
    Failed(Failed),
    /// They are those of the version that runs.
    Same,
    /// They changed while they were read: this attempt says nothing.
    Unsettled,
}

/// What is read of the disk, before any of it is looked at.
struct Files {
    component: Vec<u8>,
    manifest: String,
}

/// Loads the plugin of a file, as a node would that has nothing else to do.
///
/// # Errors
/// Why it cannot run.
pub async fn load_file(file: &Path, engine: &Engine, timeout_max: Duration) -> Result<Plugin, Failed> {
    let file = file.to_owned();
    let read = tokio::task::spawn_blocking({
        let file = file.clone();
        move || read(&file)
    });
    let files = read.await.unwrap_or_else(|error| Err(PluginError::Read(file.clone(), error.into())));
    prepare(file, files, engine, timeout_max).await
}

/// Loads what has changed: `stamp` is what the files were when they were seen, `current` the version that
/// runs.
pub(super) async fn reload(
    file: PathBuf,
    stamp: Stamp,
    current: Option<std::sync::Arc<Plugin>>,
    engine: &Engine,
    timeout_max: Duration,
) -> Loaded {
    let path = file.clone();
    let read = tokio::task::spawn_blocking(move || {
        let files = read(&path);
        (Stamp::of(&path) == Some(stamp)).then_some(files)
    });
    let files = match read.await {
        Ok(Some(files)) => files,
        Ok(None) => return Loaded::Unsettled,
        Err(error) => Err(PluginError::Read(file.clone(), error.into())),
    };
    if let (Ok(files), Some(current)) = (&files, &current)
        && digest(&files.component) == current.digest
        && files.manifest == current.manifest
    {
        return Loaded::Same;
    }
    match prepare(file, files, engine, timeout_max).await {
        Ok(plugin) => Loaded::Plugin(Box::new(plugin)),
        Err(failed) => Loaded::Failed(failed),
    }
}

fn read(file: &Path) -> Result<Files, PluginError> {
    let read_error = |file: &Path| {
        let file = file.to_owned();
        move |error| PluginError::Read(file, error)
    };
    let metadata = fs::metadata(file).map_err(read_error(file))?;
    if !metadata.is_file() {
        return Err(PluginError::NotAFile(file.to_owned()));
    }
    let bytes = metadata.len();
    if bytes > COMPONENT_BYTES_MAX {
        return Err(PluginError::Component(file.to_owned(), LoadError::TooLarge { bytes }));
    }
    let component = fs::read(file).map_err(read_error(file))?;
    let manifest_file = file.with_extension("toml");
    let manifest = match fs::metadata(&manifest_file) {
        Ok(metadata) if !metadata.is_file() => return Err(PluginError::NotAFile(manifest_file)),
        Ok(metadata) if metadata.len() > MANIFEST_BYTES_MAX => {
            return Err(PluginError::ManifestSize { file: manifest_file, bytes: metadata.len() });
        }
        Ok(_) => fs::read_to_string(&manifest_file).map_err(read_error(&manifest_file))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(PluginError::Read(manifest_file, error)),
    };
    Ok(Files { component, manifest })
}

async fn prepare(
    file: PathBuf,
    files: Result<Files, PluginError>,
    engine: &Engine,
    timeout_max: Duration,
) -> Result<Plugin, Failed> {
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let digest = match &files {
        Ok(files) => digest(&files.component),
        Err(_) => Digest::from_text(""),
    };
    match try_prepare(&name, &file, files, engine, timeout_max).await {
        Ok((stream, manifest, handler)) => {
            Ok(Plugin { stream, file, digest, manifest, loaded_at: SystemTime::now(), handler })
        }
        Err(error) => Err(Failed { name, file, digest, failed_at: SystemTime::now(), error: error.to_string() }),
    }
}

async fn try_prepare(
    name: &str,
    file: &Path,
    files: Result<Files, PluginError>,
    engine: &Engine,
    timeout_max: Duration,
) -> Result<(StreamName, String, Handler), PluginError> {
    let stream = StreamName::try_from(name).map_err(|problem| PluginError::Name {
        file: file.to_owned(),
        name: name.to_owned(),
        problem,
    })?;
    let Files { component, manifest } = files?;
    let limits: Limits = read_manifest(&manifest, timeout_max)
        .map_err(|error| PluginError::Manifest(file.with_extension("toml"), error))?;
    if let Some(header) = limits.headers.iter().find(|name| is_credential(name)) {
        info!(%stream, %header, "the plugin's manifest lets it see credentials");
    }
    let handler = Handler::load(engine, stream.clone(), component, limits)
        .await
        .map_err(|error| PluginError::Component(file.to_owned(), error))?;
    Ok((stream, manifest, handler))
}

fn digest(component: &[u8]) -> Digest {
    Digest::from_text(&format!("{:x}", Sha256::digest(component)))
}
