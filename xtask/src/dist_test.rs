//! Runs what `cargo xtask dist` has made: `cargo xtask test dist`. It needs a second build of the host, and for the image
//! Docker, so that `cargo xtask test` does not do it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::dist::{self, Docker, fresh, output};
use crate::setup::{self, command, root};

/// Longer than anything here takes on a slow machine.
const HANG: Duration = Duration::from_secs(120);

/// What Docker's own daemon is made of in Debian, for machines on which none runs.
const DAEMON: [&str; 3] = ["containerd", "docker.io", "runc"];

pub(crate) fn run() -> Result<()> {
    let daemon = Daemon::start();
    let docker = match &daemon {
        Ok(daemon) => daemon.docker.clone(),
        Err(error) => {
            println!("SKIPPED the image: {error:#} (`apt-get install docker.io` starts Docker)");
            Docker::default()
        }
    };
    dist::everything(&docker)?;
    let scratch = fresh(&root().join("target/dist-test"))?;
    let plugins = fresh(&scratch.join("plugins"))?;
    fs::copy(root().join("plugins/echo.wasm"), plugins.join("echo.wasm"))?;

    let mut sums = command("sha256sum");
    sums.args(["--check", "--quiet", "SHA256SUMS"]);
    setup::run(sums.current_dir(dist::folder()))?;
    archive(&scratch, &plugins).context("the archive")?;
    package(&scratch, &plugins).context("the package")?;
    if daemon.is_ok() {
        image(&docker, &plugins).context("the image")?;
    }
    println!("cargo xtask: everything that was made runs");
    Ok(())
}

fn archive(scratch: &Path, plugins: &Path) -> Result<()> {
    let mut tar = command("tar");
    tar.arg("--extract").arg("--file");
    tar.arg(dist::folder().join(dist::archive_name()));
    setup::run(tar.arg("--directory").arg(scratch))?;
    let unpacked = scratch.join(dist::folder_name(dist::NATIVE));
    let host = unpacked.join("meshage-host");
    // Nothing of the system is needed: it runs where there is nothing else.
    let elf = fs::read(&host)?;
    let interpreter = b"/lib64/ld-linux";
    ensure!(
        !elf.windows(interpreter.len()).any(|it| it == interpreter),
        "it needs a dynamic linker"
    );
    for (file, part) in [
        ("completions/meshage-host.bash", "--share-plugins"),
        ("completions/_meshage-host", "--share-plugins"),
        ("completions/meshage-host.fish", "share-plugins"),
        ("man/man1/meshage-host.1", "MESHAGE"),
        ("man/man1/meshage-host-state-copy.1", "to"),
        ("LICENSES-THIRD-PARTY.txt", "wasmtime"),
        ("sbom.cdx.json", "\"pkg:cargo/wasmtime@"),
        ("docs/operating.md", "systemd"),
        ("deploy/systemd/meshage.service", "Type=notify"),
        ("README.md", "meshage"),
        ("LICENSE-MIT", "MIT"),
        ("LICENSE-APACHE", "Apache"),
    ] {
        let text = fs::read_to_string(unpacked.join(file)).with_context(|| file.to_owned())?;
        ensure!(text.contains(part), "{file} has no {part}");
    }
    serves(node(&mut Command::new(&host), plugins, scratch)?)
}

fn package(scratch: &Path, plugins: &Path) -> Result<()> {
    let file = dist::folder().join(dist::package_name());
    let control = output(command("dpkg-deb").arg("--info").arg(&file))?;
    let control = String::from_utf8_lossy(&control).into_owned();
    for part in [
        "Package: meshage",
        "Depends: libc6",
        "conffiles",
        "postinst",
        "postrm",
    ] {
        ensure!(control.contains(part), "{part} is not in: {control}");
    }
    let unpacked = fresh(&scratch.join("package"))?;
    setup::run(
        command("dpkg-deb")
            .arg("--extract")
            .arg(&file)
            .arg(&unpacked),
    )?;
    for file in [
        "etc/meshage/meshage.toml",
        "usr/lib/systemd/system/meshage.service",
        "usr/share/man/man1/meshage-host.1.gz",
        "usr/share/bash-completion/completions/meshage-host",
        "usr/share/doc/meshage/LICENSES-THIRD-PARTY.txt",
    ] {
        ensure!(unpacked.join(file).is_file(), "{file} is missing");
    }
    let mut host = Command::new(unpacked.join("usr/bin/meshage-host"));
    serves(node(&mut host, plugins, scratch)?)
}

fn image(docker: &Docker, plugins: &Path) -> Result<()> {
    let name = format!("meshage-test-{}", std::process::id());
    let mut run = docker.command();
    run.args([
        "run",
        "--rm",
        "--name",
        &name,
        "--network=host",
        "--read-only",
    ]);
    run.args([
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--volume",
    ]);
    run.arg(format!("{}:/plugins:ro", plugins.display()));
    run.args(["--env", "MESHAGE_BIND=127.0.0.1", &dist::image_name()]);
    run.args(PORTS);
    let node = Node::start(&mut run)?;
    let mut health = docker.command();
    health.args(["exec", &name, "/meshage-host", "--admin-port"]);
    let healthy = output(health.arg(node.admin.to_string()).arg("health"))?;
    ensure!(healthy == b"ready\n", "{healthy:?}");
    serves(node)
}

/// Any free ports.
const PORTS: [&str; 6] = [
    "--http-port",
    "0",
    "--cluster-port",
    "0",
    "--admin-port",
    "0",
];

/// A node with these plugins.
fn node(host: &mut Command, plugins: &Path, scratch: &Path) -> Result<Node> {
    let data = fresh(&scratch.join("data"))?;
    host.args(PORTS).arg("--plugins").arg(plugins);
    host.arg("--data-dir").arg(&data).args(["--state", "none"]);
    Node::start(host)
}

/// Checks that it answers as the README says, and ends well.
fn serves(mut node: Node) -> Result<()> {
    let body = r#"{"hello":"world"}"#;
    let mut stream = TcpStream::connect(("127.0.0.1", node.http))?;
    stream.set_read_timeout(Some(HANG))?;
    write!(
        stream,
        "POST /api/echo/4985 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let expected = r#"{"echoed":{"stream":"echo","partitionKey":"4985","hello":"world"}}"#;
    ensure!(answer.ends_with(expected), "{answer}");
    node.leave()
}

/// A running node.
struct Node {
    child: Child,
    http: u16,
    admin: u16,
}

impl Node {
    /// Starts it, and waits until it says that it is ready.
    fn start(command: &mut Command) -> Result<Self> {
        let child = command
            .env("MESHAGE_LOG_FORMAT", "text")
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.with_context(|| format!("{command:?}"))?;
        let stderr = child.stderr.take().context("it is piped")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut node = Self {
            child,
            http: 0,
            admin: 0,
        };
        let mut said = String::new();
        while let Some(line) = lines.next() {
            let line = line?;
            let port = |field: &str| {
                let (_, rest) = line.split_once(&format!(" {field}="))?;
                let (address, _) = rest.split_once(' ')?;
                address.rsplit_once(':')?.1.parse().ok()
            };
            if line.contains(r#"event="starts""#) {
                node.http = port("http").context("the line has a port")?;
                node.admin = port("admin").context("the line has a port")?;
            }
            if line.contains(r#"event="ready""#) {
                // What it says from now on is taken, so that it need not wait.
                thread::spawn(move || lines.for_each(drop));
                return Ok(node);
            }
            said.push_str(&line);
            said.push('\n');
        }
        bail!("{command:?} ended before it was ready: {said}")
    }

    /// Asks it to leave, and waits until it has.
    fn leave(&mut self) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)?;
        let began = Instant::now();
        while began.elapsed() < HANG {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "it left with {status}");
                return Ok(());
            }
            sleep(Duration::from_millis(20));
        }
        bail!("it does not leave")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A daemon of Docker: the one that runs, or one that was started for this.
struct Daemon {
    docker: Docker,
    started: Option<Child>,
}

impl Daemon {
    fn start() -> Result<Self> {
        let docker = Docker::default();
        if docker.answers() {
            return Ok(Self {
                docker,
                started: None,
            });
        }
        ensure!(
            rustix::process::geteuid().is_root(),
            "no Docker daemon answers"
        );
        let folder = root().join("target/docker");
        let programs = unpack_daemon(&folder)?;
        let docker = Docker {
            host: Some(format!("unix://{}", folder.join("socket").display())),
            programs,
        };
        let mut daemon = docker.program("dockerd");
        daemon.args(["--storage-driver=vfs", "--iptables=false", "--bridge=none"]);
        daemon.arg(format!(
            "--host={}",
            docker.host.as_deref().unwrap_or_default()
        ));
        for (flag, name) in [
            ("data-root", "data"),
            ("exec-root", "run"),
            ("pidfile", "pid"),
        ] {
            daemon.arg(format!("--{flag}={}", folder.join(name).display()));
        }
        let log = fs::File::create(folder.join("log"))?;
        let started = daemon.stderr(log).spawn().context("dockerd")?;
        let mut daemon = Self {
            docker,
            started: Some(started),
        };
        let began = Instant::now();
        while !daemon.docker.answers() {
            let has_ended = match &mut daemon.started {
                Some(child) => child.try_wait()?.is_some(),
                None => false,
            };
            ensure!(
                !has_ended && began.elapsed() < HANG,
                "dockerd does not start: see {}",
                folder.join("log").display()
            );
            sleep(Duration::from_millis(100));
        }
        Ok(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.started {
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
            let _ = child.wait();
        }
    }
}

/// Downloads Debian's packages of the daemon, and unpacks them beside what is installed. Returns the folders of their programs.
fn unpack_daemon(folder: &Path) -> Result<Vec<PathBuf>> {
    let programs = ["usr/bin", "usr/sbin"].map(|it| folder.join("unpacked").join(it));
    if !programs[1].join("dockerd").exists() {
        fs::create_dir_all(folder)?;
        let mut download = command("apt-get");
        download.arg("download").args(DAEMON).current_dir(folder);
        setup::run(&mut download)?;
        for file in fs::read_dir(folder)? {
            let file = file?.path();
            if file.extension().is_some_and(|it| it == "deb") {
                let mut unpack = command("dpkg-deb");
                unpack.arg("--extract").arg(&file);
                setup::run(unpack.arg(folder.join("unpacked")))?;
            }
        }
    }
    Ok(programs.into())
}
