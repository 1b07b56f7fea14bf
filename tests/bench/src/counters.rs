//! The servers of the suite `entities`: a counter for each key, whose state of about 100 bytes is
//! committed before the reply leaves.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use test_postgres::Postgres;

use crate::process::{Process, START_MAX, installed, wait_for, wait_until};
use crate::servers::{Server, local, request};

/// A server with counters.
pub(crate) struct Counters {
    pub(crate) server: Server,
    /// The path of a key's counter.
    path: fn(usize) -> String,
}

impl Counters {
    fn new(name: &str, addr: SocketAddr, processes: Vec<Process>, files: Option<TempDir>) -> Self {
        Self {
            server: Server::of(name, addr, processes, files),
            path: |key| format!("/api/counter/k{key}"),
        }
    }

    /// A request to each of `keys` counters.
    pub(crate) fn requests(&self, method: &str, keys: usize) -> Vec<Vec<u8>> {
        (0..keys)
            .map(|key| message(method, &(self.path)(key)))
            .collect()
    }
}

/// A complete request, with an empty body.
pub(crate) fn message(method: &str, path: &str) -> Vec<u8> {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
    let length = if method == "GET" {
        ""
    } else {
        "content-length: 0\r\n"
    };
    format!("{head}{length}\r\n").into_bytes()
}

/// Where a counter's state is kept.
#[derive(Clone)]
pub(crate) enum Store {
    Sqlite,
    Postgres(Arc<Database>),
}

/// A PostgreSQL server, which ends with this.
pub(crate) struct Database {
    runtime: tokio::runtime::Runtime,
    server: Arc<Postgres>,
}

impl Database {
    /// `None` if PostgreSQL is not installed.
    pub(crate) fn start() -> Result<Option<Arc<Self>>> {
        if !Postgres::is_installed() {
            return Ok(None);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let server = runtime.block_on(Postgres::start());
        Ok(Some(Arc::new(Self { runtime, server })))
    }

    /// The URL of a new database.
    fn url(&self) -> String {
        let name = self.runtime.block_on(self.server.database());
        test_postgres::url(self.server.sockets(), &name)
    }
}

impl Store {
    /// A location for `--state`.
    fn location(&self, files: &Path) -> String {
        match self {
            Self::Sqlite => format!("sqlite:{}", files.join("state.db").display()),
            Self::Postgres(database) => database.url(),
        }
    }
}

/// A node with the guests `counter` and `echo`, which has no state; on a file that is there already,
/// if one is named.
pub(crate) fn meshage(
    host: &Path,
    guests: &Path,
    store: &Store,
    file: Option<&Path>,
) -> Result<Counters> {
    let files = TempDir::new()?;
    let at = files.path();
    fs::create_dir(at.join("plugins"))?;
    for guest in ["counter.wasm", "echo.wasm"] {
        fs::copy(guests.join(guest), at.join("plugins").join(guest))?;
    }
    let location = match file {
        Some(file) => format!("sqlite:{}", file.display()),
        None => store.location(at),
    };
    let (http, admin, cluster) = (local()?, local()?, local()?);
    let mut command = Command::new(host);
    command
        .arg("--plugins")
        .arg(at.join("plugins"))
        .args(["--state", &location]);
    for (flag, addr) in [
        ("--http-port", http),
        ("--admin-port", admin),
        ("--cluster-port", cluster),
    ] {
        command.args([flag, &addr.port().to_string()]);
    }
    let process = Process::start(&mut command)?;
    let is_ready = || Ok(is_ok(admin, "/readyz"));
    wait_until(START_MAX, is_ready).context("the node does not become ready")?;
    Ok(Counters::new("meshage", http, vec![process], Some(files)))
}

/// The limit of the store: hyper, a map and one committer.
pub(crate) fn limit(store: &Store) -> Result<Counters> {
    let files = TempDir::new()?;
    let (kind, target) = match store {
        Store::Sqlite => {
            let file = files.path().join("bare.db");
            ("sqlite", file.display().to_string())
        }
        Store::Postgres(database) => ("postgres", database.url()),
    };
    bare("the store's limit", kind, &target, Some(files))
}

/// What people do today: one upsert a request.
pub(crate) fn upserts(database: &Database) -> Result<Counters> {
    bare("one upsert a request", "each", &database.url(), None)
}

fn bare(name: &str, kind: &str, target: &str, files: Option<TempDir>) -> Result<Counters> {
    let binary = std::env::current_exe()?.with_file_name("bare-counter");
    let mut command = Command::new(binary);
    command.args(["0", kind, target]);
    let (process, addr) = Process::start_and_ask(&mut command)?;
    Ok(Counters::new(name, addr, vec![process], files))
}

/// The packages of `counters/package.json`, installed by npm; `None` if there is no npm, or nothing
/// to install them from.
pub(crate) fn packages() -> Result<Option<TempDir>> {
    let (Some(npm), Some(_)) = (installed("npm"), installed("node")) else {
        return Ok(None);
    };
    let files = TempDir::new()?;
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("counters");
    for file in fs::read_dir(from)? {
        let file = file?;
        fs::copy(file.path(), files.path().join(file.file_name()))?;
    }
    let output = Command::new(npm)
        .args(["install", "--no-audit", "--no-fund", "--silent"])
        .current_dir(files.path())
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        eprintln!("npm installed nothing: {}", said.trim());
        return Ok(None);
    }
    Ok(Some(files))
}

/// workerd with its Durable Objects on its disk.
pub(crate) fn workerd(packages: &Path) -> Result<Counters> {
    let (files, addr) = (TempDir::new()?, local()?);
    let disk = files.path().join("disk");
    fs::create_dir(&disk)?;
    let config = fs::read_to_string(packages.join("workerd.capnp"))?
        .replace("$DISK", &disk.display().to_string())
        .replace("$ADDRESS", &addr.to_string());
    fs::write(files.path().join("workerd.capnp"), config)?;
    fs::copy(packages.join("workerd.js"), files.path().join("workerd.js"))?;
    let mut command = Command::new(packages.join("node_modules/.bin/workerd"));
    command.arg("serve").arg(files.path().join("workerd.capnp"));
    let process = Process::start(&mut command)?;
    wait_for(addr)?;
    Ok(Counters::new("workerd", addr, vec![process], Some(files)))
}

/// Restate with its SDK for Node.js.
pub(crate) fn restate(packages: &Path) -> Result<Counters> {
    let files = TempDir::new()?;
    let (ingress, admin, node, service) = (local()?, local()?, local()?, local()?);
    let mut script = Command::new("node");
    script
        .arg(packages.join("restate.mjs"))
        .arg(service.port().to_string());
    let script = Process::start(&mut script)?;
    wait_for(service)?;
    let mut command = Command::new(packages.join("node_modules/.bin/restate-server"));
    command
        .env("RESTATE_BASE_DIR", files.path())
        .env("RESTATE_NODE_NAME", "bench")
        .env("RESTATE_INGRESS__BIND_ADDRESS", ingress.to_string())
        .env("RESTATE_ADMIN__BIND_ADDRESS", admin.to_string())
        .env("RESTATE_BIND_ADDRESS", node.to_string())
        .env("RESTATE_DISABLE_TELEMETRY", "true");
    let server = Process::start(&mut command)?;
    let is_ready = || Ok(is_ok(admin, "/health"));
    wait_until(START_MAX, is_ready).context("Restate does not become ready")?;
    let deployment = format!(r#"{{"uri":"http://{service}"}}"#);
    let (status, said) = request(admin, "POST", "/deployments", &deployment)?;
    ensure!(status == 201, "Restate does not take the service: {said}");
    Ok(Counters {
        path: |key| format!("/counter/k{key}/add"),
        ..Counters::new("Restate", ingress, vec![server, script], Some(files))
    })
}

fn is_ok(addr: SocketAddr, path: &str) -> bool {
    request(addr, "GET", path, "").is_ok_and(|(status, _)| status == 200)
}
