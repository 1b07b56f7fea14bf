//! Who may use the public and the admin API, and how they are reached.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use futures_util::future::join_all;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{HANG, Http2, Node, Plugins, Setup, binary, new_secret, skipped, until};

const FIRST: &str = "first-token-0123456789";
const SECOND: &str = "second-token-0123456789";

/// Writes a file atomically, readable only by its owner.
fn put(file: &Path, text: &str) {
    let beside = file.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::set_permissions(&beside, Permissions::from_mode(0o600)).unwrap();
    fs::rename(beside, file).unwrap();
}

async fn status_with(node: &Node, token: &str) -> u16 {
    node.post("/api/echo/1")
        .header("authorization", &format!("Bearer {token}"))
        .send()
        .await
        .status
}

#[tokio::test]
async fn with_a_token_file_a_token_is_needed() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("tokens");
    put(&file, FIRST);
    let plugins = Plugins::usual().with_file("fickle.toml", "headers = [\"authorization\"]\n");
    let node = Setup::new(plugins)
        .flag("--token-file", file.to_str().unwrap())
        .ready()
        .await;
    let refused = node.post("/api/echo/1").send().await;
    assert_eq!(refused.problem(401, "unauthorized")["retryable"], false);
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    assert_eq!(status_with(&node, SECOND).await, 401);
    assert_eq!(status_with(&node, FIRST).await, 200);
    // The token is for the node alone: a handler does not get it even if it declares the header.
    let seen = node
        .post("/api/fickle/1?headers")
        .header("authorization", &format!("Bearer {FIRST}"))
        .send()
        .await;
    assert!(!seen.ok().contains("authorization"), "{}", seen.text());
    // Without a token a client does not learn whether a stream exists.
    node.post("/api/none/1")
        .send()
        .await
        .problem(401, "unauthorized");
    for path in ["/metrics", "/cluster", "/plugins", "/cluster/owner/echo/1"] {
        assert_eq!(node.admin(path).await.status, 401, "{path}");
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(node.admin(path).await.status, 200, "{path}");
    }
    let with_token = node
        .request_admin("/cluster")
        .header("authorization", &format!("Bearer {FIRST}"));
    with_token.send().await.ok();

    put(&file, &format!("{FIRST}\n{SECOND}\n"));
    until(|| async { status_with(&node, SECOND).await == 200 }).await;
    assert_eq!(status_with(&node, FIRST).await, 200);
    put(&file, SECOND);
    until(|| async { status_with(&node, FIRST).await == 401 }).await;
    put(&file, "short");
    let told = node.event("files-wrong").await;
    assert!(
        told.contains("the tokens stay as they are")
            && told.contains("line 1")
            && !told.contains("short"),
        "{told}"
    );
    assert_eq!(status_with(&node, SECOND).await, 200);
}

#[tokio::test]
async fn whatever_stands_in_the_place_of_a_file_its_next_one_is_read() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("tokens");
    put(&file, FIRST);
    let node = Setup::new(Plugins::usual())
        .flag("--token-file", file.to_str().unwrap())
        .ready()
        .await;
    let beside = file.with_extension("new");
    mknodat(CWD, &beside, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    fs::rename(&beside, &file).unwrap();
    node.event("files-wrong").await;
    symlink("/dev/zero", &beside).unwrap();
    fs::rename(&beside, &file).unwrap();
    node.log_line("neither a file nor a pipe").await;
    assert_eq!(status_with(&node, FIRST).await, 200);
    put(&file, SECOND);
    until(|| async { status_with(&node, SECOND).await == 200 }).await;
    assert_eq!(status_with(&node, FIRST).await, 401);
}

#[tokio::test]
async fn a_setting_that_names_what_has_no_end_is_wrong() {
    let directory = TempDir::new().unwrap();
    let pipe = directory.path().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    for flag in [
        "--config",
        "--outbound-ca",
        "--trusted-keys",
        "--secret-file",
        "--token-file",
    ] {
        for file in [Path::new("/dev/zero"), &pipe] {
            let (code, said) = Setup::new(Plugins::usual())
                .flag(flag, file.to_str().unwrap())
                .fail()
                .await;
            assert_eq!(code, 2, "{flag} {file:?}: {said}");
        }
    }
}

/// A user and a group that own nothing on any host, as containers run with.
const NOBODY: u32 = 65_534;
const GROUP: u32 = 2_000;

#[tokio::test]
async fn a_node_that_is_not_root_takes_what_is_mounted_for_its_group() {
    let directory = TempDir::new().unwrap();
    let [plugins, data, secret, tokens] =
        ["plugins", "data", "secret", "tokens"].map(|name| directory.path().join(name));
    for path in [&plugins, &data] {
        fs::create_dir(path).unwrap();
    }
    for path in [directory.path(), &plugins, &data] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    let mut given = vec![chown(&data, Some(NOBODY), Some(GROUP))];
    for (file, text) in [(&secret, new_secret().as_str()), (&tokens, FIRST)] {
        put(file, text);
        fs::set_permissions(file, Permissions::from_mode(0o440)).unwrap();
        given.push(chown(file, None, Some(GROUP)));
    }
    let skipped = |needs: &str| {
        skipped(
            "a_node_that_is_not_root_takes_what_is_mounted_for_its_group",
            needs,
        )
    };
    if given.iter().any(Result::is_err) {
        return skipped("root (`sudo`), to start a node as another user and to give it files");
    }
    let mut command = Command::new(binary());
    command.env_clear().uid(NOBODY).gid(GROUP);
    command.args([
        "--http-port",
        "0",
        "--cluster-port",
        "0",
        "--admin-port",
        "0",
        "--log-format",
        "json",
    ]);
    for (flag, path) in [
        ("--plugins", &plugins),
        ("--data-dir", &data),
        ("--secret-file", &secret),
        ("--token-file", &tokens),
    ] {
        command.arg(flag).arg(path);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut node = match command.spawn() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return skipped("a binary that another user can reach (`chmod o+x` on the way to it)");
        }
        spawned => spawned.unwrap(),
    };
    let mut lines = BufReader::new(node.stderr.take().unwrap()).lines();
    let mut said = Vec::new();
    let is_ready = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            said.push(line);
            if said
                .last()
                .is_some_and(|line| line.contains(r#""message":"ready""#))
            {
                return true;
            }
        }
        false
    };
    let is_ready = timeout(HANG, is_ready).await;
    assert_eq!(is_ready, Ok(true), "{said:?}");
}

#[tokio::test]
async fn an_admin_api_on_a_network_needs_tokens() {
    let (code, said) = Setup::new(Plugins::usual())
        .flag("--admin-bind", "0.0.0.0")
        .fail()
        .await;
    assert_eq!(code, 2);
    assert!(
        said.contains("admin_bind") && said.contains("token_file"),
        "{said}"
    );
}

#[tokio::test]
async fn the_admin_api_is_not_for_pages_of_other_sites() {
    let node = Setup::new(Plugins::usual()).ready().await;
    for (name, value) in [
        ("origin", "http://evil.example"),
        ("sec-fetch-site", "cross-site"),
        // DNS rebinding: a page whose own domain name resolves to this node.
        ("host", "evil.example:9080"),
    ] {
        for path in ["/metrics", "/cluster", "/plugins"] {
            let answer = node.request_admin(path).header(name, value).send().await;
            assert_eq!(answer.status, 403, "{name} {path}: {}", answer.text());
        }
    }
    node.request_admin("/cluster")
        .header("sec-fetch-site", "none")
        .send()
        .await
        .ok();
}

/// Writes a new self-signed certificate for `localhost` and its key.
fn new_certificate(certificate: &Path, key: &Path) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    put(key, &signing_key.serialize_pem());
    put(certificate, &cert.pem());
    cert.der().clone()
}

async fn connect(
    node: &Node,
    trusted: &CertificateDer<'static>,
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(&node.http).await?;
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("localhost").unwrap(), stream)
        .await
}

#[tokio::test]
async fn the_public_api_speaks_https_with_the_certificate_that_is_there_now() {
    let directory = TempDir::new().unwrap();
    let (certificate, key) = (
        directory.path().join("cert.pem"),
        directory.path().join("key.pem"),
    );
    let first = new_certificate(&certificate, &key);
    let setup = Setup::new(Plugins::usual()).flag("--tls-cert", certificate.to_str().unwrap());
    let node = setup.flag("--tls-key", key.to_str().unwrap()).ready().await;
    let mut stream = connect(&node, &first, b"http/1.1").await.unwrap();
    let request = "POST /api/echo/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.contains(r#""partitionKey":"1""#),
        "{answer}"
    );
    let stream = connect(&node, &first, b"h2").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let client = Http2::over(stream).await;
    let requests = (0..20).map(|key| {
        let (client, url) = (&client, format!("https://localhost/api/echo/{key}"));
        async move {
            client
                .post(&url, r#"{"a":1}"#)
                .await
                .expect("the connection ends")
        }
    });
    for (key, answer) in join_all(requests).await.iter().enumerate() {
        assert_eq!(
            answer.ok(),
            format!(r#"{{"echoed":{{"stream":"echo","partitionKey":"{key}","a":1}}}}"#)
        );
    }
    // Plain HTTP gets no answer.
    assert!(node.post("/api/echo/1").try_send().await.is_err());

    let second = new_certificate(&certificate, &key);
    until(|| async { connect(&node, &second, b"http/1.1").await.is_ok() }).await;
    assert!(connect(&node, &first, b"http/1.1").await.is_err());
    put(&certificate, "no certificate");
    // Waits for this very error: the node may have logged another one before, when it read the
    // second key beside the first certificate.
    let told = node
        .log_line("cert.pem has no certificate in PEM form")
        .await;
    assert!(
        told.contains(r#""event":"files-wrong""#)
            && told.contains("certificates of the public API"),
        "{told}"
    );
    connect(&node, &second, b"http/1.1").await.unwrap();
}
