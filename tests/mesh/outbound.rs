//! A handler reaches only the hosts that its manifest allows, by `wasi:http` and within limits, and
//! sees the environment variables that the manifest sets.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::{Node, Plugins, Setup, until};

/// A server that answers every request with this many bytes, or never (`None`).
async fn server(body_bytes: Option<usize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 1024];
                // A client may have gone before it has sent anything.
                let read = stream.read(&mut head).await.unwrap_or(0);
                if !head[..read].starts_with(b"GET /path HTTP/1.1\r\n") {
                    return;
                }
                match body_bytes {
                    Some(bytes) => {
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
                        // A client that has reached its limit closes the connection.
                        let _ = stream.write_all(head.as_bytes()).await;
                        let _ = stream.write_all(&vec![b'x'; bytes]).await;
                    }
                    None => std::future::pending().await,
                }
            });
        }
    });
    addr
}

/// An HTTPS server that answers with five bytes. Its certificate is signed by an authority of its
/// own, whose certificate is written to the file.
async fn https_server(authority_file: &Path) -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(authority_file, params.self_signed(&key).unwrap().pem()).unwrap();
    let own_key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let own = own.signed_by(&own_key, &Issuer::new(params, key)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let own_key = PrivateKeyDer::Pkcs8(own_key.serialize_der().into());
    let config = config
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], own_key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust the authority aborts the handshake.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut head = [0; 1024];
            let read = stream.read(&mut head).await.unwrap_or(0);
            if head[..read].starts_with(b"GET /path HTTP/1.1\r\n") {
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nxxxxx")
                    .await;
                // Reads to the end: closing a connection with unread data would reset it.
                let _ = stream.shutdown().await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        }
    });
    format!("localhost:{port}")
}

async fn node(manifest: &str) -> Node {
    Setup::new(Plugins::usual().with_file("fickle.toml", manifest))
        .ready()
        .await
}

#[tokio::test]
async fn an_allowed_host_answers_and_no_other() {
    let (allowed, other) = (server(Some(5)).await, server(Some(5)).await);
    let node = node(&format!("allowed_hosts = [\"{allowed}\"]\n")).await;
    assert_eq!(
        node.post(&format!("/api/fickle/1?fetch={allowed}/path"))
            .send()
            .await
            .ok(),
        "xxxxx"
    );
    let denied = node
        .post(&format!("/api/fickle/1?fetch={other}/path"))
        .send()
        .await;
    assert_eq!(
        (denied.status, denied.text()),
        (599, "ErrorCode::HttpRequestDenied")
    );
    let named_otherwise = allowed.replace("127.0.0.1", "localhost");
    let denied = node
        .post(&format!("/api/fickle/1?fetch={named_otherwise}/path"))
        .send()
        .await;
    assert_eq!(
        (denied.status, denied.text()),
        (599, "ErrorCode::HttpRequestDenied")
    );
}

#[tokio::test]
async fn a_host_under_an_operators_authority_is_trusted_if_the_operator_says_so() {
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("ca.pem");
    let host = https_server(&file).await;
    let setup = || {
        let manifest = format!("allowed_hosts = [\"{host}\"]\n");
        Setup::new(Plugins::usual().with_file("fickle.toml", manifest))
    };
    let path = format!("/api/fickle/1?fetch=https://{host}/path");
    let trusting = setup()
        .flag("--outbound-ca", file.to_str().unwrap())
        .ready()
        .await;
    assert_eq!(trusting.post(&path).send().await.ok(), "xxxxx");
    let other = setup().ready().await;
    let refused = other.post(&path).send().await;
    assert_eq!(refused.status, 599, "{}", refused.text());
    assert!(refused.text().contains("Tls"), "{}", refused.text());
    let told = other.event("host-tls-failed").await;
    assert!(
        told.contains(&host.to_string()) && told.contains("--outbound-ca"),
        "{told}"
    );
    // Hosts are allowed by name and port, whatever the scheme. Plain HTTP fails here because this
    // port speaks only TLS.
    let plain = trusting
        .post(&format!("/api/fickle/1?fetch={host}/path"))
        .send()
        .await;
    assert_eq!(plain.status, 599, "{}", plain.text());
}

#[tokio::test]
async fn a_host_that_is_denied_is_named_in_the_log_once() {
    let node = node("").await;
    for _ in 0..3 {
        for host in ["one.example:80", "two.example:8080"] {
            let denied = node
                .post(&format!("/api/fickle/1?fetch={host}/"))
                .send()
                .await;
            assert_eq!(
                (denied.status, denied.text()),
                (599, "ErrorCode::HttpRequestDenied")
            );
        }
    }
    node.post("/api/fickle/1?log=the-last-call")
        .send()
        .await
        .ok();
    node.log_line("the-last-call").await;
    for host in ["one.example:80", "two.example:8080"] {
        let told = node.log_line(host).await;
        assert!(
            told.contains("host-denied") && told.contains("allowed_hosts"),
            "{told}"
        );
    }
    assert_eq!(node.events("host-denied"), 2);
}

#[tokio::test]
async fn a_response_that_is_too_large_ends_with_an_error() {
    let large = server(Some(17 << 20)).await;
    let node = node(&format!("allowed_hosts = [\"{large}\"]\n")).await;
    let answer = node
        .post(&format!("/api/fickle/1?fetch={large}/path"))
        .send()
        .await;
    assert_eq!(answer.status, 599, "{} bytes", answer.body.len());
    assert!(
        answer.text().contains("body size exceeds limit"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn a_host_that_never_answers_holds_nobody_past_the_deadline() {
    let silent = server(None).await;
    let node = node(&format!(
        "timeout_ms = 300\nallowed_hosts = [\"{silent}\"]\n"
    ))
    .await;
    let path = format!("/api/fickle/1?fetch={silent}/path");
    node.post(&path)
        .send()
        .await
        .problem(504, "deadline-exceeded");
    node.wait_until_running("fickle", 0).await;
    // Requests that were given up free their places, too: 70 are more than the limit of 64.
    futures_util::future::join_all((0..70).map(|_| node.post(&path).send())).await;
    let answer = node.post(&path).send().await;
    answer.problem(504, "deadline-exceeded");
}

#[tokio::test]
async fn a_plugin_has_so_many_requests_under_way_and_no_more() {
    let (silent, open) = (server(None).await, server(Some(5)).await);
    let node = node(&format!("allowed_hosts = [\"{silent}\", \"{open}\"]\n")).await;
    let refused = node
        .post(&format!("/api/fickle/1?fetch_many={silent}/path"))
        .send()
        .await;
    assert_eq!(refused.ok(), "36");
    // The handler has dropped the other requests, and a moment later their places are free.
    until(|| async {
        node.post(&format!("/api/fickle/1?fetch={open}/path"))
            .send()
            .await
            .status
            == 200
    })
    .await;
}

#[tokio::test]
async fn what_the_host_keeps_of_a_request_is_bounded() {
    let node = node("").await;
    for (bytes, is_taken) in [
        (100, "true"),
        (8 << 10, "true"),
        ((8 << 10) + 1, "false"),
        (10 << 20, "false"),
    ] {
        let answer = node
            .post(&format!("/api/fickle/1?authority_bytes={bytes}"))
            .send()
            .await;
        assert_eq!(answer.ok(), is_taken, "{bytes}");
    }
}

#[tokio::test]
async fn the_environment_is_what_the_manifest_says() {
    let plugins = Plugins::usual().with_file("fickle.toml", "env = { GREETING = \"hello\" }\n");
    let node = Setup::new(plugins)
        .variable("SECRET", "of the node")
        .ready()
        .await;
    assert_eq!(
        node.post("/api/fickle/1?environment").send().await.ok(),
        "GREETING=hello"
    );
}
