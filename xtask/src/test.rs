//! Everything that must hold, in the order in which it fails fastest.

use anyhow::Result;

use crate::build;
use crate::setup::{self, cargo};

pub(crate) fn everything() -> Result<()> {
    setup::components()?;
    setup::run(cargo().args(["fmt", "--all", "--check"]))?;
    build::all_guests()?;
    // One profile for everything: the tests start the host that users run, and compile it once.
    setup::run(cargo().args(["clippy", "--release", "--workspace", "--all-targets", "--", "--deny", "warnings"]))?;
    build::everything()?;
    setup::run(cargo().args(["test", "--release", "--workspace"]))
}

/// The tests over real nodes whose names contain the filter, against what the code is now.
pub(crate) fn some(filter: &str) -> Result<()> {
    build::all_guests()?;
    build::everything()?;
    setup::run(cargo().args(["test", "--release", "--package", "meshage-tests", filter]))
}
