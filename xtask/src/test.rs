//! All checks that CI runs, those that fail fastest first.

use anyhow::Result;

use crate::build;
use crate::setup::{self, cargo};

pub(crate) fn everything() -> Result<()> {
    setup::components()?;
    setup::run(cargo().args(["fmt", "--all", "--check"]))?;
    dependencies()?;
    build::all_guests()?;
    // One profile for everything: the tests start the host that users run, and compile it once.
    setup::run(cargo().args([
        "clippy",
        "--release",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))?;
    build::everything()?;
    setup::run(cargo().args(["test", "--release", "--workspace"]))
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
    setup::run(cargo().args(["test", "--release", "--workspace", "--test", "mesh", filter]))
}
