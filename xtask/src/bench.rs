//! Builds the host, the guests and the benchmark program, and runs it.

use anyhow::Result;

use crate::build;
use crate::setup::{self, cargo, root};

/// Runs all suites and writes `docs/performance.md`. With the names of suites, runs only those, and
/// writes nothing.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let guests = build::bench_guests()?;
    build::others(&["--release"])?;
    setup::javascript();
    setup::python();
    build::everything()?;
    setup::run(cargo().args([
        "build",
        "--release",
        "--workspace",
        "--bin",
        "meshage-bench",
    ]))?;
    let host = build::host_binary()?;
    let mut bench = setup::command(&host.with_file_name("meshage-bench").display().to_string());
    setup::run(
        bench
            .arg(host)
            .arg(guests)
            .arg(root().join("docs/performance.md"))
            .args(arguments),
    )
}
