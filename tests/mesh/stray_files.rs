//! A file in the plugins directory that was meant for a plugin and is not used is reported.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::Value;

use crate::harness::{Plugins, Setup, guest, until};

/// Event that a node logs for each such file.
const EVENT: &str = "plugin-file-unused";

#[tokio::test]
async fn what_is_meant_and_not_used_is_told_once() {
    let plugins = Plugins::empty().with("echo", "echo");
    let at = |name: &str| plugins.path().join(name);
    for silent in [
        "README.md",
        "echo.toml",
        "echo.toml~",
        "echo.wasm.new",
        ".hidden.toml",
        "echo.wasm.minisig",
    ] {
        fs::write(at(silent), "").unwrap();
    }
    fs::create_dir(at("sources")).unwrap();
    fs::write(at("tpyo.toml"), "").unwrap();
    fs::write(at("echo.wasm.toml"), "").unwrap();
    fs::copy(guest("echo"), at("upper.WASM")).unwrap();
    fs::create_dir(at("folder.wasm")).unwrap();
    symlink("/nowhere/far.wasm", at("far.wasm")).unwrap();
    let node = Setup::new(plugins.clone()).ready().await;
    for (name, because) in [
        (
            "tpyo.toml",
            "there is no tpyo.wasm, whose manifest it would be",
        ),
        (
            "echo.wasm.toml",
            "it is not read, as a manifest is a file <stream>.toml; name it echo.toml",
        ),
        (
            "upper.WASM",
            "it is not loaded, as a component is a file <stream>.wasm; name it upper.wasm",
        ),
        (
            "folder.wasm",
            "it is a directory; a component is a file, or a link to one",
        ),
        (
            "far.wasm",
            "it is a link to /nowhere/far.wasm, where there is nothing",
        ),
    ] {
        let line: Value = serde_json::from_str(&node.log_line(because).await).unwrap();
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["event"], EVENT);
        assert_eq!(line["file"], at(name).to_str().unwrap());
    }
    // A new file is reported. In the scans until then, none of the earlier ones was reported again.
    fs::write(at("late.toml"), "").unwrap();
    node.log_line("there is no late.wasm").await;
    assert_eq!(node.log_lines(EVENT), 6);
    // A file that changes is reported again.
    fs::write(at("tpyo.toml"), "timeout_ms = 1").unwrap();
    until(|| async { node.log_lines("there is no tpyo.wasm") == 2 }).await;
    // A file whose name is corrected is used.
    fs::rename(at("upper.WASM"), at("upper.wasm")).unwrap();
    until(|| async { node.post("/api/upper/1").send().await.status == 200 }).await;
}
