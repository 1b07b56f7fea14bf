//! Snapshots of PEM files with certificates and keys, and their errors. Each error names its file,
//! so that the caller can name the setting.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};

use super::private_file::{self, PrivateFileError};
use crate::message::NodeId;
use crate::setting_file;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    Certificate(PemError),
    #[error(transparent)]
    Key(PemError),
    #[error(transparent)]
    Authority(PemError),
    #[error("the certificate is not that of node {node_id}: {cause}")]
    OfAnother { node_id: NodeId, cause: io::Error },
    #[error(
        "the node id {0} cannot be the name in a certificate: use letters, digits, '-' and '.'"
    )]
    NodeId(NodeId),
    #[error("TLS cannot be set up: {0}")]
    Unusable(String),
}

/// What is wrong with one file.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    #[error("{} cannot be read: {}", .0.display(), .1)]
    Read(PathBuf, io::Error),
    #[error(transparent)]
    Private(#[from] PrivateFileError),
    #[error("{} has no {expected} in PEM form: {cause}", .file.display())]
    NoPem {
        file: PathBuf,
        expected: &'static str,
        cause: String,
    },
    #[error("{} cannot be used: {because}", .file.display())]
    Unfit { file: PathBuf, because: String },
}

/// The crypto provider of all TLS, between nodes and with clients.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Snapshot of a PEM file.
#[derive(PartialEq, Eq)]
pub(super) struct PemFile {
    file: PathBuf,
    bytes: Vec<u8>,
}

/// Reads a certificate, with the intermediates up to its authority, and its key. Also returns the
/// snapshots of both files.
///
/// # Errors
/// Which file is wrong, and how; the key's if it does not match the certificate.
pub(super) fn certified_key(
    certificate: &Path,
    key: &Path,
) -> Result<(CertifiedKey, [PemFile; 2]), TlsError> {
    let certificate = PemFile::read(certificate).map_err(TlsError::Certificate)?;
    let chain = certificate.certificates().map_err(TlsError::Certificate)?;
    let key = PemFile::read_key(key).map_err(TlsError::Key)?;
    let private_key = key.key().map_err(TlsError::Key)?;
    let unfit =
        |error: Error| match error {
            Error::InvalidCertificate(cause) => {
                TlsError::Certificate(certificate.unfit(cause.to_string()))
            }
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::Key(key.unfit(format!(
                    "it is not the key of the certificate in {}",
                    certificate.file.display()
                )))
            }
            _ => TlsError::Key(key.unfit(
                "it is none of RSA (from 2048 bits), ECDSA (P-256, P-384) and Ed25519".into(),
            )),
        };
    let certified_key = CertifiedKey::from_der(chain, private_key, &provider()).map_err(unfit)?;
    Ok((certified_key, [certificate, key]))
}

/// Reads the certificates of a file as authorities that an operator trusts in addition to the
/// public ones.
///
/// # Errors
/// What is wrong with the file.
pub fn read_authorities(file: &Path) -> Result<Vec<TrustAnchor<'static>>, PemError> {
    Ok(PemFile::read(file)?.authorities()?.roots)
}

impl PemFile {
    pub(super) fn read(file: &Path) -> Result<Self, PemError> {
        match setting_file::bytes_of(file) {
            Ok(bytes) => Ok(Self {
                file: file.to_owned(),
                bytes,
            }),
            Err(cause) => Err(PemError::Read(file.to_owned(), cause)),
        }
    }

    fn read_key(file: &Path) -> Result<Self, PemError> {
        Ok(Self {
            file: file.to_owned(),
            bytes: private_file::read(file)?,
        })
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, PemError> {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        match read {
            Ok(certificates) if certificates.is_empty() => {
                Err(self.has_no("certificate", "there is none"))
            }
            Ok(certificates) => Ok(certificates),
            Err(cause) => Err(self.has_no("certificate", &cause.to_string())),
        }
    }

    /// The certificates as trusted authorities.
    pub(super) fn authorities(&self) -> Result<RootCertStore, PemError> {
        let mut trusted = RootCertStore::empty();
        for certificate in self.certificates()? {
            trusted
                .add(certificate)
                .map_err(|error| self.unfit(error.to_string()))?;
        }
        Ok(trusted)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, PemError> {
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|cause| match cause {
            pem::Error::NoItemsFound => {
                self.has_no("private key", "there is none, or it needs a passphrase")
            }
            cause => self.has_no("private key", &cause.to_string()),
        })
    }

    fn has_no(&self, expected: &'static str, cause: &str) -> PemError {
        PemError::NoPem {
            file: self.file.clone(),
            expected,
            cause: cause.to_owned(),
        }
    }

    pub(super) fn unfit(&self, because: String) -> PemError {
        PemError::Unfit {
            file: self.file.clone(),
            because,
        }
    }
}
