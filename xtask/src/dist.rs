//! Makes what is handed out: `cargo xtask dist`. Everything lands in `target/distrib` (`target/dist` is cargo's), whose `SHA256SUMS` names it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::build;
use crate::setup::{self, cargo, command, root};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The static binary runs on any Linux of its processor.
pub(crate) const NATIVE: &str = "x86_64-unknown-linux-musl";
const ARM: &str = "aarch64-unknown-linux-musl";

/// What is built with, each as `cargo install` has it.
const TOOLS: [(&str, &[&str]); 3] = [
    ("cargo-about@0.9.3", &["--features", "cli"]),
    ("cargo-cyclonedx@0.5.9", &[]),
    ("cargo-deb@3.8.0", &[]),
];

/// What builds C for other processors.
const ZIG: [&str; 2] = ["cargo-zigbuild==0.23.0", "ziglang==0.15.2"];

/// What the archive, and the package's `/usr/share/doc`, have of the repository.
const DOCUMENTS: [&str; 7] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
];

const FOLDERS: [&str; 4] = ["docs", "deploy", "wit", "plugins"];

/// Makes the archives, the package, and the image where Docker is.
pub(crate) fn everything(docker: &Docker) -> Result<()> {
    tools()?;
    // The host of the package, and the examples.
    build::everything()?;
    let dist = fresh(&folder())?;
    let host = static_host(NATIVE)?;
    let common = common(&host)?;
    archive(&dist, &common, &host, NATIVE)?;
    match arm_host() {
        Ok(host) => archive(&dist, &common, &host, ARM)?,
        Err(error) => println!("SKIPPED the archive for {ARM}: {error:#}"),
    }
    package(&dist, &common)?;
    let context = image_context(&host)?;
    match image(docker, &dist, &context) {
        Ok(()) => {}
        Err(error) => println!(
            "SKIPPED the image ({error:#}): `docker build {}` makes it",
            context.display()
        ),
    }
    checksums(&dist)
}

/// Where everything lands.
pub(crate) fn folder() -> PathBuf {
    root().join("target/distrib")
}

/// The name of the image.
pub(crate) fn image_name() -> String {
    format!("meshage:{VERSION}")
}

/// The archive of the static binary for this machine's processor.
pub(crate) fn archive_name() -> String {
    format!("{}.tar.gz", folder_name(NATIVE))
}

pub(crate) fn package_name() -> String {
    format!("meshage_{VERSION}-1_amd64.deb")
}

pub(crate) fn folder_name(target: &str) -> String {
    format!("meshage-{VERSION}-{target}")
}

/// Installs what is missing of the tools.
fn tools() -> Result<()> {
    for (tool, features) in TOOLS {
        let (name, _) = tool.split_once('@').expect("a version");
        if tool_path(name).exists() {
            continue;
        }
        let mut install = cargo();
        install.args(["install", "--locked", "--quiet", "--root"]);
        install.arg(tools_folder()).arg("--target-dir");
        install.arg(tools_folder().join("build")).arg(tool);
        setup::run(install.args(features))?;
    }
    Ok(())
}

fn tools_folder() -> PathBuf {
    root().join("target/tools")
}

fn tool_path(name: &str) -> PathBuf {
    tools_folder().join("bin").join(name)
}

/// A subcommand of cargo that [`tools`] has installed.
fn tool(name: &str) -> Command {
    let mut tool = command(&tool_path(&format!("cargo-{name}")).display().to_string());
    tool.arg(name);
    tool
}

/// Builds the host without any library of the system.
fn static_host(target: &str) -> Result<PathBuf> {
    setup::target(target)?;
    if command("musl-gcc").arg("--version").output().is_err() {
        setup::apt(&["musl-tools"])?;
    }
    setup::run(cargo().args(host_build("build", target)))?;
    Ok(built(target))
}

/// The same for aarch64, with a C compiler from PyPI that makes code for any processor.
fn arm_host() -> Result<PathBuf> {
    setup::target(ARM)?;
    let zig = setup::python_packages("target/zig", &ZIG)?;
    let mut build = cargo();
    let mut path = vec![zig.join("bin")];
    path.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    build
        .args(host_build("zigbuild", ARM))
        .env("PATH", std::env::join_paths(path)?);
    setup::run(&mut build)?;
    Ok(built(ARM))
}

fn host_build<'a>(command: &'a str, target: &'a str) -> [&'a str; 7] {
    [
        command,
        "--profile",
        "dist",
        "--package",
        "meshage-host",
        "--target",
        target,
    ]
}

fn built(target: &str) -> PathBuf {
    root().join(format!("target/{target}/dist/meshage-host"))
}

/// What every archive and package has besides the binary: documents, licences, the bill of materials, completions and manual
/// pages, which the binary itself writes.
fn common(host: &Path) -> Result<PathBuf> {
    let common = fresh(&root().join("target/dist-common"))?;
    for document in DOCUMENTS {
        copy(&root().join(document), &common.join(document))?;
    }
    for folder in FOLDERS {
        setup::run(command("cp").arg("-r").arg(folder).arg(common.join(folder)))?;
    }
    let completions = fresh(&common.join("completions"))?;
    for (shell, file) in [
        ("bash", "meshage-host.bash"),
        ("zsh", "_meshage-host"),
        ("fish", "meshage-host.fish"),
    ] {
        let script = output(Command::new(host).args(["completions", shell]))?;
        fs::write(completions.join(file), script)?;
    }
    let manual = fresh(&common.join("man/man1"))?;
    output(Command::new(host).arg("manual").arg(&manual))?;

    let mut licences = tool("about");
    licences.args(["generate", "--fail", "--config", "xtask/dist/about.toml"]);
    licences.args(["--manifest-path", "host/Cargo.toml", "--output-file"]);
    licences.arg(common.join("LICENSES-THIRD-PARTY.txt"));
    setup::run(licences.arg("xtask/dist/text.hbs"))?;

    let mut materials = tool("cyclonedx");
    materials.args(["--manifest-path", "host/Cargo.toml", "--format", "json"]);
    materials.args(["--spec-version", "1.5", "--target", NATIVE, "--quiet"]);
    materials.args(["--override-filename", "sbom"]);
    materials.env("SOURCE_DATE_EPOCH", epoch()?);
    setup::run(&mut materials)?;
    let made = root().join("host/sbom.json");
    // It says where this machine has the sources.
    let text = fs::read_to_string(&made)?.replace(&root().display().to_string(), "");
    fs::write(common.join("sbom.cdx.json"), text)?;
    fs::remove_file(made)?;
    Ok(common)
}

/// Packs a folder with the binary. The same sources make the same archive: files have the commit's time, and no owner.
fn archive(dist: &Path, common: &Path, host: &Path, target: &str) -> Result<()> {
    let name = folder_name(target);
    let folder = dist.join(&name);
    setup::run(command("cp").arg("-r").arg(common).arg(&folder))?;
    copy(host, &folder.join("meshage-host"))?;
    let mut tar = command("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    tar.arg(format!("--mtime=@{}", epoch()?)).arg("--create");
    tar.args(["--use-compress-program=gzip --no-name --best", "--file"]);
    tar.arg(dist.join(format!("{name}.tar.gz")));
    setup::run(tar.arg("--directory").arg(dist).arg(&name))?;
    fs::remove_dir_all(folder)?;
    Ok(())
}

/// The package for Debian has the binary that the tests run, which uses the system's C library.
fn package(dist: &Path, common: &Path) -> Result<()> {
    let staged = fresh(&root().join("target/dist-package"))?;
    let host = staged.join("meshage-host");
    copy(&build::host_binary()?, &host)?;
    setup::run(command("strip").arg(&host))?;
    for page in fs::read_dir(common.join("man/man1"))? {
        setup::run(
            command("gzip")
                .args(["--no-name", "--best", "--keep", "--force"])
                .arg(page?.path()),
        )?;
    }
    let mut deb = tool("deb");
    deb.args([
        "--no-build",
        "--no-strip",
        "--package",
        "meshage-host",
        "--output",
    ]);
    setup::run(deb.arg(dist).env("SOURCE_DATE_EPOCH", epoch()?))
}

/// Puts together what `docker build` needs.
fn image_context(host: &Path) -> Result<PathBuf> {
    let context = fresh(&root().join("target/dist-image"))?;
    copy(host, &context.join("meshage-host"))?;
    copy(
        &root().join("deploy/image/Dockerfile"),
        &context.join("Dockerfile"),
    )?;
    fs::create_dir(context.join("data"))?;
    Ok(context)
}

/// Builds the image with the Docker that is there, and saves it.
fn image(docker: &Docker, dist: &Path, context: &Path) -> Result<()> {
    ensure!(docker.answers(), "no Docker daemon answers");
    let mut build = docker.command();
    build.args(["build", "--network=host", "--tag", &image_name()]);
    build.args(["--build-arg", &format!("VERSION={VERSION}")]);
    build.args(["--build-arg", &format!("REVISION={}", revision()?)]);
    setup::run(build.arg(context))?;
    let file = dist.join(format!("meshage-{VERSION}-image.tar"));
    let mut save = docker.command();
    setup::run(save.args(["save", &image_name(), "--output"]).arg(&file))?;
    setup::run(command("gzip").args(["--no-name", "--best"]).arg(&file))
}

/// Docker: by default, as it is installed.
#[derive(Default, Clone)]
pub(crate) struct Docker {
    /// Where the daemon listens.
    pub(crate) host: Option<String>,
    /// Folders of its programs, before those of the `PATH`.
    pub(crate) programs: Vec<PathBuf>,
}

impl Docker {
    pub(crate) fn command(&self) -> Command {
        self.program("docker")
    }

    pub(crate) fn program(&self, name: &str) -> Command {
        let beside = self.programs.iter().map(|folder| folder.join(name));
        let found = beside.into_iter().find(|program| program.exists());
        let mut program = match found {
            Some(program) => command(&program.display().to_string()),
            None => command(name),
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = self.programs.iter().cloned();
        if let Ok(path) = std::env::join_paths(folders.chain(std::env::split_paths(&path))) {
            program.env("PATH", path);
        }
        if let Some(host) = &self.host {
            program.env("DOCKER_HOST", host);
        }
        program
    }

    pub(crate) fn answers(&self) -> bool {
        let info = self.command().arg("info").output();
        info.is_ok_and(|info| info.status.success())
    }
}

/// Writes `SHA256SUMS`.
fn checksums(dist: &Path) -> Result<()> {
    let names = fs::read_dir(dist)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<Vec<_>>>()?;
    let mut sum = command("sha256sum");
    let sums = output(sum.current_dir(dist).args(names))?;
    fs::write(dist.join("SHA256SUMS"), &sums)?;
    println!("{}:\n{}", dist.display(), String::from_utf8_lossy(&sums));
    Ok(())
}

/// The time of the commit, in seconds since 1970.
fn epoch() -> Result<String> {
    git(&["log", "-1", "--format=%ct"])
}

fn revision() -> Result<String> {
    git(&["rev-parse", "HEAD"])
}

fn git(arguments: &[&str]) -> Result<String> {
    let told = output(command("git").args(arguments))?;
    Ok(String::from_utf8(told)?.trim().to_owned())
}

/// What a command writes to stdout.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

/// An empty folder.
pub(crate) fn fresh(folder: &Path) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    Ok(folder.to_owned())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}
