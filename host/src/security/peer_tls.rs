//! Mutual TLS between nodes: how a node proves its id to peers, and verifies theirs.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::pem::{PemFile, TlsError, certified_key, provider};
use super::secret::{Keyring, Secret};
use crate::message::NodeId;

/// Prefix of an Ed25519 key in PKCS #8, version 1 (RFC 8410, section 7); the 32 bytes of its seed
/// follow.
const ED25519_PKCS8_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Most peers whose TLS sessions are cached, so that a reconnect is faster.
const SESSIONS_MAX: usize = 2_048;

/// Certificates, keys and trust of one node. Both sides must have a certificate, and speak TLS 1.3.
#[derive(Clone)]
pub struct PeerTls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    names: CertificateNaming,
    certificate: CertificateDer<'static>,
    /// Snapshots of the operator's files; `None` if made from a secret.
    files: Option<Arc<[PemFile; 3]>>,
}

/// Equal if made from equal files. One made from a secret equals no other, as its certificate is
/// new each time.
impl PartialEq for PeerTls {
    fn eq(&self, other: &Self) -> bool {
        self.files.is_some() && self.files == other.files
    }
}

/// Does not print keys.
impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerTls")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// How a certificate names the id of its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CertificateNaming {
    /// As a hash, since an id may have characters that a DNS name may not.
    Hashed,
    /// As it is, in the operator's own certificates.
    Plain,
}

/// The files of an operator's own certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificates {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub authority: PathBuf,
}

impl PeerTls {
    /// Makes a new certificate for this node, signed by an authority whose key every node with the
    /// first secret can derive. Trusts the authorities of all the secrets.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn of_secret(
        keyring: &Keyring,
        cluster_id: &str,
        node_id: &NodeId,
    ) -> Result<Self, TlsError> {
        let cannot_make = |error: rcgen::Error| TlsError::Unusable(error.to_string());
        let authorities: Vec<_> = keyring
            .secrets()
            .iter()
            .map(|secret| authority(secret, cluster_id))
            .collect::<Result<_, _>>()
            .map_err(cannot_make)?;
        let mut trusted = RootCertStore::empty();
        for authority in &authorities {
            let certificate = authority
                .params
                .self_signed(&authority.key)
                .map_err(cannot_make)?;
            trusted.add(certificate.der().clone()).map_err(unusable)?;
        }
        let [Authority { params, key }, ..] = authorities.as_slice() else {
            return Err(TlsError::Unusable("there is no secret".into()));
        };
        let own_key = KeyPair::generate().map_err(cannot_make)?;
        let mut own = CertificateParams::new([hashed(node_id)]).map_err(cannot_make)?;
        own.distinguished_name
            .push(DnType::CommonName, node_id.as_str());
        own.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let own = own
            .signed_by(&own_key, &Issuer::from_params(params, key))
            .map_err(cannot_make)?;
        let own_key = PrivateKeyDer::Pkcs8(own_key.serialize_der().into());
        let own = CertifiedKey::from_der(vec![own.der().clone()], own_key, &provider())
            .map_err(unusable)?;
        Self::new(own, Trust::new(trusted)?, CertificateNaming::Hashed)
    }

    /// Uses the operator's own certificates.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn of_files(files: &PeerCertificates) -> Result<Self, TlsError> {
        let (own, [certificate, key]) = certified_key(&files.certificate, &files.key)?;
        let authority = PemFile::read(&files.authority).map_err(TlsError::Authority)?;
        let trust = Trust::new(authority.authorities().map_err(TlsError::Authority)?)?;
        if let Err(error) = trust.check(&own) {
            return Err(TlsError::Certificate(certificate.unfit(refusal(&error))));
        }
        let tls = Self::new(own, trust, CertificateNaming::Plain)?;
        Ok(Self {
            files: Some(Arc::new([certificate, key, authority])),
            ..tls
        })
    }

    fn new(own: CertifiedKey, trust: Trust, names: CertificateNaming) -> Result<Self, TlsError> {
        let certificate = own
            .end_entity_cert()
            .map_err(unusable)?
            .clone()
            .into_owned();
        let own = Arc::new(SingleCertAndKey::from(own));
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_root_certificates(trust.authorities)
            .with_client_cert_resolver(own.clone());
        client.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        let server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(trust.callers)
            .with_cert_resolver(own);
        let (connector, acceptor) = (Arc::new(client).into(), Arc::new(server).into());
        Ok(Self {
            connector,
            acceptor,
            names,
            certificate,
            files: None,
        })
    }

    /// Checks that the certificate is that of this node, as its peers will.
    ///
    /// # Errors
    /// If it is another node's, or the id cannot be the name in a certificate.
    pub fn check_own(&self, node_id: &NodeId) -> Result<(), TlsError> {
        if self.name(node_id).is_err() {
            return Err(TlsError::NodeId(node_id.clone()));
        }
        let of_another = |cause| TlsError::OfAnother {
            node_id: node_id.clone(),
            cause,
        };
        self.check(&self.certificate, node_id).map_err(of_another)
    }

    /// Does the TLS handshake as a client; succeeds only if the peer is the node `node_id`.
    ///
    /// # Errors
    /// If the handshake fails: the peer is another node, or not of this mesh.
    pub async fn connect(
        &self,
        socket: TcpStream,
        node_id: &NodeId,
    ) -> io::Result<client::TlsStream<TcpStream>> {
        self.connector.connect(self.name(node_id)?, socket).await
    }

    /// Does the TLS handshake as a server; succeeds only if the peer is a node of this mesh. Which
    /// one it is must be checked with `check`.
    ///
    /// # Errors
    /// If the handshake fails.
    pub async fn accept(&self, socket: TcpStream) -> io::Result<server::TlsStream<TcpStream>> {
        self.acceptor.accept(socket).await
    }

    /// Checks that the certificate of an accepted connection is that of the node `node_id`.
    ///
    /// # Errors
    /// If it is another node's.
    pub fn check(&self, certificate: &CertificateDer<'_>, node_id: &NodeId) -> io::Result<()> {
        let parsed = ParsedCertificate::try_from(certificate).map_err(io::Error::other)?;
        verify_server_name(&parsed, &self.name(node_id)?).map_err(io::Error::other)
    }

    fn name(&self, node_id: &NodeId) -> io::Result<ServerName<'static>> {
        let name = match self.names {
            CertificateNaming::Hashed => hashed(node_id),
            CertificateNaming::Plain => node_id.to_string(),
        };
        ServerName::try_from(name).map_err(io::Error::other)
    }
}

fn unusable(error: impl fmt::Display) -> TlsError {
    TlsError::Unusable(error.to_string())
}

/// The authorities that a node trusts, and the verifier of client certificates built from them.
struct Trust {
    authorities: Arc<RootCertStore>,
    callers: Arc<dyn ClientCertVerifier>,
}

impl Trust {
    fn new(authorities: RootCertStore) -> Result<Self, TlsError> {
        let authorities = Arc::new(authorities);
        let callers =
            WebPkiClientVerifier::builder_with_provider(authorities.clone(), provider()).build();
        Ok(Self {
            authorities,
            callers: callers.map_err(unusable)?,
        })
    }

    /// Checks that peers with the same authorities accept this certificate both from a client and
    /// from a server.
    fn check(&self, own: &CertifiedKey) -> Result<(), Error> {
        let certificate = own.end_entity_cert()?;
        let (intermediates, now) = (&own.cert[1..], UnixTime::now());
        let algorithms = provider().signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(certificate)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.authorities,
            intermediates,
            now,
            algorithms,
        )?;
        self.callers
            .verify_client_cert(certificate, intermediates, now)
            .map(|_| ())
    }
}

/// Why peers would refuse a certificate. The text must not contain the time: files are read again
/// and again, and an error is logged only if its text has changed.
fn refusal(error: &Error) -> String {
    let Error::InvalidCertificate(cause) = error else {
        return error.to_string();
    };
    match cause {
        // The errors for a certificate of an untrusted authority. The latter two occur if that has
        // the name of a trusted one, and perhaps another kind of key.
        CertificateError::UnknownIssuer
        | CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "no authority in peer_ca has signed it, or a certificate between the two is missing in its file".into()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet, by this host's clock".into()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "a node calls and is called, so it must be for clients and for servers (extended key usage)".into()
        }
        other => other.to_string(),
    }
}

/// A certificate authority, the key of which every node with the secret can derive.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

fn authority(secret: &Secret, cluster_id: &str) -> Result<Authority, rcgen::Error> {
    let seed: [u8; 32] = secret.derive("peer certificate authority", cluster_id);
    let key = [&ED25519_PKCS8_HEAD[..], &seed].concat();
    let key = KeyPair::from_pkcs8_der_and_sign_algo(
        &PrivatePkcs8KeyDer::from(key),
        &rcgen::PKCS_ED25519,
    )?;
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "meshage");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(Authority { params, key })
}

/// The DNS name in the certificate of a node, whose id may have characters that a DNS name may not.
fn hashed(node_id: &NodeId) -> String {
    let hash = Sha256::digest(node_id.as_str());
    let hex: String = hash[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{hex}.meshage")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use tokio::net::TcpListener;

    use super::super::secret::keyring;
    use super::*;

    fn id(text: &str) -> NodeId {
        NodeId::try_from(text).unwrap()
    }

    fn tls(secrets: &[u8], node_id: &str) -> PeerTls {
        PeerTls::of_secret(&keyring(secrets), "mesh", &id(node_id)).unwrap()
    }

    /// The outcomes at the caller, which expects `n2`, and at the callee, which expects `n1`.
    async fn meet(caller: PeerTls, callee: PeerTls) -> (io::Result<()>, io::Result<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let calling = async {
            let mut socket = caller
                .connect(TcpStream::connect(addr).await?, &id("n2"))
                .await?;
            // In TLS 1.3 the callee rejects the caller's certificate only after the caller's
            // handshake is done.
            tokio::io::AsyncReadExt::read_u8(&mut socket)
                .await
                .map(|_| ())
        };
        let answering = async {
            let (socket, _) = listener.accept().await?;
            let mut socket = callee.accept(socket).await?;
            let certificate = socket.get_ref().1.peer_certificates().unwrap()[0].clone();
            callee.check(&certificate, &id("n1"))?;
            tokio::io::AsyncWriteExt::write_u8(&mut socket, 1).await?;
            tokio::io::AsyncWriteExt::shutdown(&mut socket).await
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
        assert!(
            calling.unwrap_err().to_string().contains("not valid for"),
            "another callee"
        );
        let (_, answering) = meet(tls(&[1], "n3"), tls(&[1], "n2")).await;
        assert!(
            answering.unwrap_err().to_string().contains("not valid for"),
            "another caller"
        );
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

    /// TLS with an operator's certificate for n1, to which `change` is applied before it is signed.
    fn of_files(change: impl FnOnce(&mut CertificateParams)) -> Result<PeerTls, TlsError> {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, kind: &str, der: &[u8]| {
            let file = directory.path().join(name);
            let pem = format!(
                "-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n",
                STANDARD.encode(der)
            );
            fs::write(&file, pem).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
            file
        };
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&authority_key).unwrap();
        let mut own = CertificateParams::new(["n1".to_owned()]).unwrap();
        change(&mut own);
        let own_key = KeyPair::generate().unwrap();
        let own = own
            .signed_by(&own_key, &Issuer::from_params(&params, &authority_key))
            .unwrap();
        PeerTls::of_files(&PeerCertificates {
            certificate: put("own.pem", "CERTIFICATE", own.der()),
            key: put("own.key", "PRIVATE KEY", &own_key.serialize_der()),
            authority: put("ca.pem", "CERTIFICATE", authority.der()),
        })
    }

    #[test]
    fn an_operators_certificate_is_good_if_peers_take_it_at_both_ends() {
        let good = of_files(|_| {}).unwrap();
        good.check_own(&id("n1")).unwrap();
        assert!(matches!(
            good.check_own(&id("n2")),
            Err(TlsError::OfAnother { .. })
        ));
        assert!(matches!(good.check_own(&id("-")), Err(TlsError::NodeId(_))));
        let told = |change: fn(&mut CertificateParams)| match of_files(change) {
            Err(TlsError::Certificate(error)) => error.to_string(),
            other => panic!("{other:?}"),
        };
        for usage in [
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ] {
            let error = of_files(|own| own.extended_key_usages = vec![usage])
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("own.pem") && error.contains("for clients and for servers"),
                "{error}"
            );
        }
        assert!(
            told(|own| own.not_after = rcgen::date_time_ymd(2020, 1, 1))
                .ends_with("it has expired")
        );
        assert!(
            told(|own| own.not_before = rcgen::date_time_ymd(4000, 1, 1))
                .contains("it is not valid yet")
        );
    }
}
