//! Builds, runs and tests meshage, with all set-up that a fresh machine needs: `cargo xtask`.

mod bench;
mod build;
mod dist;
mod dist_test;
mod mesh;
mod setup;
mod test;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask build    build target/release/meshage-host and plugins/*.wasm
cargo xtask run      build, and start a two-node mesh with the example plugins
cargo xtask bench    measure it beside what others use, and write docs/performance.md (some minutes)
cargo xtask dist     what is handed out: archives, a package for Debian, an image, in target/distrib (some minutes)
cargo xtask test     everything that must hold: format, clippy, all tests
cargo xtask test X   build, and the tests over real nodes whose names contain X
cargo xtask test dist   `cargo xtask dist`, and run each of what it made
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["build"] => build::everything(),
        ["run"] => mesh::run(),
        ["bench", arguments @ ..] => bench::run(arguments),
        ["dist"] => dist::everything(&dist::Docker::default()),
        ["test"] => test::everything(),
        ["test", "dist"] => dist_test::run(),
        ["test", filter] => test::some(filter),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        other => {
            eprint!("unknown: {}\n\n{USAGE}", other.join(" "));
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
