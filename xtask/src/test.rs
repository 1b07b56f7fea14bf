//! All checks that CI runs, those that fail fastest first.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::{self, available_parallelism};
use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::build;
use crate::setup::{self, cargo};

pub(crate) fn everything() -> Result<()> {
    step("set-up", || {
        setup::components()?;
        setup::packages_of_tests();
        setup::run(cargo().args(["fmt", "--all", "--check"]))?;
        dependencies()
    })?;
    step("guests", build::all_guests)?;
    // Dependencies are compiled once, for all that follows.
    step("lints", lints)?;
    let unit_tests = unit_tests()?;
    // The host is compiled by one core, for the most part.
    thread::scope(|scope| {
        let others = scope.spawn(|| {
            step("unit tests", || run_all(&unit_tests))?;
            step("other languages and SDKs", other_languages)?;
            step("packages of the SDK for Rust", packages)
        });
        step("host", build::everything)?;
        others.join().expect("it does not panic")
    })?;
    step("tests over real nodes", || integration_tests(None))?;
    step("tests of documents", || {
        setup::run(cargo().args(["test", "--release", "--workspace", "--doc"]))
    })
}

/// Does one step, and tells how long it took.
fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    work()?;
    println!("cargo xtask: {name}: {} s", began.elapsed().as_secs());
    Ok(())
}

/// What handlers of the tests are built with, besides the SDK for Rust, and the tests of these SDKs themselves.
fn other_languages() -> Result<()> {
    build::others(&[])?;
    setup::python();
    if setup::javascript() {
        setup::run(npm().args(["test", "--silent"]))?;
    }
    Ok(())
}

/// Makes the crates of the SDK as they would be published. They have a target directory of their own, for the same reason as
/// guests.
fn packages() -> Result<()> {
    let mut package = cargo();
    // That they stand alone the test of a new project shows, which has their files.
    package.args([
        "package",
        "--quiet",
        "--allow-dirty",
        "--no-verify",
        "--target-dir",
    ]);
    package.arg(setup::root().join("target/packages"));
    for name in ["meshage-sdk-macros", "meshage-sdk"] {
        package.args(["--package", name]);
    }
    setup::run(&mut package)
}

/// npm, in the folder of the SDK for JavaScript.
fn npm() -> Command {
    let mut npm = setup::command("npm");
    npm.current_dir(setup::root().join(setup::JAVASCRIPT));
    npm
}

/// Compiles everything with clippy's compiler, warnings denied. `cargo clippy` would look at each dependency anew, which takes
/// minutes where nothing is compiled yet. The crates of the workspace are not optimized here: that takes minutes, too, and
/// what users run is compiled for the tests over real nodes.
fn lints() -> Result<()> {
    setup::run(linted().args(["--all-targets", "--no-run"]))
}

fn linted() -> Command {
    let mut command = cargo();
    // As `cargo clippy` calls it.
    command
        .env("RUSTC_WORKSPACE_WRAPPER", "clippy-driver")
        .env("CLIPPY_ARGS", "--deny__CLIPPY_HACKERY__warnings");
    command.args(["test", "--release", "--workspace"]);
    for package in ["meshage-host", "meshage-bench"] {
        for setting in ["opt-level=0", "codegen-units=16"] {
            let setting = format!("profile.release.package.{package}.{setting}");
            command.args(["--config", &setting]);
        }
    }
    command
}

/// The unit tests that the lints have compiled, each with the folder of its package. They run without cargo, which would wait for
/// the one that compiles the host.
fn unit_tests() -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut tests = linted();
    tests.args(["--lib", "--bins", "--no-run", "--message-format=json"]);
    let told = tests.stderr(Stdio::null()).output()?;
    ensure!(told.status.success(), "unit tests: {}", told.status);
    let told = String::from_utf8_lossy(&told.stdout);
    let told = told
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let path = |value: &Value| value.as_str().map(PathBuf::from);
    Ok(told
        .filter_map(|told| {
            let manifest = path(&told["manifest_path"])?;
            let is_test = told["profile"]["test"] == true;
            is_test.then_some((path(&told["executable"])?, manifest.parent()?.to_owned()))
        })
        .collect())
}

fn run_all(tests: &[(PathBuf, PathBuf)]) -> Result<()> {
    for (test, package) in tests {
        setup::run(Command::new(test).arg("--quiet").current_dir(package))?;
    }
    Ok(())
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
    build::others(&[])?;
    build::everything()?;
    setup::javascript();
    setup::python();
    integration_tests(Some(filter))
}
