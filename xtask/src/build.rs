//! Builds the host and the guests. Cargo decides what is stale; building twice does nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::{self, GUEST_TARGET, MODULE_TARGET, cargo, root};

/// The example plugins: they go into `plugins/`.
const PLUGINS: [&str; 5] = ["account", "cart", "echo", "orders", "transfer"];

/// The guests of the tests: they stay where cargo puts them.
const TEST_GUESTS: [&str; 6] = ["alien", "caller", "fickle", "journal", "site", "visits"];

/// Guests that benchmarks run beside the example plugins, on our host and on others.
const BENCH_GUESTS: [&str; 4] = ["body-echo", "counter", "http-echo", "http-echo-p3"];

/// Builds the host and the example plugins. `--workspace` gives dependencies the same features as
/// in the tests, so that both share what is compiled.
pub(crate) fn everything() -> Result<()> {
    guests(&PLUGINS)?;
    setup::run(cargo().args(["build", "--release", "--workspace", "--bin", "meshage-host"]))
}

/// Builds the example plugins and the guests of the tests.
pub(crate) fn all_guests() -> Result<()> {
    let all: Vec<&str> = PLUGINS.into_iter().chain(TEST_GUESTS).collect();
    guests(&all)?;
    compile(&["echo"], MODULE_TARGET)
}

/// Builds the guests of the benchmarks and the example plugins. Returns the directory that cargo
/// puts them into.
pub(crate) fn bench_guests() -> Result<PathBuf> {
    let all: Vec<&str> = PLUGINS.into_iter().chain(BENCH_GUESTS).collect();
    guests(&all)?;
    Ok(built())
}

/// The host as [`everything`] builds it: in the directory of this binary, wherever the target
/// directory is.
pub(crate) fn host_binary() -> Result<PathBuf> {
    Ok(std::env::current_exe()
        .context("where is this binary?")?
        .with_file_name("meshage-host"))
}

/// Builds HTTP handlers that are written with the SDKs of others; they are a workspace of their own.
pub(crate) fn others(flags: &[&str]) -> Result<()> {
    let mut build = guest_cargo(GUEST_TARGET)?;
    build
        .current_dir(root().join("tests/others"))
        .args(flags)
        .arg("--target-dir")
        .arg(root().join("target/others"));
    setup::run(&mut build)
}

/// Builds guests, and puts the example plugins where they belong.
fn guests(packages: &[&str]) -> Result<()> {
    compile(packages, GUEST_TARGET)?;
    for plugin in PLUGINS.iter().filter(|plugin| packages.contains(plugin)) {
        install(
            &built().join(format!("{plugin}.wasm")),
            &root().join(format!("plugins/{plugin}.wasm")),
        )?;
    }
    Ok(())
}

/// Compiles guests with one call of cargo. It has its own target directory, so that it does not wait
/// for the lock of the cargo that runs this.
fn compile(packages: &[&str], target: &str) -> Result<()> {
    let mut build = guest_cargo(target)?;
    build
        .args(["--profile", "guest", "--target-dir"])
        .arg(root().join("target/guests"));
    for package in packages {
        build.args(["--package", package]);
    }
    setup::run(&mut build)
}

/// `cargo build` for a target of WebAssembly, which is installed if it is missing.
fn guest_cargo(target: &str) -> Result<Command> {
    setup::target(target)?;
    let mut build = cargo();
    // Flags for this machine's processor mean nothing to WebAssembly.
    build
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", "")
        .env_remove("CARGO_BUILD_TARGET");
    build.args(["build", "--target", target]);
    Ok(build)
}

fn built() -> PathBuf {
    root().join(format!("target/guests/{GUEST_TARGET}/guest"))
}

/// Replaces a file with a rename, as a node may be watching the directory. Does nothing if the
/// content is the same.
fn install(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("{} was not built", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let beside = to.with_extension("wasm.new");
    fs::write(&beside, new)
        .and_then(|()| fs::rename(&beside, to))
        .with_context(|| format!("cannot write {}", to.display()))
}
