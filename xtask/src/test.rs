//! All checks that CI runs, those that fail fastest first.

use std::thread::available_parallelism;

use anyhow::Result;

use crate::build;
use crate::setup::{self, cargo};

pub(crate) fn everything() -> Result<()> {
    setup::components()?;
    setup::run(cargo().args(["fmt", "--all", "--check"]))?;
    dependencies()?;
    build::all_guests()?;
    // The release profile for everything, so that dependencies are compiled once; nodes in tests are
    // the host that users run.
    setup::run(cargo().args([
        "clippy",
        "--release",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))?;
    unit_tests()?;
    build::everything()?;
    integration_tests(None)?;
    setup::run(cargo().args(["test", "--release", "--workspace", "--doc"]))
}

/// The host is compiled without optimization for its unit tests: with it, that takes two minutes.
fn unit_tests() -> Result<()> {
    setup::run(cargo().args([
        "test",
        "--release",
        "--workspace",
        "--lib",
        "--bins",
        "--config",
        "profile.release.package.meshage-host.opt-level=0",
        "--config",
        "profile.release.package.meshage-host.codegen-units=16",
    ]))
}

/// Tests over real nodes, and those of other crates. They mostly wait, for clocks and for each other:
/// two for each core leave time to spare.
fn integration_tests(filter: Option<&str>) -> Result<()> {
    let threads = 2 * available_parallelism()?.get();
    let mut tests = cargo();
    tests.args(["test", "--release", "--workspace"]);
    match filter {
        Some(filter) => tests.args(["--test", "mesh", filter]),
        None => tests.args(["--test", "*"]),
    };
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        tests.env("RUST_TEST_THREADS", threads.to_string());
    }
    setup::run(&mut tests)
}

/// Checks the dependencies against `deny.toml`, if the tool is there: `cargo install cargo-deny`.
/// Known vulnerabilities are not checked here, as that needs the network.
fn dependencies() -> Result<()> {
    if !cargo()
        .args(["deny", "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        println!("cargo-deny is not installed: deny.toml is not checked");
        return Ok(());
    }
    setup::run(cargo().args([
        "deny",
        "--log-level",
        "error",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))
}

/// Builds the current code, and runs the tests over real nodes whose names contain the filter.
pub(crate) fn some(filter: &str) -> Result<()> {
    build::all_guests()?;
    build::everything()?;
    integration_tests(Some(filter))
}
