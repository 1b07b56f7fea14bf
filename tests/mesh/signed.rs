//! With trusted keys, only plugins that one of them has signed are loaded. A replacement that is
//! not signed leaves the running version in place.

use std::io::Cursor;
use std::process::Command;

use minisign::KeyPair;
use serde_json::Value;

use crate::harness::{Node, Plugins, Setup, binary, guest, stamped, until};

fn sign(plugins: &Plugins, file: &str, content: &[u8], keys: &KeyPair) {
    let signature = minisign::sign(None, &keys.sk, Cursor::new(content), None, None).unwrap();
    plugins.put(
        &format!("{file}.minisig"),
        signature.into_string().as_bytes(),
    );
}

fn new_keys() -> KeyPair {
    KeyPair::generate_unencrypted_keypair().unwrap()
}

/// The errors of plugins that could not be loaded.
async fn errors(node: &Node) -> Vec<String> {
    let listed = node.admin("/plugins").await.json();
    let plugins = listed["plugins"].as_array().unwrap().iter();
    plugins
        .filter_map(|plugin: &Value| plugin["error"].as_str().map(str::to_owned))
        .collect()
}

async fn wait_for_error(node: &Node, parts: &[&str]) {
    until(|| async {
        errors(node)
            .await
            .iter()
            .any(|error| parts.iter().all(|part| error.contains(part)))
    })
    .await;
}

#[tokio::test]
async fn only_what_a_trusted_key_has_signed_is_loaded() {
    let (keys, others) = (new_keys(), new_keys());
    let public = keys.pk.to_base64();
    let echo = std::fs::read(guest("echo")).unwrap();
    let plugins = Plugins::usual().with_file(
        "trusted-keys",
        format!("untrusted comment: of the shop\n{public}\n"),
    );
    sign(&plugins, "echo.wasm", &echo, &keys);
    let trusted = plugins.path().join("trusted-keys");
    let node = Setup::new(plugins.clone())
        .flag("--trusted-keys", trusted.to_str().unwrap())
        .ready()
        .await;
    node.post("/api/echo/1").json("{}").send().await.ok();
    node.post("/api/fickle/1")
        .send()
        .await
        .problem(404, "no-candidate");
    wait_for_error(
        &node,
        &[
            "fickle.wasm is not signed",
            "fickle.wasm.minisig is missing",
            "minisign -S",
        ],
    )
    .await;

    // Signed by a key that is not trusted, and then by one that is.
    let fickle = std::fs::read(guest("fickle")).unwrap();
    sign(&plugins, "fickle.wasm", &fickle, &others);
    wait_for_error(
        &node,
        &["fickle.wasm.minisig", "a key that is not trusted", &public],
    )
    .await;
    sign(&plugins, "fickle.wasm", &fickle, &keys);
    until(|| async { node.post("/api/fickle/1").send().await.status == 200 }).await;

    // A component that differs from the signed one does not replace the running version.
    plugins.put("echo.wasm", &stamped("echo", 1));
    wait_for_error(&node, &["echo.wasm.minisig", "changed after it was signed"]).await;
    node.post("/api/echo/1").json("{}").send().await.ok();
    sign(&plugins, "echo.wasm", &stamped("echo", 1), &keys);
    until(|| async { errors(&node).await.is_empty() }).await;

    // A manifest grants permissions to a plugin, so it must be signed, too.
    let manifest = b"timeout_ms = 1000\n";
    plugins.put("echo.toml", manifest);
    wait_for_error(&node, &["echo.toml is not signed", "echo.toml.minisig"]).await;
    sign(&plugins, "echo.toml", manifest, &keys);
    until(|| async { errors(&node).await.is_empty() }).await;
    plugins.put("echo.wasm.minisig", b"nonsense");
    wait_for_error(&node, &["echo.wasm.minisig", "not a signature of minisign"]).await;

    let check = |file: &str| {
        let mut command = Command::new(binary());
        command
            .args(["--trusted-keys", trusted.to_str().unwrap(), "check"])
            .arg(plugins.path().join(file));
        command.output().unwrap()
    };
    assert!(check("fickle.wasm").status.success());
    let output = check("echo.wasm");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("not a signature of minisign"),
        "{output:?}"
    );
}

#[tokio::test]
async fn keys_that_are_none_end_the_start() {
    for (content, expected) in [
        ("hello", "line 1: expected a public key of minisign"),
        ("", "has no public key"),
    ] {
        let plugins = Plugins::empty().with_file("trusted-keys", content);
        let file = plugins.path().join("trusted-keys");
        let (code, said) = Setup::new(plugins)
            .flag("--trusted-keys", file.to_str().unwrap())
            .fail()
            .await;
        assert_eq!(code, 2);
        assert!(
            said.contains("trusted_keys") && said.contains(expected),
            "{said}"
        );
    }
}
