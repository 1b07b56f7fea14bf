//! The files that settings name. They are read and understood where settings are checked, so that a
//! wrong one ends the start at once, with its setting; the node follows them from what was found
//! then.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use rustls::pki_types::TrustAnchor;

use super::settings::{self, ConfigError, Settings};
use crate::message::NodeId;
use crate::security::{
    Keyring, PeerCertificates, PeerTls, ServerCertificate, ServerTls, TlsError, Tokens,
    TrustedKeys, read_authorities,
};

/// What files had when the settings were checked, and where it is read again.
#[derive(Debug, Clone)]
pub struct FromFiles<F, T> {
    pub files: F,
    pub first: T,
}

pub(super) fn secret(
    settings: &mut Settings<'_>,
) -> Result<Option<FromFiles<PathBuf, Keyring>>, ConfigError> {
    read(settings, "secret_file", "a file of secrets", Keyring::read)
}

pub(super) fn tokens(
    settings: &mut Settings<'_>,
) -> Result<Option<FromFiles<PathBuf, Tokens>>, ConfigError> {
    read(settings, "token_file", "a file of tokens", Tokens::read)
}

pub(super) fn trusted_keys(
    settings: &mut Settings<'_>,
) -> Result<Option<TrustedKeys>, ConfigError> {
    Ok(read(
        settings,
        "trusted_keys",
        "a file of keys",
        TrustedKeys::read,
    )?
    .map(|keys| keys.first))
}

pub(super) fn outbound_authorities(
    settings: &mut Settings<'_>,
) -> Result<Vec<TrustAnchor<'static>>, ConfigError> {
    let read = read(
        settings,
        "outbound_ca",
        "a file of certificates in PEM form",
        read_authorities,
    )?;
    Ok(read
        .map(|authorities| authorities.first)
        .unwrap_or_default())
}

fn read<T, E: Display>(
    settings: &mut Settings<'_>,
    name: &'static str,
    expected: &str,
    read: impl Fn(&Path) -> Result<T, E>,
) -> Result<Option<FromFiles<PathBuf, T>>, ConfigError> {
    let Some(files) = settings.take(name).map(PathBuf::from) else {
        return Ok(None);
    };
    match read(&files) {
        Ok(first) => Ok(Some(FromFiles { files, first })),
        Err(error) => Err(wrong(name, &files, expected, &error)),
    }
}

/// Both files or none.
pub(super) fn certificate(
    settings: &mut Settings<'_>,
) -> Result<Option<FromFiles<ServerCertificate, ServerTls>>, ConfigError> {
    let files = match ["tls_cert", "tls_key"].map(|name| settings.take(name).map(PathBuf::from)) {
        [None, None] => return Ok(None),
        [Some(certificate), Some(key)] => ServerCertificate { certificate, key },
        [Some(one), None] => {
            return Err(settings.error("tls_cert", &one.display().to_string(), "tls_key as well"));
        }
        [None, Some(one)] => {
            return Err(settings.error("tls_key", &one.display().to_string(), "tls_cert as well"));
        }
    };
    match ServerTls::read(&files) {
        Ok(first) => Ok(Some(FromFiles { files, first })),
        Err(error @ TlsError::Key(_)) => Err(wrong(
            "tls_key",
            &files.key,
            "the private key of tls_cert",
            &error,
        )),
        Err(error) => Err(wrong(
            "tls_cert",
            &files.certificate,
            "a certificate in PEM form",
            &error,
        )),
    }
}

/// All three files or none, and only with a secret: gossip is sealed with that.
pub(super) fn peer_certificates(
    settings: &mut Settings<'_>,
    has_secret: bool,
) -> Result<Option<FromFiles<PeerCertificates, PeerTls>>, ConfigError> {
    let names = ["peer_cert", "peer_key", "peer_ca"];
    let files = names.map(|name| settings.take(name).map(PathBuf::from));
    let first_set = names
        .into_iter()
        .zip(&files)
        .find_map(|(name, file)| Some((name, file.clone()?)));
    let files = match files {
        [None, None, None] => return Ok(None),
        [Some(certificate), Some(key), Some(authority)] if has_secret => PeerCertificates {
            certificate,
            key,
            authority,
        },
        _ => {
            let (name, value) = first_set.unwrap_or_default();
            let expected = "peer_cert, peer_key and peer_ca together, and secret_file, as gossip is sealed with the secret";
            return Err(settings.error(name, &value.display().to_string(), expected));
        }
    };
    match PeerTls::of_files(&files) {
        Ok(first) => Ok(Some(FromFiles { files, first })),
        Err(error @ TlsError::Key(_)) => Err(wrong(
            "peer_key",
            &files.key,
            "the private key of peer_cert",
            &error,
        )),
        Err(error @ TlsError::Authority(_)) => Err(wrong(
            "peer_ca",
            &files.authority,
            "certificates of authorities in PEM form",
            &error,
        )),
        Err(error) => Err(wrong(
            "peer_cert",
            &files.certificate,
            "this node's certificate in PEM form",
            &error,
        )),
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
            settings::error("node_id", node_id.as_str(), expected)
        }
        error => wrong(
            "peer_cert",
            &files.certificate,
            "this node's certificate",
            &error,
        ),
    })
}

fn wrong(name: &'static str, file: &Path, expected: &str, error: &impl Display) -> ConfigError {
    let expected = format!("{expected}, but {error}");
    settings::error(name, &file.display().to_string(), &expected)
}
