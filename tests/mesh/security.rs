//! A stranger without the secret of a mesh is not let in, does no harm, and learns nothing; and the
//! secret can be rotated while the mesh runs.

use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use futures_util::future::{join_all, try_join_all};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedKey, IsCa, Issuer, KeyPair,
    generate_simple_self_signed,
};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::harness::frames::Hello;
use crate::harness::{
    HANG, Node, Plugins, Secret, Setup, Traffic, need_open_files, new_secret, refs, until,
    wait_for_mesh,
};

/// Datagrams of a stranger that a node must drop.
const JUNK: u64 = 100_000;

async fn mesh_with(secrets: &[&Secret]) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for (number, secret) in (1..).zip(secrets) {
        let setup = Setup::new(Plugins::usual())
            .id(&format!("n{number}"))
            .seeds(&refs(&nodes));
        nodes.push(setup.secret(secret).start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    nodes
}

async fn rejected(node: &Node, because: &str) -> u64 {
    node.metric(&format!(
        r#"meshage_gossip_rejected_total{{because="{because}"}}"#
    ))
    .await
}

#[tokio::test]
async fn strangers_never_appear_in_a_view() {
    let secret = Secret::of(&[new_secret()]);
    let nodes = mesh_with(&[&secret, &secret]).await;
    let other_secret = Secret::of(&[new_secret()]);
    let strangers = [
        (
            Setup::new(Plugins::usual()).id("s1").secret(&other_secret),
            "unknown-key",
        ),
        (Setup::new(Plugins::usual()).id("s2"), "not-sealed"),
        (
            Setup::new(Plugins::usual())
                .id("s3")
                .secret(&secret)
                .flag("--cluster-id", "another"),
            "unknown-key",
        ),
    ];
    for (stranger, because) in strangers {
        let before = rejected(&nodes[0], because).await;
        let stranger = stranger.seeds(&[&nodes[0], &nodes[1]]).start().await;
        // The stranger has tried several times.
        until(|| async { rejected(&nodes[0], because).await >= before + 5 }).await;
        stranger.wait_until_ready().await;
        assert_eq!(stranger.view().await.len(), 1, "{because}");
        for node in &nodes {
            assert_eq!(node.view().await.len(), 2, "{because}");
        }
    }
    for because in ["unknown-key", "not-sealed"] {
        let told = nodes[0]
            .log_line(&format!(r#""because":"{because}""#))
            .await;
        assert!(
            told.contains(r#""event":"gossip-rejected""#) && told.contains(&nodes[0].cluster),
            "{told}"
        );
    }
}

#[tokio::test]
async fn junk_and_recorded_datagrams_change_nothing() {
    let secret = Secret::of(&[new_secret()]);
    // A socket that is a seed of the node, so that the node sends it real gossip to record.
    let ear = UdpSocket::bind("127.0.0.1:0").unwrap();
    ear.set_nonblocking(true).unwrap();
    // An id so long that it does not occur in a sealed datagram by chance.
    let first = Setup::new(Plugins::usual())
        .id("first-node")
        .secret(&secret);
    let first = first
        .flag("--seeds", &ear.local_addr().unwrap().to_string())
        .start()
        .await;
    let second = Setup::new(Plugins::usual())
        .id("n2")
        .secret(&secret)
        .seeds(&[&first])
        .start()
        .await;
    wait_for_mesh(&[&first, &second]).await;

    let mut recorded = Vec::new();
    let mut buffer = vec![0; 65_536];
    until(|| {
        while let Ok(bytes) = ear.recv(&mut buffer) {
            recorded.push(buffer[..bytes].to_vec());
        }
        let is_enough = recorded.len() >= 3;
        async move { is_enough }
    })
    .await;
    assert!(
        !recorded
            .iter()
            .any(|datagram| String::from_utf8_lossy(datagram).contains("first-node")),
        "it is not sealed"
    );

    let traffic = Traffic::start("echo", &[&first, &second]);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sent = 0;
    let causes = ["not-sealed", "unknown-key", "forged", "replayed"];
    loop {
        for _ in 0..500 {
            let mut datagram = recorded[sent % recorded.len()].clone();
            match sent % 4 {
                // Replayed unchanged.
                0 => {}
                // With a flipped bit, truncated, or all random.
                1 => {
                    let index = fastrand::usize(..datagram.len());
                    datagram[index] ^= 1 << fastrand::u8(..8);
                }
                2 => datagram.truncate(fastrand::usize(..datagram.len())),
                _ => datagram.fill_with(|| fastrand::u8(..)),
            }
            // If a send fails, the loop sends more later.
            let _ = stranger.send_to(&datagram, &second.cluster);
            sent += 1;
        }
        let mut dropped = 0;
        for because in causes {
            dropped += rejected(&second, because).await;
        }
        if dropped >= JUNK {
            break;
        }
    }
    for because in causes {
        assert!(rejected(&second, because).await > 0, "{because}");
    }
    let sent = traffic.none_failed().await;
    println!("{JUNK} datagrams dropped beside {sent} messages");
    for node in [&first, &second] {
        assert_eq!(node.view().await.len(), 2);
    }
    // After this flood the node still lets another one join.
    let third = Setup::new(Plugins::usual())
        .id("n3")
        .secret(&secret)
        .seeds(&[&second])
        .start()
        .await;
    wait_for_mesh(&[&first, &second, &third]).await;
}

/// Sends this as a stranger, and checks that the node closes the connection and reveals nothing.
async fn nothing_is_answered(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, said: &[u8]) {
    // The node may have closed the connection already.
    let _ = stream.write_all(said).await;
    let mut answer = Vec::new();
    let _ = timeout(HANG, stream.read_to_end(&mut answer))
        .await
        .expect("the connection stays open");
    let answered = String::from_utf8_lossy(&answer);
    assert!(
        !answered.contains("n1") && !answered.contains("HTTP"),
        "{answered:?}"
    );
}

/// Silent strangers that connect at once: more than the 512 connections that may be unidentified at
/// a time.
const CROWD: usize = 700;

/// Waits until the node has closed the connections of all of them.
async fn are_sent_away(crowd: &mut [TcpStream]) {
    let sent_away = join_all(crowd.iter_mut().map(|stranger| async move {
        let mut said = [0];
        let closed = timeout(HANG, stranger.read(&mut said))
            .await
            .expect("a stranger's connection stays open");
        assert!(matches!(closed, Ok(0) | Err(_)));
    }));
    sent_away.await;
}

#[tokio::test]
async fn a_crowd_of_strangers_does_not_shut_out_peers() {
    need_open_files(2 * CROWD as u64);
    let secret = Secret::of(&[new_secret()]);
    let first = Setup::new(Plugins::usual())
        .id("n1")
        .secret(&secret)
        .start()
        .await;
    let second = Setup::new(Plugins::usual())
        .id("n2")
        .secret(&secret)
        .seeds(&[&first])
        .start()
        .await;
    wait_for_mesh(&[&first, &second]).await;
    let traffic = Traffic::start("echo", &[&first, &second]);
    // The node closes some connections at once, and the others when they have been silent for too
    // long. On a busy machine the first may time out before the last have connected: then all
    // connect again.
    let mut crowd = loop {
        let mut crowd = try_join_all((0..CROWD).map(|_| TcpStream::connect(&first.cluster)))
            .await
            .unwrap();
        tokio::select! {
            _ = first.log_line("too many at once") => break crowd,
            () = are_sent_away(&mut crowd) => {}
        }
    };
    let third = Setup::new(Plugins::usual())
        .id("n3")
        .secret(&secret)
        .seeds(&[&first])
        .start()
        .await;
    wait_for_mesh(&[&first, &second, &third]).await;
    let key = third.key_owned_by("echo", "n1").await;
    third.post(&format!("/api/echo/{key}")).send().await.ok();
    are_sent_away(&mut crowd).await;
    traffic.none_failed().await;
}

#[tokio::test]
async fn the_cluster_port_serves_nobody_without_the_right_certificate() {
    let secret = Secret::of(&[new_secret()]);
    let node = mesh_with(&[&secret]).await.remove(0);
    // What a node without a secret sends first, and what a browser does.
    let hello = Hello::of("n2", 1).frame();
    for said in [&hello[..], b"GET / HTTP/1.1\r\n\r\n"] {
        nothing_is_answered(TcpStream::connect(&node.cluster).await.unwrap(), said).await;
    }
    for version in [&TLS12, &TLS13] {
        let connected = TcpStream::connect(&node.cluster).await.unwrap();
        let name = ServerName::try_from("n1.meshage").unwrap();
        match self_made(version).connect(name, connected).await {
            // In TLS 1.3 a client completes its handshake before it learns that it is refused.
            Ok(stream) => nothing_is_answered(stream, &hello).await,
            Err(error) => println!("{version:?}: {error}"),
        }
    }
    node.event("connections-refused").await;
    assert_eq!(node.view().await.len(), 1);
}

/// A TLS client with a self-signed certificate, which accepts any certificate of the server.
fn self_made(version: &'static SupportedProtocolVersion) -> TlsConnector {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["n2.meshage".to_owned()]).unwrap();
    client(version, &cert, &signing_key)
}

/// A TLS client with this certificate, which accepts any certificate of the server.
fn client(
    version: &'static SupportedProtocolVersion,
    certificate: &Certificate,
    key: &KeyPair,
) -> TlsConnector {
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(AnyCertificate));
    TlsConnector::from(Arc::new(config))
}

#[derive(Debug)]
struct AnyCertificate;

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// An operator's own certificate authority, and certificates that it signs.
struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        fs::write(
            directory.path().join("ca.pem"),
            params.self_signed(&key).unwrap().pem(),
        )
        .unwrap();
        Self {
            directory,
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for this name, and its key.
    fn certificate(&self, name: &str) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (
            CertificateParams::new([name.to_owned()])
                .unwrap()
                .signed_by(&key, &self.issuer)
                .unwrap(),
            key,
        )
    }

    /// Starts a node with a certificate for its id.
    async fn start(&self, id: &str, secret: &Secret, seeds: &[&Node]) -> Node {
        let (certificate, key) = self.certificate(id);
        let file = |file: String, content: String| {
            let path = self.directory.path().join(file);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let setup = Setup::new(Plugins::usual())
            .id(id)
            .secret(secret)
            .seeds(seeds);
        let setup = setup.flag("--peer-cert", &file(format!("{id}.pem"), certificate.pem()));
        let setup = setup.flag(
            "--peer-key",
            &file(format!("{id}.key"), key.serialize_pem()),
        );
        setup
            .flag(
                "--peer-ca",
                self.directory.path().join("ca.pem").to_str().unwrap(),
            )
            .start()
            .await
    }
}

#[tokio::test]
async fn an_operators_own_certificates_count_and_name_the_node() {
    let (secret, authority) = (Secret::of(&[new_secret()]), Authority::new());
    let first = authority.start("n1", &secret, &[]).await;
    let second = authority.start("n2", &secret, &[&first]).await;
    wait_for_mesh(&[&first, &second]).await;
    let key = first.key_owned_by("echo", "n2").await;
    let answer = first
        .post(&format!("/api/echo/{key}"))
        .json("{}")
        .send()
        .await;
    assert_eq!((answer.status, answer.node()), (200, "n2"));
    // The holder of a certificate is accepted only as the node that the certificate names.
    let (certificate, key) = authority.certificate("n9");
    let stranger = client(&TLS13, &certificate, &key);
    let connected = TcpStream::connect(&first.cluster).await.unwrap();
    let stream = stranger
        .connect(ServerName::try_from("n1").unwrap(), connected)
        .await
        .unwrap();
    nothing_is_answered(stream, &Hello::of("n3", 1).frame()).await;
    first
        .log_line("its certificate is not that of node n3")
        .await;
    // A node that has the secret, but a certificate derived from it instead of one of the
    // authority.
    let own = Setup::new(Plugins::usual())
        .id("n4")
        .secret(&secret)
        .seeds(&[&first])
        .start()
        .await;
    wait_for_mesh(&[&first, &second, &own]).await;
    let key = first.key_owned_by("echo", "n4").await;
    for node in [&first, &second] {
        let answer = node
            .post(&format!("/api/echo/{key}"))
            .json("{}")
            .send()
            .await;
        answer.ok();
        assert!(
            ["n1", "n2"].contains(&answer.node()),
            "n4 was given a message"
        );
    }
    let told = first.log_line(r#""peer":"n4""#).await;
    assert!(told.contains("handshake"), "{told}");
}

#[tokio::test]
async fn the_secret_is_changed_under_load_and_no_request_fails() {
    let (old, new) = (new_secret(), new_secret());
    let secrets = [(); 3].map(|()| Secret::of(std::slice::from_ref(&old)));
    let nodes = mesh_with(&secrets.each_ref()).await;
    let traffic = Traffic::start("echo", &refs(&nodes));
    // First all nodes accept the new secret, then all seal with it, then the old one is removed.
    let steps = [
        vec![old.clone(), new.clone()],
        vec![new.clone(), old.clone()],
        vec![new.clone()],
    ];
    for (step, secrets_now) in (1..).zip(steps) {
        for (node, secret) in nodes.iter().zip(&secrets) {
            secret.put(&secrets_now);
            until(|| async { node.events("files-changed") == step }).await;
            traffic.wait_for(100).await;
        }
    }
    // A node that has only the old secret is a stranger now; one that has the new secret is not.
    let late = Secret::of(&[old]);
    let late = Setup::new(Plugins::usual())
        .id("late")
        .secret(&late)
        .seeds(&[&nodes[0]])
        .ready()
        .await;
    let fourth = Setup::new(Plugins::usual())
        .id("n4")
        .secret(&Secret::of(&[new]))
        .seeds(&[&nodes[0]])
        .start()
        .await;
    let all: Vec<&Node> = nodes.iter().chain([&fourth]).collect();
    wait_for_mesh(&all).await;
    assert_eq!(late.view().await.len(), 1);
    traffic.wait_for(100).await;
    traffic.none_failed().await;
    // No connection was lost during the rotation.
    for node in &nodes {
        assert_eq!(node.events("peer-connection-lost"), 0);
    }
}

#[tokio::test]
async fn a_secret_file_that_becomes_wrong_changes_nothing() {
    let secret = new_secret();
    let file = Secret::of(std::slice::from_ref(&secret));
    let nodes = mesh_with(&[&file, &file]).await;
    file.put(&["not a secret".into()]);
    for node in &nodes {
        let told = node.event("files-wrong").await;
        assert!(
            told.contains("line 1") && !told.contains("not a secret"),
            "{told}"
        );
    }
    let third = Setup::new(Plugins::usual())
        .id("n3")
        .secret(&Secret::of(&[secret]))
        .seeds(&[&nodes[0]])
        .start()
        .await;
    wait_for_mesh(&[&nodes[0], &nodes[1], &third]).await;
}

#[tokio::test]
async fn the_secret_appears_nowhere() {
    let secret = new_secret();
    let file = Secret::of(std::slice::from_ref(&secret));
    let node = Setup::new(Plugins::usual())
        .secret(&file)
        .flag("--log", "trace")
        .ready()
        .await;
    node.post("/api/echo/1").json("{}").send().await.ok();
    assert_eq!(node.log_lines(&secret), 0);
    assert!(!node.admin("/cluster").await.text().contains(&secret));
}
