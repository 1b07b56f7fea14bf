//! Loading: from the files of one plugin to a version of it that can run.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};
use tracing::info;

use super::admission::Admission;
use super::catalog::{Failed, Plugin};
use super::scan::{Stamp, signature_of};
use crate::message::{Digest, NameError, StreamName, truncate};
use crate::runtime::{
    COMPONENT_BYTES_MAX, Engine, Handler, LoadError, Manifest, ManifestError, is_credential,
};
use crate::security::{SignatureError, TrustedKeys};

/// The largest manifest. A longer file is none.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// A longer file is no signature.
const SIGNATURE_BYTES_MAX: u64 = 4 << 10;

/// What is said of a plugin, at most: some of it comes from its file.
const ERROR_TEXT_BYTES_MAX: usize = 8 << 10;

/// Why one plugin does not run; the operator reads it in the log and in the admin API.
#[derive(Debug, thiserror::Error)]
enum PluginError {
    #[error("{} cannot be a stream: its name {name:?} is wrong: {problem}; rename the file", .file.display())]
    Name {
        file: PathBuf,
        name: String,
        problem: NameError,
    },
    #[error("{} cannot be read: {}", .0.display(), .1)]
    Read(PathBuf, io::Error),
    #[error("{} is no regular file; a plugin is one, or a link to one", .0.display())]
    NotAFile(PathBuf),
    #[error("{} has {bytes} bytes; the limit of a manifest is {MANIFEST_BYTES_MAX}", .file.display())]
    ManifestSize { file: PathBuf, bytes: u64 },
    #[error("{}: it is not UTF-8 text, as TOML is", .0.display())]
    ManifestText(PathBuf),
    #[error("{}: {}", .0.display(), .1)]
    Manifest(PathBuf, ManifestError),
    #[error("{} is not signed, as --trusted-keys demands: {} is missing; `minisign -S -m FILE` makes it", .file.display(), .signature.display())]
    Unsigned { file: PathBuf, signature: PathBuf },
    #[error("{}: {}", .0.display(), .1)]
    Signature(PathBuf, SignatureError),
    #[error("{}: {}", .0.display(), .1)]
    Component(PathBuf, LoadError),
    #[error("{}: the host panicked when it loaded it: {}; it is tried again", .0.display(), .1)]
    Panicked(PathBuf, String),
}

/// What became of the files of a plugin.
pub(super) enum Loaded {
    Plugin(Box<Plugin>),
    Failed(Failed),
    /// They are those of the version that runs.
    Same(Arc<Plugin>),
    /// They changed while they were read: this attempt says nothing.
    Unsettled,
}

/// What is read of the disk, before any of it is looked at. The digest is made where it may take
/// its time.
struct Files {
    component: Vec<u8>,
    digest: Digest,
    manifest: String,
}

/// Makes plugins of files.
#[derive(Clone)]
pub struct Loader {
    pub engine: Engine,
    /// The longest time for a message, which bounds what a manifest may say.
    pub timeout_max: Duration,
    /// `None`: no file needs a signature.
    pub trusted_keys: Option<TrustedKeys>,
}

impl Loader {
    /// Loads the plugin of a file, as a node would that has nothing else to do.
    ///
    /// # Errors
    /// Why it cannot run.
    pub async fn load_file(&self, file: &Path) -> Result<Plugin, Failed> {
        let (path, trusted_keys) = (file.to_owned(), self.trusted_keys.clone());
        let reading = tokio::task::spawn_blocking(move || read(&path, trusted_keys.as_ref()));
        let files = reading
            .await
            .unwrap_or_else(|error| Err(PluginError::Read(file.to_owned(), error.into())));
        self.prepare(file.to_owned(), files, None).await
    }

    /// Loads what has changed: `stamp` is what the files were when they were seen, `current` the
    /// version that runs, `admission` that of the stream, if any version of it is in memory.
    pub(super) async fn reload(
        &self,
        file: PathBuf,
        stamp: Stamp,
        current: Option<Arc<Plugin>>,
        admission: Option<Arc<Admission>>,
    ) -> Loaded {
        let (path, trusted_keys) = (file.clone(), self.trusted_keys.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let files = read(&path, trusted_keys.as_ref());
            (Stamp::of(&path) == Some(stamp)).then_some(files)
        });
        let files = match reading.await {
            Ok(Some(files)) => files,
            Ok(None) => return Loaded::Unsettled,
            Err(error) => Err(PluginError::Read(file.clone(), error.into())),
        };
        if let (Ok(files), Some(current)) = (&files, current)
            && files.digest == current.digest
            && files.manifest == current.manifest
        {
            return Loaded::Same(current);
        }
        match self.prepare(file, files, admission).await {
            Ok(plugin) => Loaded::Plugin(Box::new(plugin)),
            Err(failed) => Loaded::Failed(failed),
        }
    }

    async fn prepare(
        &self,
        file: PathBuf,
        files: Result<Files, PluginError>,
        admission: Option<Arc<Admission>>,
    ) -> Result<Plugin, Failed> {
        let digest = match &files {
            Ok(files) => files.digest.clone(),
            Err(_) => no_digest(),
        };
        match self.try_prepare(&file, files).await {
            Ok((stream, manifest, handler)) => {
                let admission = admission
                    .unwrap_or_else(|| Arc::new(Admission::new(&stream, handler.limits())));
                Ok(Plugin {
                    stream,
                    file,
                    digest,
                    manifest,
                    loaded_at: SystemTime::now(),
                    handler,
                    admission,
                })
            }
            Err(error) => Err(failed(file, digest, &error)),
        }
    }

    async fn try_prepare(
        &self,
        file: &Path,
        files: Result<Files, PluginError>,
    ) -> Result<(StreamName, String, Handler), PluginError> {
        let name = name(file);
        let stream = StreamName::try_from(name.as_str()).map_err(|problem| PluginError::Name {
            file: file.to_owned(),
            name,
            problem,
        })?;
        let Files {
            component,
            manifest,
            ..
        } = files?;
        let terms = Manifest::read(&manifest, self.timeout_max)
            .map_err(|error| PluginError::Manifest(file.with_extension("toml"), error))?;
        if let Some(header) = terms.limits.headers.iter().find(|name| is_credential(name)) {
            info!(event = "plugin-sees-credentials", %stream, %header, "the plugin's manifest lets it see credentials");
        }
        let handler = Handler::load(&self.engine, stream.clone(), component, terms)
            .await
            .map_err(|error| PluginError::Component(file.to_owned(), error))?;
        Ok((stream, manifest, handler))
    }
}

impl Loaded {
    /// What becomes of files that the host panics over: it may be a matter of the moment.
    pub(super) fn panicked(file: PathBuf, panic: String) -> Self {
        let error = PluginError::Panicked(file.clone(), panic);
        Self::Failed(failed(file, no_digest(), &error))
    }
}

fn failed(file: PathBuf, digest: Digest, error: &PluginError) -> Failed {
    Failed {
        name: name(&file),
        file,
        digest,
        failed_at: SystemTime::now(),
        is_lasting: error.is_lasting(),
        error: truncate(error.to_string(), ERROR_TEXT_BYTES_MAX),
    }
}

/// The file's name without `.wasm`: the stream, unless it cannot be one.
fn name(file: &Path) -> String {
    file.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn read(file: &Path, trusted_keys: Option<&TrustedKeys>) -> Result<Files, PluginError> {
    let too_large = |bytes| PluginError::Component(file.to_owned(), LoadError::TooLarge { bytes });
    let component = read_up_to(COMPONENT_BYTES_MAX, file, too_large)?;
    check_signature(file, &component, trusted_keys)?;
    let manifest_file = file.with_extension("toml");
    let too_large = |bytes| PluginError::ManifestSize {
        file: manifest_file.clone(),
        bytes,
    };
    let manifest = match read_up_to(MANIFEST_BYTES_MAX, &manifest_file, too_large) {
        Err(PluginError::Read(_, error)) if error.kind() == io::ErrorKind::NotFound => {
            String::new()
        }
        read => {
            let manifest = read?;
            check_signature(&manifest_file, &manifest, trusted_keys)?;
            String::from_utf8(manifest).map_err(|_| PluginError::ManifestText(manifest_file))?
        }
    };
    Ok(Files {
        digest: digest(&component),
        component,
        manifest,
    })
}

/// Makes sure that a trusted key has signed the file, if it must: the signature is beside it.
fn check_signature(
    file: &Path,
    content: &[u8],
    trusted_keys: Option<&TrustedKeys>,
) -> Result<(), PluginError> {
    let Some(trusted_keys) = trusted_keys else {
        return Ok(());
    };
    let signature_file = signature_of(file);
    let too_large = |_| PluginError::Signature(signature_file.clone(), SignatureError::NoSignature);
    let signature = match read_up_to(SIGNATURE_BYTES_MAX, &signature_file, too_large) {
        Err(PluginError::Read(_, error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(PluginError::Unsigned {
                file: file.to_owned(),
                signature: signature_file,
            });
        }
        read => read?,
    };
    trusted_keys
        .verify(content, &String::from_utf8_lossy(&signature))
        .map_err(|error| PluginError::Signature(signature_file, error))
}

/// Reads a regular file of a limited size. Nothing else is waited for: what is no file may never
/// end.
fn read_up_to(
    bytes_max: u64,
    path: &Path,
    too_large: impl Fn(u64) -> PluginError,
) -> Result<Vec<u8>, PluginError> {
    let read_error = |error| PluginError::Read(path.to_owned(), error);
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path);
    let file = file.map_err(read_error)?;
    let metadata = file.metadata().map_err(read_error)?;
    if !metadata.is_file() {
        return Err(PluginError::NotAFile(path.to_owned()));
    }
    if metadata.len() > bytes_max {
        return Err(too_large(metadata.len()));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(read_error)?;
    if bytes.len() as u64 > bytes_max {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

impl PluginError {
    /// Whether it stays so as long as the files are what they are.
    fn is_lasting(&self) -> bool {
        match self {
            Self::Read(_, error) => {
                matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                )
            }
            Self::Component(_, error) => error.is_lasting(),
            Self::Panicked(..) => false,
            _ => true,
        }
    }
}

fn digest(component: &[u8]) -> Digest {
    Digest::from_text(&format!("{:x}", Sha256::digest(component)))
}

/// Of what could not be read.
fn no_digest() -> Digest {
    Digest::from_text("")
}
