//! Starting a node: which settings may be missing, and what the error says when one is wrong.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpListener, UdpSocket, UnixDatagram};

use crate::harness::{
    Plugins, Setup, binary, new_secret, port_known_beforehand, skipped, wait_for_mesh,
};

#[tokio::test]
async fn seeds_may_be_down_empty_or_the_node_itself() {
    for seeds in [
        "",
        "127.0.0.1:9",
        "localhost:9",
        "no-such-name.invalid:9742",
    ] {
        let node = Setup::new(Plugins::usual())
            .flag("--seeds", seeds)
            .ready()
            .await;
        node.post("/api/echo/1").send().await.ok();
    }
    for host in ["127.0.0.1", "localhost"] {
        let port = port_known_beforehand().to_string();
        let node = Setup::new(Plugins::usual())
            .own_ports()
            .flag("--http-port", "0")
            .flag("--cluster-port", &port)
            .flag("--seeds", &format!("{host}:{port}"))
            .ready()
            .await;
        assert_eq!(node.view().await.len(), 1);
        node.post("/api/echo/1").send().await.ok();
    }
}

#[tokio::test]
async fn a_node_may_be_reached_by_a_name_and_at_another_port() {
    let port = port_known_beforehand().to_string();
    let first = Setup::new(Plugins::usual())
        .own_ports()
        .id("n1")
        .flag("--http-port", "0")
        .flag("--cluster-port", &port)
        .flag("--advertise", &format!("localhost:{port}"))
        .ready()
        .await;
    let second = Setup::new(Plugins::usual()).id("n2").seeds(&[&first]);
    let second = second.start().await;
    wait_for_mesh(&[&first, &second]).await;
    // What is told is what others use: here nobody is.
    let away = port_known_beforehand();
    let lonely = Setup::new(Plugins::usual())
        .id("n3")
        .flag("--advertise", &format!("127.0.0.1:{away}"))
        .ready()
        .await;
    let start: Value = serde_json::from_str(&lonely.event("starts").await).unwrap();
    assert_eq!(start["advertised"], format!("127.0.0.1:{away}"));
}

#[tokio::test]
async fn a_seed_that_comes_up_later_is_found_by_address_and_by_name() {
    let port = port_known_beforehand();
    let with_seed = |id: &str, host: &str| {
        Setup::new(Plugins::usual())
            .id(id)
            .flag("--seeds", &format!("{host}:{port}"))
    };
    let by_address = with_seed("n1", "127.0.0.1").ready().await;
    let by_name = with_seed("n2", "localhost").ready().await;
    let late = Setup::new(Plugins::usual())
        .own_ports()
        .id("n3")
        .flag("--http-port", "0")
        .flag("--cluster-port", &port.to_string())
        .start()
        .await;
    wait_for_mesh(&[&by_address, &by_name, &late]).await;
}

#[track_caller]
fn check_refusal((code, said): (i32, String), expected_code: i32, parts: &[&str]) {
    assert_eq!(code, expected_code, "{said}");
    let last = said.lines().last().unwrap_or_default();
    for part in parts {
        assert!(last.contains(part), "{part:?} is not in {last:?}");
    }
}

#[tokio::test]
async fn a_wrong_setting_ends_the_start_with_one_line_and_code_2() {
    let wrong = |flag: &str, value: &str| Setup::new(Plugins::empty()).flag(flag, value).fail();
    for (flag, value, parts) in [
        ("--timeout", "soon", ["timeout", "soon", "30s"]),
        ("--seeds", "10.0.0.1", ["seeds", "10.0.0.1", "host:port"]),
        ("--node-id", "a b", ["node_id", "a b", "letters"]),
        (
            "--advertise",
            "0.0.0.0",
            ["advertise", "0.0.0.0", "other nodes can reach"],
        ),
        (
            "--advertise",
            "node:0",
            ["advertise", "node:0", "10.0.0.1:9742"],
        ),
        ("--log", "!?", ["log", "!?", "info"]),
        ("--log", "warning", ["log", "warning", "warn, info"]),
        (
            "--secret-file",
            "/missing",
            [
                "secret_file",
                "a file of secrets",
                "/missing cannot be read",
            ],
        ),
        (
            "--token-file",
            "/missing",
            ["token_file", "a file of tokens", "/missing cannot be read"],
        ),
        (
            "--trusted-keys",
            "/missing",
            ["trusted_keys", "a file of keys", "/missing cannot be read"],
        ),
    ] {
        let (code, said) = wrong(flag, value).await;
        assert_eq!(said.lines().count(), 1, "{said}");
        check_refusal((code, said), 2, &parts);
    }
    let (code, said) = Setup::new(Plugins::empty())
        .variable("CLUSTER_PORT", "many")
        .own_ports()
        .fail()
        .await;
    check_refusal(
        (code, said),
        2,
        &[
            "cluster_port",
            "many",
            "CLUSTER_PORT",
            "0 (any free one) to 65535",
        ],
    );
}

#[tokio::test]
async fn a_variable_that_is_no_text_is_named() {
    let setup = || Setup::new(Plugins::empty()).own_ports();
    for (variable, name) in [
        ("CLUSTER_PORT", "cluster_port"),
        ("MESHAGE_CONFIG", "config"),
    ] {
        let (code, said) = setup()
            .variable(variable, OsString::from_vec(b"\xff".to_vec()))
            .fail()
            .await;
        assert_eq!(said.lines().count(), 1, "{said}");
        check_refusal(
            (code, said),
            2,
            &[&format!("invalid {name} "), variable, "UTF-8"],
        );
    }
}

#[tokio::test]
async fn an_empty_flag_hides_no_variable() {
    let setup = Setup::new(Plugins::usual())
        .variable("MESHAGE_NODE_ID", "of-the-variable")
        .flag("--node-id", " ");
    assert_eq!(
        setup.ready().await.admin("/cluster").await.json()["self"],
        "of-the-variable"
    );
}

#[tokio::test]
async fn the_configuration_file_may_be_a_pipe() {
    let directory = TempDir::new().unwrap();
    let pipe = directory.path().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let setup = Setup::new(Plugins::usual()).flag("--config", pipe.to_str().unwrap());
    // As a shell does for `<(command)`: the content is written once.
    // A thread of its own, for which nobody waits if the node does not read.
    let writing = thread::spawn(move || fs::write(pipe, "node_id = \"of-the-pipe\"\n"));
    assert_eq!(
        setup.ready().await.admin("/cluster").await.json()["self"],
        "of-the-pipe"
    );
    writing.join().unwrap().unwrap();
}

/// Checks that a node with these flags does not start, with an error that names the setting, its
/// file, and what was expected.
async fn check_wrong_file(flags: &[(&str, &str)], name: &str, file: &str, expected: &str) {
    let setup = flags
        .iter()
        .fold(Setup::new(Plugins::empty()), |setup, (flag, value)| {
            setup.flag(flag, value)
        });
    let (code, said) = setup.fail().await;
    assert_eq!(said.lines().count(), 1, "{said}");
    check_refusal(
        (code, said),
        2,
        &[expected, file, "set by --", &format!("invalid {name} ")],
    );
}

#[tokio::test]
async fn a_wrong_certificate_or_key_ends_the_start_with_the_setting_that_names_it() {
    let directory = TempDir::new().unwrap();
    let put = |name: &str, text: String| {
        let file = directory.path().join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let [own_key, ca_key, other_key] = [(); 3].map(|()| KeyPair::generate().unwrap());
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = CertificateParams::new(["n1".to_owned()]).unwrap();
    let own = own
        .signed_by(&own_key, &Issuer::from_params(&params, &ca_key))
        .unwrap();
    let files = [
        put("cert.pem", own.pem()),
        put("key.pem", own_key.serialize_pem()),
        put("open.key.pem", own_key.serialize_pem()),
        put("other.key.pem", other_key.serialize_pem()),
        put("ca.pem", params.self_signed(&ca_key).unwrap().pem()),
        put(
            "other.ca.pem",
            params.self_signed(&other_key).unwrap().pem(),
        ),
        put("secret", new_secret()),
        put("nothing.pem", "neither certificate nor key".to_owned()),
    ];
    let [
        cert,
        key,
        open_key,
        other_key,
        ca,
        other_ca,
        secret,
        nothing,
    ] = files.each_ref().map(String::as_str);
    fs::set_permissions(open_key, Permissions::from_mode(0o644)).unwrap();
    let missing = "/missing";

    let wrong_pairs = [
        ([missing, key], "cert", missing, "/missing cannot be read"),
        (
            [nothing, key],
            "cert",
            nothing,
            "has no certificate in PEM form",
        ),
        ([cert, missing], "key", missing, "/missing cannot be read"),
        ([cert, open_key], "key", open_key, "chmod o-rwx"),
        (
            [cert, nothing],
            "key",
            nothing,
            "has no private key in PEM form",
        ),
        (
            [cert, other_key],
            "key",
            other_key,
            "it is not the key of the certificate in",
        ),
    ];
    for ([cert, key], wrong, file, expected) in wrong_pairs {
        check_wrong_file(
            &[("--tls-cert", cert), ("--tls-key", key)],
            &format!("tls_{wrong}"),
            file,
            expected,
        )
        .await;
        let flags = [
            ("--peer-cert", cert),
            ("--peer-key", key),
            ("--peer-ca", ca),
            ("--secret-file", secret),
        ];
        check_wrong_file(&flags, &format!("peer_{wrong}"), file, expected).await;
    }
    let of_peers = |ca| {
        [
            ("--peer-cert", cert),
            ("--peer-key", key),
            ("--peer-ca", ca),
            ("--secret-file", secret),
        ]
    };
    check_wrong_file(
        &of_peers(missing),
        "peer_ca",
        missing,
        "/missing cannot be read",
    )
    .await;
    check_wrong_file(
        &of_peers(nothing),
        "peer_ca",
        nothing,
        "has no certificate in PEM form",
    )
    .await;
    check_wrong_file(
        &of_peers(other_ca),
        "peer_cert",
        cert,
        "no authority in peer_ca has signed it",
    )
    .await;
    // The certificate is for another node than the id, whether that was set or derived from the
    // port.
    let named = [&of_peers(ca)[..], &[("--node-id", "n2")]].concat();
    check_wrong_file(&named, "peer_cert", cert, "is not that of node n2").await;
    check_wrong_file(
        &of_peers(ca),
        "peer_cert",
        cert,
        "the certificate is not that of node",
    )
    .await;
}

#[tokio::test]
async fn spaces_around_a_setting_are_no_part_of_it() {
    let plugins = Plugins::usual();
    let file = plugins.path().join("meshage.toml");
    std::fs::write(&file, "max_body = \" 10 \"\n").unwrap();
    let node = Setup::new(plugins)
        .variable("MESHAGE_LOG", "info ")
        .variable("MESHAGE_CONFIG", format!("{}\r", file.display()))
        .flag("--cluster-id", "prod ")
        .flag("--node-id", " n1 ")
        .flag("--seeds", " 127.0.0.1:9 , 127.0.0.1:10\n")
        .ready()
        .await;
    let cluster = node.admin("/cluster").await.json();
    assert_eq!(
        (&cluster["self"], &cluster["clusterId"]),
        (&"n1".into(), &"prod".into())
    );
    node.post("/api/echo/1")
        .body("x".repeat(11))
        .send()
        .await
        .problem(413, "body-too-large");
}

#[tokio::test]
async fn a_missing_plugins_directory_ends_the_start() {
    let setup = Setup::new(Plugins::empty())
        .variable("MESHAGE_PLUGINS", "/ignored")
        .flag("--config", "/missing.toml");
    check_refusal(setup.fail().await, 2, &["config", "/missing.toml"]);
    let plugins = Plugins::empty();
    std::fs::remove_dir(plugins.path()).unwrap();
    let path = plugins.path().to_str().unwrap().to_owned();
    check_refusal(
        Setup::new(plugins).fail().await,
        2,
        &["plugins", &path, "create it or name another"],
    );
}

/// Linux can forbid a process to make memory executable, as `MemoryDenyWriteExecute` does; what it runs inherits
/// that.
#[test]
fn memory_that_cannot_be_made_executable_ends_the_start() {
    let forbidding = "import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0: sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])";
    let plugins = TempDir::new().unwrap();
    let run = |arguments: &[&str]| {
        let mut python = Command::new("python3");
        python
            .args(["-c", forbidding])
            .arg(binary())
            .args(arguments);
        python.current_dir(plugins.path()).output()
    };
    let is_missing = run(&["--version"]).map_or(true, |output| output.status.code() == Some(77));
    if is_missing {
        let needs = "Python and Linux 6.3 (`apt-get install python3`)";
        skipped(
            "memory_that_cannot_be_made_executable_ends_the_start",
            needs,
        );
        return;
    }
    for arguments in [&["--plugins", "."][..], &["check", "."]] {
        let output = run(arguments).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("MemoryDenyWriteExecute=no"), "{said}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = listener.local_addr().unwrap();
    let port = taken.port().to_string();
    for (flag, name) in [
        ("--http-port", "http_port"),
        ("--cluster-port", "cluster_port"),
        ("--admin-port", "admin_port"),
    ] {
        let ports = ["--http-port", "--cluster-port", "--admin-port"];
        let setup = ports
            .iter()
            .fold(Setup::new(Plugins::empty()).own_ports(), |setup, other| {
                setup.flag(other, if *other == flag { &port } else { "0" })
            });
        check_refusal(
            setup.fail().await,
            1,
            &[name, &taken.to_string(), "the port is taken"],
        );
    }
    drop(listener);
    // The cluster port must be free for UDP, too.
    let taken = UdpSocket::bind(("127.0.0.1", port_known_beforehand()))
        .await
        .unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let setup = Setup::new(Plugins::empty())
        .own_ports()
        .flag("--http-port", "0")
        .flag("--cluster-port", &port);
    check_refusal(
        setup.fail().await,
        1,
        &["cluster_port", &port, "the port is taken"],
    );
    let elsewhere = Setup::new(Plugins::empty())
        .flag("--bind", "192.0.2.1")
        .flag("--insecure", "true");
    check_refusal(
        elsewhere.fail().await,
        1,
        &["192.0.2.1", "this host has no such address"],
    );
}

#[tokio::test]
async fn a_file_configures_and_is_overridden_by_variable_and_flag() {
    let plugins = Plugins::usual();
    let file = plugins.path().join("meshage.toml");
    std::fs::write(
        &file,
        "node_id = \"by-file\"\ncluster_id = \"by-file\"\nmax_body = 10\n",
    )
    .unwrap();
    let node = Setup::new(plugins)
        .flag("--config", file.to_str().unwrap())
        .variable("MESHAGE_NODE_ID", "by-variable")
        .variable("MESHAGE_CLUSTER_ID", "by-variable")
        .flag("--cluster-id", "by-flag")
        .ready()
        .await;
    let cluster = node.admin("/cluster").await.json();
    assert_eq!(
        (&cluster["self"], &cluster["clusterId"]),
        (&"by-variable".into(), &"by-flag".into())
    );
    node.post("/api/echo/1")
        .body("x".repeat(11))
        .send()
        .await
        .problem(413, "body-too-large");

    let plugins = Plugins::empty().with_file("wrong.toml", "http_prot = 1\n");
    let file = plugins
        .path()
        .join("wrong.toml")
        .to_str()
        .unwrap()
        .to_owned();
    check_refusal(
        Setup::new(plugins).flag("--config", &file).fail().await,
        2,
        &["http_prot", "http_port"],
    );
}

#[tokio::test]
async fn health_says_whether_the_node_on_this_host_is_ready() {
    let health = |admin: &str, bind: &str| {
        let port = admin.rsplit_once(':').unwrap().1.to_owned();
        let mut health = Command::new(binary());
        health.args(["--admin-bind", bind, "--admin-port", &port, "health"]);
        let output = health.output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), said)
    };
    let mut node = Setup::new(Plugins::usual()).ready().await;
    for bind in ["127.0.0.1", "0.0.0.0"] {
        assert_eq!(health(&node.admin, bind), (Some(0), "ready\n".into()));
    }
    node.signal(rustix::process::Signal::TERM);
    node.ended().await;
    let (code, said) = health(&node.admin, "127.0.0.1");
    assert_eq!(code, Some(1));
    assert!(
        said.contains(&node.admin) && said.contains("refused"),
        "{said}"
    );
    // Nobody waits for a node that hangs.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    let (code, said) = health(&silent, "127.0.0.1");
    assert!(code == Some(1) && said.contains("in time"), "{said}");
}

#[tokio::test]
async fn a_service_manager_is_told_when_the_node_is_ready_and_when_it_leaves() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    let mut node = Setup::new(Plugins::usual())
        .variable("NOTIFY_SOCKET", &socket)
        .start()
        .await;
    let mut said = [0; 64];
    let bytes = manager.recv(&mut said).await.unwrap();
    assert_eq!(&said[..bytes], b"READY=1\n");
    // It is true.
    node.post("/api/echo/1").send().await.ok();
    assert_eq!(node.admin("/readyz").await.status, 200);
    node.signal(rustix::process::Signal::TERM);
    let bytes = manager.recv(&mut said).await.unwrap();
    assert_eq!(&said[..bytes], b"STOPPING=1\n");
    assert!(node.ended().await.success());
}
