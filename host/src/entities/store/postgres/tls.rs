//! TLS to the database. The server's certificate is always checked.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::backend::StoreError;
use super::url::PostgresUrl;
use crate::setting_file;

/// # Errors
/// If the file of certificates cannot be used.
pub(super) fn tls(url: &PostgresUrl) -> Result<MakeRustlsConnect, StoreError> {
    let mut roots = RootCertStore::empty();
    match &url.authorities {
        Some(path) => {
            let problem = |error: String| StoreError(format!("{}: {error}", path.display()));
            let text = setting_file::text_of(path).map_err(|error| problem(error.to_string()))?;
            for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
                let certificate = certificate.map_err(|error| problem(error.to_string()))?;
                roots
                    .add(certificate)
                    .map_err(|error| problem(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(problem("there is no certificate in it".into()));
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = rustls::crypto::ring::default_provider();
    let config = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .map_err(|error| StoreError(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}
