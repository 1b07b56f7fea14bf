//! The files that settings name. They are read and understood where settings are checked, so that a
//! wrong one ends the start at once, with its setting; the node follows them from what was found
//! then.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use super::setting::{ConfigError, Setting};
use super::written::Settings;
use crate::message::NodeId;
use crate::security::{PeerCertificates, PeerTls, ServerCertificate, ServerTls, TlsError};

/// What files had when the settings were checked, and where it is read again.
#[derive(Debug, Clone)]
pub struct FromFiles<F, T> {
    pub files: F,
    pub first: T,
}

/// Reads the file of a setting, if it is set.
pub(super) fn read<T, E: Display>(
    settings: &Settings,
    name: &'static str,
    read: impl Fn(&Path) -> Result<T, E>,
) -> Result<Option<FromFiles<PathBuf, T>>, ConfigError> {
    let Some(files) = settings.optional(name).map(PathBuf::from) else {
        return Ok(None);
    };
    match read(&files) {
        Ok(first) => Ok(Some(FromFiles { files, first })),
        Err(error) => Err(wrong(name, &files, &error)),
    }
}

/// Both files or none.
pub(super) fn certificate(
    settings: &Settings,
) -> Result<Option<FromFiles<ServerCertificate, ServerTls>>, ConfigError> {
    let files = match ["tls_cert", "tls_key"].map(|name| settings.optional(name).map(PathBuf::from))
    {
        [None, None] => return Ok(None),
        [Some(certificate), Some(key)] => ServerCertificate { certificate, key },
        [Some(_), None] => return Err(settings.error("tls_cert", "tls_key as well")),
        [None, Some(_)] => return Err(settings.error("tls_key", "tls_cert as well")),
    };
    match ServerTls::read(&files) {
        Ok(first) => Ok(Some(FromFiles { files, first })),
        Err(error @ TlsError::Key(_)) => Err(wrong("tls_key", &files.key, &error)),
        Err(error) => Err(wrong("tls_cert", &files.certificate, &error)),
    }
}

/// All three files or none, and only with a secret: gossip is sealed with that.
pub(super) fn peer_certificates(
    settings: &Settings,
    has_secret: bool,
) -> Result<Option<FromFiles<PeerCertificates, PeerTls>>, ConfigError> {
    let names = ["peer_cert", "peer_key", "peer_ca"];
    let files = names.map(|name| settings.optional(name).map(PathBuf::from));
    let files = match files {
        [None, None, None] => return Ok(None),
        [Some(certificate), Some(key), Some(authority)] if has_secret => PeerCertificates {
            certificate,
            key,
            authority,
        },
        _ => {
            let set = names
                .into_iter()
                .find(|name| settings.optional(name).is_some());
            let expected = "peer_cert, peer_key and peer_ca together, and secret_file, as gossip is sealed with the secret";
            return Err(settings.error(set.unwrap_or("peer_cert"), expected));
        }
    };
    match PeerTls::of_files(&files) {
        Ok(first) => Ok(Some(FromFiles { files, first })),
        Err(error @ TlsError::Key(_)) => Err(wrong("peer_key", &files.key, &error)),
        Err(error @ TlsError::Authority(_)) => Err(wrong("peer_ca", &files.authority, &error)),
        Err(error) => Err(wrong("peer_cert", &files.certificate, &error)),
    }
}

/// Makes sure that the certificate is that of the node with this id.
pub(super) fn check_certificate_of(
    node_id: &NodeId,
    certificates: &FromFiles<PeerCertificates, PeerTls>,
) -> Result<(), ConfigError> {
    let FromFiles { files, first } = certificates;
    first.check_own(node_id).map_err(|error| match error {
        TlsError::NodeId(_) => {
            let expected =
                "a name that its certificate (peer_cert) can have, of letters, digits, '-' and '.'";
            ConfigError::new("node_id", node_id.as_str(), expected)
        }
        error => wrong("peer_cert", &files.certificate, &error),
    })
}

fn wrong(name: &'static str, file: &Path, error: &impl Display) -> ConfigError {
    let expected = format!("{}, but {error}", Setting::of(name).expected);
    ConfigError::new(name, &file.display().to_string(), &expected)
}
