//! Installs what a machine with nothing but rustup lacks: the WebAssembly target, and the tools
//! that the tests need.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

pub(crate) const GUEST_TARGET: &str = "wasm32-wasip2";

/// The target of core modules, which a test has the node make components of.
pub(crate) const MODULE_TARGET: &str = "wasm32-wasip1";

/// The folder of the SDK for JavaScript.
pub(crate) const JAVASCRIPT: &str = "guest-sdk/js";

/// The folder of the tests' handlers in JavaScript, whose packages have StarlingMonkey.
const STARLINGMONKEY: &str = "tests/javascript";

/// The folder of the SDK for Python.
const PYTHON: &str = "guest-sdk/python";

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a folder of the workspace")
}

/// Cargo, in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut cargo = command(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    // Cargo sets these variables for this program. Build scripts that read them (that of `ring`, on
    // which much depends) would take them for a change, and run again after each cargo that was
    // started by hand.
    let told = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in
        told.filter(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
    {
        cargo.env_remove(name);
    }
    cargo
}

/// Runs a command and waits for it. A status other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .collect();
    let shown = shown.join(OsStr::new(" ")).to_string_lossy().into_owned();
    let status = command
        .status()
        .with_context(|| format!("cannot run {shown}"))?;
    ensure!(status.success(), "{shown}: {status}");
    Ok(())
}

/// Installs a target of rustc, if it is missing.
pub(crate) fn target(target: &str) -> Result<()> {
    let mut rustc = command("rustc");
    let output = rustc
        .args(["--print", "target-libdir", "--target", target])
        .output()
        .context("cannot run rustc")?;
    let libraries = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if output.status.success() && libraries.is_dir() {
        return Ok(());
    }
    run(command("rustup").args(["target", "add", target]))
        .with_context(|| format!("the Rust target {target} is missing and cannot be added"))
}

/// Installs rustfmt and clippy, if they are missing.
pub(crate) fn components() -> Result<()> {
    for (component, probe) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        let found = cargo()
            .args([probe, "--version"])
            .output()
            .is_ok_and(|output| output.status.success());
        if !found {
            run(command("rustup").args(["component", "add", component]))?;
        }
    }
    Ok(())
}

/// Installs what some tests need, where that is possible. Without it they are skipped, each by name.
pub(crate) fn packages_of_tests() {
    let has_postgres = Path::new("/usr/lib/postgresql").is_dir() || answers("postgres");
    let wanted = [
        ("postgresql", has_postgres),
        ("faketime", answers("faketime")),
        ("nodejs", answers("node")),
        ("npm", answers("npm")),
        ("python3-venv", has_venv()),
        ("chromium", answers("chromium")),
        ("chromium-driver", answers("chromedriver")),
    ];
    let missing = wanted.iter().filter(|(_, is_there)| !is_there);
    let missing: Vec<&str> = missing.map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return;
    }
    if let Err(error) = apt(&missing) {
        let missing = missing.join(" and ");
        println!("{missing} cannot be installed ({error}): the tests that need it are skipped");
    }
}

/// Installs packages of Debian.
pub(crate) fn apt(packages: &[&str]) -> Result<()> {
    let mut apt = command("apt-get");
    apt.args(["install", "--yes", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    run(&mut apt)
}

/// Installs the packages of the SDK for JavaScript, if npm is there, and StarlingMonkey for the tests. `false`: there is
/// no SDK.
pub(crate) fn javascript() -> bool {
    let install = |folder: &str| {
        let mut npm = command("npm");
        npm.current_dir(root().join(folder))
            .args(["ci", "--no-audit", "--no-fund", "--silent"]);
        run(&mut npm)
    };
    if let Err(error) = install(JAVASCRIPT) {
        println!("SKIPPED the tests of JavaScript: `npm ci` in {JAVASCRIPT} failed ({error})");
        return false;
    }
    if let Err(error) = install(STARLINGMONKEY) {
        println!(
            "SKIPPED the tests of StarlingMonkey: `npm ci` in {STARLINGMONKEY} failed ({error})"
        );
    }
    true
}

/// What checks files for Kubernetes by its schemas.
const KUBERNETES_VALIDATE: &str = "kubernetes-validate==1.37.0";

/// Makes the environment in which the tests build handlers in Python, if Python is there.
pub(crate) fn python() {
    const FOLDER: &str = "target/python";
    let needed = || -> Result<()> {
        let project = std::fs::read_to_string(root().join(PYTHON).join("pyproject.toml"))?;
        let needed: Vec<_> = project
            .split('"')
            .filter(|text| text.contains("=="))
            .collect();
        ensure!(!needed.is_empty(), "pyproject.toml names no packages");
        python_packages(FOLDER, &needed).map(drop)
    };
    if let Err(error) = needed() {
        println!("SKIPPED the tests of Python: componentize-py cannot be installed ({error:#})");
        return;
    }
    if let Err(error) = python_packages(FOLDER, &[KUBERNETES_VALIDATE]) {
        println!(
            "SKIPPED the tests of deploy/kubernetes: {KUBERNETES_VALIDATE} cannot be installed ({error:#})"
        );
    }
}

/// Installs packages of PyPI into an environment of their own, whose folder this returns.
pub(crate) fn python_packages(folder: &str, packages: &[&str]) -> Result<PathBuf> {
    let folder = root().join(folder);
    let pip = folder.join("bin/pip");
    if !pip.exists() {
        run(command("python3").args(["-m", "venv"]).arg(&folder))?;
    }
    let mut pip = command(&pip.display().to_string());
    pip.args(["install", "--quiet", "--disable-pip-version-check"]);
    run(pip.args(packages))?;
    Ok(folder)
}

/// Whether Python can make environments with pip in them.
fn has_venv() -> bool {
    let asked = command("python3").args(["-c", "import ensurepip"]).output();
    asked.is_ok_and(|output| output.status.success())
}

/// Whether a program is there.
fn answers(program: &str) -> bool {
    let asked = command(program).arg("--version").output();
    asked.is_ok_and(|output| output.status.success())
}

pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}
