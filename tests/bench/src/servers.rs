//! The measured servers: meshes of nodes, and alternatives that people would pick instead.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::process::{Process, START_MAX, free_port, installed, wait_for, wait_until};

/// Number of keys that requests cycle through, all of the same owner.
const KEYS: usize = 64;

/// A measured server.
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) addr: SocketAddr,
    /// Paths of the requests to it, used round robin.
    pub(crate) paths: Vec<String>,
    /// In the order in which a message passes through them.
    pub(crate) processes: Vec<Process>,
    /// Content of its configuration file, if it has one.
    config: Option<String>,
    /// Deleted with the server.
    files: Option<TempDir>,
}

/// How a mesh is started.
#[derive(Clone)]
pub(crate) struct MeshOptions {
    pub(crate) nodes: usize,
    pub(crate) secret: bool,
    /// The component that is offered as `echo`, and its manifest.
    pub(crate) component: PathBuf,
    pub(crate) manifest: &'static str,
    pub(crate) copies: usize,
    /// Runs under callgrind, which counts only once it is switched on.
    pub(crate) counted: bool,
    /// Keeps the state of entities in a file of SQLite.
    pub(crate) with_state: bool,
}

/// The running nodes of a mesh, and their addresses.
pub(crate) struct Mesh {
    pub(crate) processes: Vec<Process>,
    pub(crate) http: Vec<SocketAddr>,
    admin: Vec<SocketAddr>,
    pub(crate) files: TempDir,
    options: MeshOptions,
}

impl Mesh {
    pub(crate) fn start(host: &Path, options: MeshOptions) -> Result<Self> {
        let files = TempDir::new()?;
        let plugins = files.path().join("plugins");
        fs::create_dir(&plugins)?;
        for copy in 0..options.copies {
            let name = if copy == 0 {
                "echo".to_owned()
            } else {
                format!("echo-{copy}")
            };
            fs::copy(&options.component, plugins.join(format!("{name}.wasm")))?;
            fs::write(plugins.join(format!("{name}.toml")), options.manifest)?;
        }
        let secret = files.path().join("secret");
        fs::write(&secret, Command::new(host).arg("secret").output()?.stdout)?;
        fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Self::start_in(files, host, options)
    }

    /// Stops the mesh and keeps its files.
    pub(crate) fn stop(self) -> (TempDir, MeshOptions) {
        (self.files, self.options)
    }

    /// Starts a mesh with the files of a stopped one.
    pub(crate) fn start_in(files: TempDir, host: &Path, options: MeshOptions) -> Result<Self> {
        let (plugins, secret) = (files.path().join("plugins"), files.path().join("secret"));
        let cluster: Vec<SocketAddr> =
            (0..options.nodes).map(|_| local()).collect::<Result<_>>()?;
        let mut mesh = Self {
            processes: Vec::new(),
            http: Vec::new(),
            admin: Vec::new(),
            files,
            options: options.clone(),
        };
        for number in 0..options.nodes {
            let (http, admin) = (local()?, local()?);
            let mut command = if options.counted {
                callgrind(mesh.files.path(), host)
            } else {
                Command::new(host)
            };
            let path = std::env::var_os("PATH").unwrap_or_default();
            command
                .env_clear()
                .env("PATH", path)
                .arg("--plugins")
                .arg(&plugins)
                .arg("--data-dir")
                .arg(mesh.files.path().join("data"));
            command.args([
                "--http-port",
                &http.port().to_string(),
                "--admin-port",
                &admin.port().to_string(),
            ]);
            command.args([
                "--cluster-port",
                &cluster[number].port().to_string(),
                "--node-id",
                &format!("n{}", number + 1),
            ]);
            command.args([
                "--seeds",
                &cluster[..number]
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(","),
            ]);
            if options.with_state {
                let file = mesh.files.path().join("state.db");
                command.args(["--state", &format!("sqlite:{}", file.display())]);
            }
            if options.secret {
                command.arg("--secret-file").arg(&secret);
            }
            mesh.processes.push(Process::start(&mut command)?);
            mesh.http.push(http);
            mesh.admin.push(admin);
            wait_until(START_MAX, || {
                Ok(mesh
                    .get(number, "/readyz")
                    .is_ok_and(|(status, _)| status == 200))
            })
            .context("a node does not become ready")?;
        }
        wait_until(START_MAX, || mesh.all_see_all()).context("the nodes do not see each other")?;
        Ok(mesh)
    }

    fn all_see_all(&self) -> Result<bool> {
        for node in 0..self.processes.len() {
            let (_, cluster) = self.get(node, "/cluster")?;
            let cluster: serde_json::Value = serde_json::from_str(&cluster)?;
            let nodes = cluster["nodes"].as_array().context("no nodes")?;
            let ready = nodes.iter().filter(|node| node["state"] == "ready").count();
            if ready != self.processes.len() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// GETs a path of a node's admin API.
    pub(crate) fn get(&self, node: usize, path: &str) -> Result<(u16, String)> {
        request(self.admin[node], "GET", path, "")
    }

    /// Paths of `KEYS` keys that a node owns.
    pub(crate) fn paths_of(&self, owner: usize) -> Result<Vec<String>> {
        let mut paths = Vec::new();
        for key in 0..100 * KEYS {
            let (_, said) = self.get(0, &format!("/cluster/owner/echo/k{key}"))?;
            let said: serde_json::Value = serde_json::from_str(&said)?;
            if said["owner"] == format!("n{}", owner + 1) {
                paths.push(format!("/api/echo/k{key}"));
            }
            if paths.len() == KEYS {
                return Ok(paths);
            }
        }
        bail!("n{} owns too few keys", owner + 1)
    }

    /// The mesh as a server: requests go to the first node, for keys that node `owner` owns.
    pub(crate) fn into_server(self, name: &str, owner: usize) -> Result<Server> {
        let paths = self.paths_of(owner)?;
        Ok(self.with_paths(name, paths))
    }

    pub(crate) fn into_broadcast(self, name: &str) -> Server {
        self.with_paths(name, vec!["/api/broadcast/echo/k".to_owned()])
    }

    fn with_paths(self, name: &str, paths: Vec<String>) -> Server {
        let (addr, processes, files) = (self.http[0], self.processes, Some(self.files));
        Server {
            name: name.to_owned(),
            addr,
            paths,
            processes,
            config: None,
            files,
        }
    }
}

impl Server {
    /// A server without a configuration file, to which requests are made elsewhere.
    pub(crate) fn of(
        name: &str,
        addr: SocketAddr,
        processes: Vec<Process>,
        files: Option<TempDir>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            addr,
            paths: Vec::new(),
            processes,
            config: None,
            files,
        }
    }

    /// CPU time of each of its processes so far.
    pub(crate) fn cpu(&self) -> Result<Vec<Duration>> {
        self.processes.iter().map(Process::cpu).collect()
    }

    pub(crate) fn files(&self) -> Option<&Path> {
        self.files.as_ref().map(TempDir::path)
    }

    /// How it was started, as a code block of a document. Paths that differ from run to run are
    /// replaced by a name.
    pub(crate) fn commands(&self) -> String {
        let lines = self
            .processes
            .iter()
            .map(|process| process.command.as_str())
            .chain(self.config.as_deref());
        let mut text = lines.collect::<Vec<_>>().join("\n");
        if let Some(files) = self.files() {
            text = text.replace(&files.display().to_string(), "$FILES");
        }
        format!("{}:\n\n```text\n{}\n```\n", self.name, text.trim_end())
    }
}

fn callgrind(files: &Path, host: &Path) -> Command {
    let mut command = Command::new("valgrind");
    let out = files.join("callgrind.%p");
    command
        .args(["--tool=callgrind", "--instr-atstart=no"])
        .arg(format!("--callgrind-out-file={}", out.display()));
    command.arg(host);
    command
}

/// Name of the file that callgrind writes for a process.
pub(crate) fn callgrind_file(process: u32) -> String {
    format!("callgrind.{process}")
}

pub(crate) fn bare_hyper() -> Result<Server> {
    let binary = std::env::current_exe()?.with_file_name("bare-hyper");
    let (process, addr) = Process::start_and_ask(&mut Command::new(binary))?;
    Ok(Server {
        name: "bare hyper".into(),
        addr,
        paths: paths(),
        processes: vec![process],
        config: None,
        files: None,
    })
}

/// HAProxy with a consistent hash, in front of bare hyper; `None` if it is not installed.
pub(crate) fn haproxy() -> Result<Option<Server>> {
    let Some(haproxy) = installed("haproxy") else {
        return Ok(None);
    };
    let (files, bare, addr) = (TempDir::new()?, bare_hyper()?, local()?);
    let config = format!(
        "defaults\n mode http\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n http-reuse always\n\
         frontend f\n bind {addr}\n default_backend b\n\
         backend b\n balance uri\n hash-type consistent\n server s {}\n",
        bare.addr
    );
    let file = files.path().join("haproxy.cfg");
    fs::write(&file, &config)?;
    let process = Process::start(Command::new(haproxy).arg("-db").arg("-f").arg(&file))?;
    behind(
        bare,
        "HAProxy in front of bare hyper",
        addr,
        process,
        config,
        files,
    )
    .map(Some)
}

/// nginx, likewise.
pub(crate) fn nginx() -> Result<Option<Server>> {
    let Some(nginx) = installed("nginx") else {
        return Ok(None);
    };
    let (files, bare, addr) = (TempDir::new()?, bare_hyper()?, local()?);
    let at = files.path().display().to_string();
    let config = format!(
        "daemon off; worker_processes auto; pid {at}/pid; error_log {at}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; \
         fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s; client_max_body_size 2m; \
         client_body_buffer_size 2m; keepalive_requests 1000000000;\n\
         upstream u {{ hash $uri consistent; server {}; keepalive 64; keepalive_requests 1000000000; }}\n\
         server {{ listen {addr}; location / {{ proxy_pass http://u; proxy_http_version 1.1; \
         proxy_set_header Connection \"\"; }} }} }}\n",
        bare.addr
    );
    let file = files.path().join("nginx.conf");
    fs::write(&file, &config)?;
    let process = Process::start(
        Command::new(nginx)
            .arg("-c")
            .arg(&file)
            .arg("-p")
            .arg(files.path()),
    )?;
    behind(
        bare,
        "nginx in front of bare hyper",
        addr,
        process,
        config,
        files,
    )
    .map(Some)
}

fn behind(
    bare: Server,
    name: &str,
    addr: SocketAddr,
    process: Process,
    config: String,
    files: TempDir,
) -> Result<Server> {
    wait_for(addr)?;
    let mut processes = bare.processes;
    processes.insert(0, process);
    let (config, files) = (Some(config), Some(files));
    Ok(Server {
        name: name.to_owned(),
        addr,
        paths: paths(),
        processes,
        config,
        files,
    })
}

/// `wasmtime serve` with a component; `None` if it is not installed.
pub(crate) fn wasmtime(name: &str, component: &Path, flags: &[&str]) -> Result<Option<Server>> {
    let Some(wasmtime) = wasmtime_binary() else {
        return Ok(None);
    };
    ensure!(component.is_file(), "{} was not built", component.display());
    let addr = local()?;
    let mut command = Command::new(wasmtime);
    command
        .arg("serve")
        .args(flags)
        .arg("--addr")
        .arg(addr.to_string())
        .arg(component);
    let process = Process::start(&mut command)?;
    wait_for(addr)?;
    let (paths, processes) = (paths(), vec![process]);
    Ok(Some(Server {
        name: name.to_owned(),
        addr,
        paths,
        processes,
        config: None,
        files: None,
    }))
}

pub(crate) fn wasmtime_binary() -> Option<PathBuf> {
    std::env::var_os("WASMTIME")
        .map(PathBuf::from)
        .or_else(|| installed("wasmtime"))
}

fn paths() -> Vec<String> {
    (0..KEYS).map(|key| format!("/api/echo/k{key}")).collect()
}

pub(crate) fn local() -> Result<SocketAddr> {
    Ok(([127, 0, 0, 1], free_port()?).into())
}

/// Sends one request. Returns the status and the body of the answer.
pub(crate) fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(addr)?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}
