//! Mutual TLS between nodes: who a node is on its connections to peers, and how it knows theirs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::client::{Resumption, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::private_file::{self, PrivateFileError};
use super::secret::{Keyring, Secret};
use crate::message::NodeId;

/// What an Ed25519 key begins with in PKCS #8, version 1 (RFC 8410, section 7); the 32 bytes of its seed follow.
const ED25519_PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Peers whose sessions are remembered, so that the next connection is made sooner.
const SESSIONS_MAX: usize = 2_048;

/// Certificates, keys and trust of one node. Both sides must have a certificate, and speak TLS 1.3.
pub struct PeerTls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    names: Names,
    /// The operator's files, as they were when they were read.
    files: Option<[PemFile; 3]>,
}

/// What is made of the same files is the same; what is made of a secret differs each time.
impl PartialEq for PeerTls {
    fn eq(&self, other: &Self) -> bool {
        self.files.is_some() && self.files == other.files
    }
}

/// Under which name a node's certificate has its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// A hash, as an id may have letters that a name may not.
    Hashed,
    /// The operator's own certificates have the id as it is.
    Plain,
}

/// The files of an operator's own certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificates {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub authority: PathBuf,
}

/// Why there can be no TLS between nodes.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{} cannot be read: {}", .0.display(), .1)]
    Read(PathBuf, io::Error),
    #[error(transparent)]
    Key(#[from] PrivateFileError),
    #[error("{} has no {expected} in PEM form: {cause}", .file.display())]
    Pem { file: PathBuf, expected: &'static str, cause: String },
    #[error("these certificates cannot be used: {0}")]
    Unusable(String),
    #[error("the node id {0} cannot be the name in a certificate: use letters, digits, '-' and '.'")]
    NodeId(NodeId),
}

impl PeerTls {
    /// A new certificate for this node, under an authority that all who have the secret can be. It is trusted
    /// under any of the secrets.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn of_secret(keyring: &Keyring, cluster_id: &str, node_id: &NodeId) -> Result<Self, TlsError> {
        let unusable = |error: rcgen::Error| TlsError::Unusable(error.to_string());
        let authorities: Vec<_> = keyring
            .secrets()
            .iter()
            .map(|secret| authority(secret, cluster_id))
            .collect::<Result<_, _>>()
            .map_err(unusable)?;
        let mut trusted = RootCertStore::empty();
        for authority in &authorities {
            let certificate = authority.params.self_signed(&authority.key).map_err(unusable)?;
            trusted.add(certificate.der().clone()).map_err(|error| TlsError::Unusable(error.to_string()))?;
        }
        let [Authority { params, key }, ..] = authorities.as_slice() else {
            return Err(TlsError::Unusable("there is no secret".into()));
        };
        let own_key = KeyPair::generate().map_err(unusable)?;
        let mut own = CertificateParams::new([hashed(node_id)]).map_err(unusable)?;
        own.distinguished_name.push(DnType::CommonName, node_id.as_str());
        own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let own = own.signed_by(&own_key, &Issuer::from_params(params, key)).map_err(unusable)?;
        let own_key = PrivateKeyDer::Pkcs8(own_key.serialize_der().into());
        Self::new(vec![own.der().clone()], own_key, trusted, Names::Hashed)
    }

    /// The operator's own certificates.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn of_files(files: &PeerCertificates, node_id: &NodeId) -> Result<Self, TlsError> {
        ServerName::try_from(node_id.as_str()).map_err(|_| TlsError::NodeId(node_id.clone()))?;
        let (certificate, key) = (PemFile::read(&files.certificate)?, PemFile::read_key(&files.key)?);
        let authority = PemFile::read(&files.authority)?;
        let mut trusted = RootCertStore::empty();
        for certificate in authority.certificates()? {
            trusted.add(certificate).map_err(|error| TlsError::Unusable(error.to_string()))?;
        }
        let tls = Self::new(certificate.certificates()?, key.key()?, trusted, Names::Plain)?;
        Ok(Self { files: Some([certificate, key, authority]), ..tls })
    }

    fn new(
        certificates: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        trusted: RootCertStore,
        names: Names,
    ) -> Result<Self, TlsError> {
        let unusable = |error: rustls::Error| TlsError::Unusable(error.to_string());
        let trusted = Arc::new(trusted);
        let provider = provider();
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_root_certificates(trusted.clone())
            .with_client_auth_cert(certificates.clone(), key.clone_key())
            .map_err(unusable)?;
        client.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        let verifier = WebPkiClientVerifier::builder_with_provider(trusted, provider.clone())
            .build()
            .map_err(|error| TlsError::Unusable(error.to_string()))?;
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates, key)
            .map_err(unusable)?;
        Ok(Self { connector: Arc::new(client).into(), acceptor: Arc::new(server).into(), names, files: None })
    }

    /// Makes a connection secure, if the other end is that node.
    ///
    /// # Errors
    /// If the handshake fails: the other end is another node, or none of this mesh.
    pub async fn connect(&self, stream: TcpStream, node_id: &NodeId) -> io::Result<client::TlsStream<TcpStream>> {
        self.connector.connect(self.name(node_id)?, stream).await
    }

    /// Makes a connection secure, if the other end is a node of this mesh.
    ///
    /// # Errors
    /// If the handshake fails.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<server::TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }

    /// Makes sure that the other end of an accepted connection is that node.
    ///
    /// # Errors
    /// If its certificate is another's.
    pub fn check(&self, certificate: &CertificateDer<'_>, node_id: &NodeId) -> io::Result<()> {
        let parsed = ParsedCertificate::try_from(certificate).map_err(io::Error::other)?;
        verify_server_name(&parsed, &self.name(node_id)?).map_err(io::Error::other)
    }

    fn name(&self, node_id: &NodeId) -> io::Result<ServerName<'static>> {
        let name = match self.names {
            Names::Hashed => hashed(node_id),
            Names::Plain => node_id.to_string(),
        };
        ServerName::try_from(name).map_err(io::Error::other)
    }
}

/// The one provider of cryptography in this process.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A certificate authority: whoever has the secret can make its key.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

fn authority(secret: &Secret, cluster_id: &str) -> Result<Authority, rcgen::Error> {
    let seed: [u8; 32] = secret.derive("peer certificate authority", cluster_id);
    let key = [&ED25519_PKCS8_HEAD[..], &seed].concat();
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(key), &rcgen::PKCS_ED25519)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "meshage");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(Authority { params, key })
}

/// The name in the certificate of a node: a node id may have letters that a DNS name may not.
fn hashed(node_id: &NodeId) -> String {
    let hash = Sha256::digest(node_id.as_str());
    let hex: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}.meshage")
}

/// A PEM file, as it is at one moment.
#[derive(PartialEq, Eq)]
pub(super) struct PemFile {
    file: PathBuf,
    bytes: Vec<u8>,
}

impl PemFile {
    pub(super) fn read(file: &Path) -> Result<Self, TlsError> {
        match fs::read(file) {
            Ok(bytes) => Ok(Self { file: file.to_owned(), bytes }),
            Err(cause) => Err(TlsError::Read(file.to_owned(), cause)),
        }
    }

    pub(super) fn read_key(file: &Path) -> Result<Self, TlsError> {
        Ok(Self { file: file.to_owned(), bytes: private_file::read(file)? })
    }

    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        match read {
            Ok(certificates) if certificates.is_empty() => Err(self.has_no("certificate", "there is none")),
            Ok(certificates) => Ok(certificates),
            Err(cause) => Err(self.has_no("certificate", &cause.to_string())),
        }
    }

    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|cause| self.has_no("private key", &cause.to_string()))
    }

    fn has_no(&self, expected: &'static str, cause: &str) -> TlsError {
        TlsError::Pem { file: self.file.clone(), expected, cause: cause.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::secret::keyring;
    use super::*;

    fn id(text: &str) -> NodeId {
        NodeId::try_from(text).unwrap()
    }

    fn tls(secrets: &[u8], node_id: &str) -> PeerTls {
        PeerTls::of_secret(&keyring(secrets), "mesh", &id(node_id)).unwrap()
    }

    /// The outcome at the caller, which expects `n2`, and at the callee, which is told `n1`.
    async fn meet(caller: PeerTls, callee: PeerTls) -> (io::Result<()>, io::Result<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let calling = async {
            let mut stream = caller.connect(TcpStream::connect(addr).await?, &id("n2")).await?;
            // What the callee thinks of the caller's certificate comes after the handshake.
            tokio::io::AsyncReadExt::read_u8(&mut stream).await.map(|_| ())
        };
        let answering = async {
            let (stream, _) = listener.accept().await?;
            let mut stream = callee.accept(stream).await?;
            let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
            callee.check(&certificate, &id("n1"))?;
            tokio::io::AsyncWriteExt::write_u8(&mut stream, 1).await?;
            tokio::io::AsyncWriteExt::shutdown(&mut stream).await
        };
        tokio::join!(calling, answering)
    }

    #[tokio::test]
    async fn nodes_that_share_a_secret_know_each_other() {
        for (caller, callee) in [(&[1][..], &[1][..]), (&[1, 2], &[1]), (&[1, 2], &[2, 1])] {
            let (calling, answering) = meet(tls(caller, "n1"), tls(callee, "n2")).await;
            calling.unwrap();
            answering.unwrap();
        }
        let odd = meet(tls(&[1], "n1"), tls(&[1], "n2")).await;
        odd.0.unwrap();
    }

    #[tokio::test]
    async fn nobody_else_gets_in() {
        let (calling, answering) = meet(tls(&[1], "n1"), tls(&[2], "n2")).await;
        assert!(calling.is_err() && answering.is_err(), "another secret");
        let (calling, _) = meet(tls(&[1], "n1"), tls(&[1], "n3")).await;
        assert!(calling.unwrap_err().to_string().contains("not valid for"), "another callee");
        let (_, answering) = meet(tls(&[1], "n3"), tls(&[1], "n2")).await;
        assert!(answering.unwrap_err().to_string().contains("not valid for"), "another caller");
        let other = PeerTls::of_secret(&keyring(&[1]), "other", &id("n2")).unwrap();
        let (calling, answering) = meet(tls(&[1], "n1"), other).await;
        assert!(calling.is_err() && answering.is_err(), "another mesh");
    }

    #[test]
    fn any_node_id_has_a_certificate() {
        for node_id in ["a", "A_b.-", "host-9742", &"x".repeat(64)] {
            tls(&[1], node_id);
        }
    }
}
