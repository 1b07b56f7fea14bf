//! Loading: turns the bytes of one plugin into a version that can run.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tracing::info;

use super::admission::Admission;
use super::catalog::{Failed, Plugin};
use super::source::{
    File, Files, ReadError, Signature, SignatureContent, SignedTerms, SignedVersions,
};
use crate::background::steps;
use crate::message::{Digest, NameError, StreamName, truncate};
use crate::runtime::{Engine, Handler, LoadError, Manifest, ManifestError};
use crate::security::{SignatureError, SignedAs, TrustedKeys};

/// Maximum size of an error text; parts of it come from the plugin's file.
const ERROR_TEXT_BYTES_MAX: usize = 8 << 10;

/// Versions from here on are times, in seconds since 1970, as minisign writes them.
const TIMES_FROM: u64 = 1_000_000_000;

/// Why a plugin does not run; the operator reads it in the log and in the admin API. The first
/// field names the file.
#[derive(Debug, thiserror::Error)]
enum PluginError {
    #[error("{origin} cannot be a stream: its name {name:?} is wrong: {problem}; rename the file")]
    Name {
        origin: String,
        name: String,
        problem: NameError,
    },
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{0}: it is not UTF-8 text, as TOML is")]
    ManifestText(String),
    #[error("{0}: {1}")]
    Manifest(String, ManifestError),
    #[error(
        "{origin} is not signed, as --trusted-keys demands: {signature} is missing; `minisign -S -m FILE` makes it"
    )]
    Unsigned { origin: String, signature: String },
    #[error("{0}: {1}")]
    Signature(String, SignatureError),
    #[error(
        "{signature}: its trusted comment names {}, as {stream:?} is to be shared: sign it with `minisign -S -t 'stream:{stream} version:NUMBER' -m FILE`", said_of(.said)
    )]
    SignedFor {
        signature: String,
        stream: String,
        said: SignedAs,
    },
    #[error(
        "{signature}: version {version} is older than {at_least}, which ran last{}: sign it with a higher one, or go back on purpose with `meshage-host plugins use`",
        if *.at_least > TIMES_FROM { " (the time of a signature that named no version)" } else { "" }
    )]
    Older {
        signature: String,
        version: u64,
        at_least: u64,
    },
    #[error("{0}: {1}")]
    Component(String, LoadError),
    #[error("{0}: it keeps state, and there is no store for that: {1}")]
    NoStore(String, String),
    #[error("{0}: the host panicked when it loaded it: {1}; it is tried again")]
    Panicked(String, String),
}

/// The result of loading a plugin.
pub(super) enum Loaded {
    Plugin(Box<Plugin>, Option<SignedVersions>),
    Failed(Failed),
    /// The bytes are those of the current version.
    Same(Arc<Plugin>, Option<SignedVersions>),
}

/// Bytes with checked signatures.
struct Checked {
    component: Bytes,
    digest: Digest,
    /// The manifest's text and origin.
    manifest: Option<(String, String)>,
    /// If signatures must name versions.
    signed: Option<SignedVersions>,
}

impl Checked {
    fn manifest_text(&self) -> &str {
        self.manifest.as_ref().map_or("", |(text, _)| text)
    }
}

/// Loads plugins.
#[derive(Clone)]
pub struct Loader {
    pub engine: Engine,
    /// The node's timeout, the maximum for a plugin's own.
    pub timeout_max: Duration,
    /// `None`: signatures are not required.
    pub trusted_keys: Option<TrustedKeys>,
    /// Where stateful plugins keep their state.
    pub store: Arc<dyn StateStore>,
}

/// The store of the state of entities, as far as plugins need it.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// Opens it, if it is not open.
    ///
    /// # Errors
    /// Why no plugin can keep state.
    async fn open(&self) -> Result<(), String>;
}

impl Loader {
    /// Whether files must be signed.
    pub fn needs_signatures(&self) -> bool {
        self.trusted_keys.is_some()
    }

    /// Loads a plugin for the stream `name`.
    ///
    /// # Errors
    /// Why it cannot run.
    pub async fn load(
        &self,
        name: &str,
        origin: &str,
        files: Result<Files, ReadError>,
    ) -> Result<Plugin, Failed> {
        let checked = self.check(name, files).await;
        self.prepare(name, origin, checked, None).await
    }

    /// Loads a plugin whose files have changed: `current` is its current version, `admission` that
    /// of the stream, if any version of it is still in memory.
    pub(super) async fn reload(
        &self,
        name: &str,
        origin: &str,
        files: Result<Files, ReadError>,
        current: Option<Arc<Plugin>>,
        admission: Option<Arc<Admission>>,
    ) -> Loaded {
        let checked = self.check(name, files).await;
        let signed = checked.as_ref().ok().and_then(|checked| checked.signed);
        if let (Ok(checked), Some(current)) = (&checked, current)
            && checked.digest == current.digest
            && checked.manifest_text() == current.manifest
        {
            return Loaded::Same(current, signed);
        }
        match self.prepare(name, origin, checked, admission).await {
            Ok(plugin) => Loaded::Plugin(Box::new(plugin), signed),
            Err(failed) => Loaded::Failed(failed),
        }
    }

    /// Checks signatures and computes the digest, on a blocking thread, as both take a while.
    async fn check(
        &self,
        name: &str,
        files: Result<Files, ReadError>,
    ) -> Result<Checked, PluginError> {
        let files = files?;
        let name = name.to_owned();
        let trusted_keys = self.trusted_keys.clone();
        let origin = files.component.origin.clone();
        let checking =
            tokio::task::spawn_blocking(move || check(&name, files, trusted_keys.as_ref()));
        checking.await.unwrap_or_else(|error| {
            let error = io::Error::from(error);
            Err(PluginError::Panicked(origin, error.to_string()))
        })
    }

    async fn prepare(
        &self,
        name: &str,
        origin: &str,
        checked: Result<Checked, PluginError>,
        admission: Option<Arc<Admission>>,
    ) -> Result<Plugin, Failed> {
        let digest = match &checked {
            Ok(checked) => checked.digest.clone(),
            Err(_) => no_digest(),
        };
        match self.try_prepare(name, origin, checked).await {
            Ok((stream, manifest, handler)) => {
                let admission = admission
                    .unwrap_or_else(|| Arc::new(Admission::new(&stream, handler.limits())));
                Ok(Plugin {
                    stream,
                    origin: origin.to_owned(),
                    digest,
                    manifest,
                    loaded_at: SystemTime::now(),
                    handler,
                    admission,
                })
            }
            Err(error) => Err(failed(name, origin, digest, &error)),
        }
    }

    async fn try_prepare(
        &self,
        name: &str,
        origin: &str,
        checked: Result<Checked, PluginError>,
    ) -> Result<(StreamName, String, Handler), PluginError> {
        let stream = StreamName::try_from(name).map_err(|problem| PluginError::Name {
            origin: origin.to_owned(),
            name: name.to_owned(),
            problem,
        })?;
        let Checked {
            component,
            manifest,
            ..
        } = checked?;
        let (text, manifest_origin) = manifest.unwrap_or_default();
        let manifest = Manifest::read(&text, self.timeout_max)
            .map_err(|error| PluginError::Manifest(manifest_origin, error))?;
        if let Some(header) = manifest.limits.headers.credential() {
            info!(event = "plugin-sees-credentials", %stream, %header, "the plugin's manifest lets it see credentials");
        }
        let handler = Handler::load(&self.engine, stream.clone(), component, manifest)
            .await
            .map_err(|error| PluginError::Component(origin.to_owned(), error))?;
        if handler.is_stateful() {
            let opened = self.store.open().await;
            opened.map_err(|error| PluginError::NoStore(origin.to_owned(), error))?;
        }
        Ok((stream, text, handler))
    }
}

impl Loaded {
    /// The result if the host panicked during the load. It is not permanent, since the cause may be
    /// temporary.
    pub(super) fn panicked(name: &str, origin: String, panic: String) -> Self {
        let error = PluginError::Panicked(origin.clone(), panic);
        Self::Failed(failed(name, &origin, no_digest(), &error))
    }
}

fn failed(name: &str, origin: &str, digest: Digest, error: &PluginError) -> Failed {
    Failed {
        name: name.to_owned(),
        origin: origin.to_owned(),
        digest,
        failed_at: SystemTime::now(),
        is_lasting: error.is_lasting(),
        error: truncate(error.to_string(), ERROR_TEXT_BYTES_MAX),
    }
}

fn check(
    name: &str,
    files: Files,
    trusted_keys: Option<&TrustedKeys>,
) -> Result<Checked, PluginError> {
    let Files {
        component,
        manifest,
        signed: terms,
    } = files;
    let said = check_signature(&component, trusted_keys)?;
    let mut signed = match (terms, said) {
        (SignedTerms::AtLeast(last), Some(said)) => Some(SignedVersions {
            component: check_version(name, &component.signature, said, last.component)?,
            manifest: 0,
        }),
        _ => None,
    };
    let manifest = match manifest {
        Some(manifest) => {
            let manifest = manifest?;
            let said = check_signature(&manifest, trusted_keys)?;
            if let (SignedTerms::AtLeast(last), Some(said), Some(signed)) =
                (terms, said, &mut signed)
            {
                signed.manifest = check_version(name, &manifest.signature, said, last.manifest)?;
            }
            let text = String::from_utf8(manifest.bytes.into());
            let origin = manifest.origin;
            Some(match text {
                Ok(text) => (text, origin),
                Err(_) => return Err(PluginError::ManifestText(origin)),
            })
        }
        None => None,
    };
    let mut hash = Sha256::new();
    steps(&component.bytes).for_each(|step| hash.update(step));
    let digest = Digest::from_text(&format!("{:x}", hash.finalize()));
    Ok(Checked {
        component: component.bytes,
        digest,
        manifest,
        signed,
    })
}

/// Checks that a signature is for this stream, and no older than what ran last. Returns its version.
fn check_version(
    stream: &str,
    signature: &Signature,
    said: SignedAs,
    at_least: u64,
) -> Result<u64, PluginError> {
    let signature = signature.origin.clone();
    match said.version {
        Some(version) if said.stream.as_deref() == Some(stream) => {
            if version >= at_least {
                return Ok(version);
            }
            Err(PluginError::Older {
                signature,
                version,
                at_least,
            })
        }
        _ => Err(PluginError::SignedFor {
            signature,
            stream: stream.to_owned(),
            said,
        }),
    }
}

fn said_of(said: &SignedAs) -> String {
    match said {
        SignedAs { stream: None, .. } => "no stream".into(),
        SignedAs { version: None, .. } => "no version that is a number".into(),
        SignedAs {
            stream: Some(stream),
            ..
        } => format!("the stream {stream:?}"),
    }
}

/// Checks that a trusted key has signed the file, if signatures are required.
fn check_signature(
    file: &File,
    trusted_keys: Option<&TrustedKeys>,
) -> Result<Option<SignedAs>, PluginError> {
    let Some(trusted_keys) = trusted_keys else {
        return Ok(None);
    };
    let Signature { origin, content } = &file.signature;
    let error = match content {
        SignatureContent::NotRead | SignatureContent::Missing => PluginError::Unsigned {
            origin: file.origin.clone(),
            signature: origin.clone(),
        },
        SignatureContent::TooLong => {
            PluginError::Signature(origin.clone(), SignatureError::NoSignature)
        }
        SignatureContent::Text(text) => {
            return trusted_keys
                .verify(&file.bytes, text)
                .map(Some)
                .map_err(|error| PluginError::Signature(origin.clone(), error));
        }
    };
    Err(error)
}

impl PluginError {
    /// Whether the error is permanent until the bytes change.
    fn is_lasting(&self) -> bool {
        match self {
            Self::Read(error) => error.is_lasting,
            Self::Component(_, error) => error.is_lasting(),
            Self::Panicked(..) | Self::NoStore(..) => false,
            _ => true,
        }
    }
}

/// The digest of files that could not be read.
fn no_digest() -> Digest {
    Digest::from_text("")
}
