//! Everything that must hold, in the order in which it fails fastest.

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

/// That what is depended on is what may be, if the tool is there: `cargo install cargo-deny`. What
/// is known of holes in them needs the network, and is not looked at here.
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

/// The tests over real nodes whose names contain the filter, against what the code is now.
pub(crate) fn some(filter: &str) -> Result<()> {
    build::all_guests()?;
    build::everything()?;
    setup::run(cargo().args(["test", "--release", "--workspace", "--test", "mesh", filter]))
}
