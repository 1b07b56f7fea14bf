//! Authorities that an operator trusts besides the public ones.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::TrustAnchor;

use super::pem::{PemError, PemFile};

/// Reads the certificates of a file as authorities.
///
/// # Errors
/// What is wrong with the file.
pub fn read_authorities(file: &Path) -> Result<Vec<TrustAnchor<'static>>, PemError> {
    let pem = PemFile::read(file)?;
    let mut trusted = RootCertStore::empty();
    for certificate in pem.certificates()? {
        trusted.add(certificate).map_err(|error| pem.unfit(error.to_string()))?;
    }
    Ok(trusted.roots)
}
