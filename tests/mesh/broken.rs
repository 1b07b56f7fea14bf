//! A plugin that cannot run gets an error that says what is wrong, what was expected and what to
//! do: the text of `tests/broken/*/error.txt`, both by `meshage-host check` and by a node.
//!
//! Each of those folders is one broken plugin: `plugin.wat` (truncated to `plugin.length` if that
//! exists), `plugin.txt` (copied), `plugin.guest` (name of a guest) or `plugin.size` (a file of
//! that many bytes), perhaps with a manifest. After an intended change of a text: `BLESS=1 cargo
//! xtask test broken`, then review the diff.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::harness::{Plugins, Setup, binary, guest, module};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("broken")
}

/// Writes all broken plugins into the directory, and returns the expected error of each by name.
fn write_all(plugins: &Plugins) -> BTreeMap<String, String> {
    let cases = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    cases
        .map(|case| {
            let name = case.file_name().unwrap().to_str().unwrap().to_owned();
            write(&case, &plugins.path().join(format!("{name}.wasm")));
            if case.join("plugin.toml").exists() {
                fs::copy(
                    case.join("plugin.toml"),
                    plugins.path().join(format!("{name}.toml")),
                )
                .unwrap();
            }
            let expected = fs::read_to_string(case.join("error.txt")).unwrap_or_default();
            (name, expected)
        })
        .collect()
}

fn write(case: &Path, to: &Path) {
    let read = |name: &str| fs::read_to_string(case.join(name)).ok();
    if let Some(text) = read("plugin.wat") {
        let mut bytes = wat::parse_str(text).unwrap();
        if let Some(length) = read("plugin.length") {
            bytes.truncate(length.trim().parse().unwrap());
        }
        fs::write(to, bytes).unwrap();
    } else if let Some(text) = read("plugin.guest") {
        fs::copy(guest(text.trim()), to).unwrap();
    } else if let Some(text) = read("plugin.size") {
        fs::File::create(to)
            .unwrap()
            .set_len(text.trim().parse().unwrap())
            .unwrap();
    } else {
        fs::copy(case.join("plugin.txt"), to).unwrap();
    }
}

/// The output, with the directory that differs from run to run replaced by `PLUGINS`.
fn shown(said: &str, plugins: &Plugins) -> String {
    let said = said.replace(plugins.path().to_str().unwrap(), "PLUGINS");
    format!("{}\n", said.trim())
}

#[tokio::test]
async fn a_broken_plugin_says_what_is_wrong_and_what_to_do() {
    let plugins = Plugins::empty();
    let expected = write_all(&plugins);
    assert!(expected.len() > 20);
    let mut differences = String::new();
    for (name, expected) in &expected {
        let file = plugins.path().join(format!("{name}.wasm"));
        let output = Command::new(binary())
            .arg("check")
            .arg(&file)
            .output()
            .await
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {output:?}");
        let said = shown(std::str::from_utf8(&output.stdout).unwrap(), &plugins);
        if std::env::var_os("BLESS").is_some() {
            fs::write(folder().join(name).join("error.txt"), &said).unwrap();
        } else if said != *expected {
            differences += &format!("{name}\n  expected: {expected}  found:    {said}");
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

#[tokio::test]
async fn a_node_says_the_same_and_runs_the_others() {
    let plugins = Plugins::usual();
    let expected = write_all(&plugins);
    let node = Setup::new(plugins.clone()).ready().await;
    let listed = node.admin("/plugins").await.json();
    for (name, expected) in &expected {
        let is_it = |plugin: &&serde_json::Value| plugin["stream"] == name.as_str();
        let plugin = listed["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .find(is_it)
            .unwrap();
        assert_eq!(plugin["state"], "failed", "{plugin}");
        assert_eq!(
            shown(plugin["error"].as_str().unwrap(), &plugins),
            *expected,
            "{name}"
        );
    }
    // The good plugins run, and only they are offered.
    node.post("/api/echo/1").send().await.ok();
    assert_eq!(node.view().await[&node.id].streams(), ["echo", "fickle"]);
    node.post("/api/core-module/1")
        .send()
        .await
        .problem(404, "no-candidate");
}

#[tokio::test]
async fn a_name_that_is_not_text_is_said_to_be_wrong_once() {
    let plugins = Plugins::usual();
    let name = OsStr::from_bytes(b"caf\xe9.wasm");
    fs::copy(guest("echo"), plugins.path().join(name)).unwrap();
    let node = Setup::new(plugins).ready().await;
    let failed = node.event("plugin-failed").await;
    assert!(failed.contains("cannot be a stream"), "{failed}");
    let listed = node.admin("/plugins").await.json();
    let states = listed["plugins"].as_array().unwrap().iter();
    let failed: Vec<_> = states
        .filter(|plugin| plugin["state"] == "failed")
        .collect();
    assert_eq!(failed.len(), 1, "{listed}");
    assert_eq!(node.events("plugin-failed"), 1);
}

#[tokio::test]
async fn check_is_content_with_what_is_good() {
    let good = guest("echo");
    let output = Command::new(binary())
        .arg("check")
        .args([&good, &guest("fickle")])
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.starts_with(&format!(
            "{}: good; it is the stream echo\n",
            good.display()
        )),
        "{said}"
    );
    // A reader may close the pipe early.
    let mut child = Command::new(binary())
        .arg("check")
        .arg(&good)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    // A single bad component makes `check` fail.
    let output = Command::new(binary())
        .arg("check")
        .args([&good, &guest("alien")])
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[tokio::test]
async fn a_core_module_of_an_sdk_is_as_good_as_a_component() {
    let module = std::fs::read(module("echo")).unwrap();
    let plugins = Plugins::empty().with_file("echo.wasm", module);
    let (code, said) = check(&plugins, "echo.wasm").await;
    assert_eq!(code, Some(0), "{said}");
    let node = Setup::new(plugins).ready().await;
    let answer = node.post("/api/echo/1").json(r#"{"a":1}"#).send().await;
    assert_eq!(
        answer.ok(),
        r#"{"echoed":{"stream":"echo","partitionKey":"1","a":1}}"#
    );
}

/// Exit code and output of `check` for an entry of the directory.
async fn check(plugins: &Plugins, name: &str) -> (Option<i32>, String) {
    let output = Command::new(binary())
        .arg("check")
        .arg(plugins.path().join(name))
        .output()
        .await
        .unwrap();
    (
        output.status.code(),
        shown(std::str::from_utf8(&output.stdout).unwrap(), plugins),
    )
}

#[tokio::test]
async fn check_says_what_is_no_plugin_file() {
    let plugins = Plugins::empty()
        .with_file("notes.txt", "hello")
        .with("echo", "echo");
    let at = |name: &str| plugins.path().join(name);
    fs::create_dir(at("folder.wasm")).unwrap();
    fs::rename(at("echo.wasm"), at("echo.WASM")).unwrap();
    symlink("releases/far.wasm", at("far.wasm")).unwrap();
    for (name, expected) in [
        (
            "notes.txt",
            "PLUGINS/notes.txt: expected a component, <stream>.wasm\n",
        ),
        (
            "missing.wasm",
            "PLUGINS/missing.wasm cannot be read: No such file or directory (os error 2)\n",
        ),
        (
            "folder.wasm",
            "PLUGINS/folder.wasm: it is a directory; a component is a file, or a link to one\n",
        ),
        (
            "echo.WASM",
            "PLUGINS/echo.WASM: it is not loaded, as a component is a file <stream>.wasm; name it echo.wasm\n",
        ),
        (
            "far.wasm",
            "PLUGINS/far.wasm: it is a link to releases/far.wasm, where there is nothing\n",
        ),
    ] {
        assert_eq!(check(&plugins, name).await, (Some(1), expected.to_owned()));
    }
}

#[tokio::test]
async fn check_warns_of_a_manifest_that_is_not_read() {
    let plugins = Plugins::usual()
        .with_file("echo.wasm.toml", "timeout_ms = 1")
        .with_file("other.toml", "");
    let good = |name: &str| format!("PLUGINS/{name}.wasm: good; it is the stream {name}\n");
    let misnamed = "warning: PLUGINS/echo.wasm.toml: it is not read, as a manifest is a file <stream>.toml; name it echo.toml\n";
    // A misnamed manifest is a warning, and only for the component beside it; those of other
    // components are not mentioned.
    assert_eq!(
        check(&plugins, "echo.wasm").await,
        (Some(0), good("echo") + misnamed)
    );
    assert_eq!(
        check(&plugins, "fickle.wasm").await,
        (Some(0), good("fickle"))
    );
}

#[tokio::test]
async fn check_looks_at_everything_in_a_directory() {
    let plugins = Plugins::usual()
        .with_file("README.md", "hello")
        .with_file("other.toml", "");
    let good = "PLUGINS/echo.wasm: good; it is the stream echo\nPLUGINS/fickle.wasm: good; it is the stream fickle\n";
    let unused =
        "warning: PLUGINS/other.toml: there is no other.wasm, whose manifest it would be\n";
    let directory = plugins.path().to_str().unwrap().to_owned();
    assert_eq!(
        check(&plugins, &directory).await,
        (Some(0), format!("{good}{unused}"))
    );
    // A single bad file makes `check` fail, whether its content or its name is bad.
    let plugins = plugins
        .with_file("bad.wasm", "hello")
        .with_file("upper.WASM", "");
    let (code, said) = check(&plugins, &directory).await;
    assert_eq!(code, Some(1));
    assert!(
        said.contains("PLUGINS/bad.wasm: it is not WebAssembly")
            && said.contains("name it upper.wasm"),
        "{said}"
    );
    assert!(said.contains(good.lines().next().unwrap()), "{said}");
    // An empty directory is an error.
    let empty = Plugins::empty();
    let expected = (
        Some(1),
        "PLUGINS: expected components, <stream>.wasm, and found none\n".to_owned(),
    );
    assert_eq!(
        check(&empty, empty.path().to_str().unwrap()).await,
        expected
    );
}

#[tokio::test]
async fn what_was_built_against_any_0_1_runs() {
    let later = handwritten::handler_against("0.1.7", handwritten::NOTHING).unwrap();
    let node = Setup::new(Plugins::empty().with_file("later.wasm", later))
        .ready()
        .await;
    assert_eq!(node.post("/api/later/1").send().await.ok(), "");
}
