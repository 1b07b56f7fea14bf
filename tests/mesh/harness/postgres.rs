//! Real PostgreSQL servers, from the system's package: each with a directory and a socket of its
//! own, ended with the test.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getuid, kill_process};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::{HANG, until};

/// The server's file in its directory of sockets, by its port.
pub(super) const SOCKET: &str = ".s.PGSQL.5432";

/// What servers of tests are started with, besides the defaults.
const SETTINGS: [&str; 6] = [
    "listen_addresses=",
    "max_connections=100",
    "shared_buffers=32MB",
    "autovacuum_naptime=10s",
    "unix_socket_permissions=0777",
    "logging_collector=off",
];

/// A running server.
pub(crate) struct Postgres {
    directory: TempDir,
    /// Ends the server when the test process ends, however it does.
    keeper: Mutex<Option<Child>>,
}

impl Postgres {
    /// Whether there is a PostgreSQL on this machine; `cargo xtask test` installs it where it may.
    pub(crate) fn is_installed() -> bool {
        program("postgres").is_some()
    }

    /// A server for this test alone.
    pub(crate) async fn start() -> Arc<Self> {
        let directory = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
        let data = directory.path().join("data");
        run(Command::new("cp")
            .args(["-r", "-p"])
            .arg(template())
            .arg(&data));
        let server = Self {
            directory,
            keeper: Mutex::new(None),
        };
        own(server.directory.path());
        server.run().await;
        Arc::new(server)
    }

    /// A server that tests share, each with a database of its own.
    pub(crate) async fn shared() -> Arc<Self> {
        static SHARED: tokio::sync::OnceCell<Arc<Postgres>> = tokio::sync::OnceCell::const_new();
        SHARED.get_or_init(Self::start).await.clone()
    }

    /// Starts the server's processes, and waits until it answers.
    pub(crate) async fn run(&self) {
        let mut postgres = vec![program("postgres").unwrap().display().to_string()];
        postgres.extend(["-D".into(), self.data().display().to_string()]);
        postgres.extend(["-k".into(), self.sockets().display().to_string()]);
        for setting in SETTINGS {
            postgres.extend(["-c".into(), setting.into()]);
        }
        // Ends the server when its own standard input ends, with the test process.
        let script = "\"$@\" & read end; kill -QUIT $!; wait";
        let mut keeper = Command::new("sh");
        keeper.args(["-c", script, "sh"]).args(as_user(&postgres));
        keeper
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        *self.keeper.lock().unwrap() = Some(keeper.spawn().unwrap());
        until(|| async { self.connect("postgres").await.is_some() }).await;
    }

    /// A new database. Returns its name.
    pub(crate) async fn database(&self) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("db{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let client = self.connect("postgres").await.unwrap();
        client
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .unwrap();
        name
    }

    pub(crate) async fn connect(&self, database: &str) -> Option<Client> {
        let url = format!("postgres://postgres@{}/{database}", escaped(self.sockets()));
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    /// Kills the server at once, as when the machine fails.
    pub(crate) async fn kill(&self) {
        self.signal(Signal::KILL);
        let began = Instant::now();
        // Its other processes notice that it is gone.
        while self.connect("postgres").await.is_some() || self.has_processes() {
            assert!(began.elapsed() < HANG, "the server does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let _ = std::fs::remove_file(self.data().join("postmaster.pid"));
        if let Some(mut keeper) = self.keeper.lock().unwrap().take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }

    /// Sends a signal to the server's main process.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Sends a signal to every process of the server.
    pub(crate) fn signal_all(&self, signal: Signal) {
        for pid in self.processes() {
            let _ = kill_process(pid, signal);
        }
    }

    fn has_processes(&self) -> bool {
        !self.processes().is_empty()
    }

    fn processes(&self) -> Vec<Pid> {
        let data = self.data();
        let of_server = |entry: std::fs::DirEntry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let cwd = std::fs::read_link(entry.path().join("cwd")).ok()?;
            (cwd == data).then(|| Pid::from_raw(pid))?
        };
        let all = std::fs::read_dir("/proc").unwrap();
        all.flatten().filter_map(of_server).collect()
    }

    fn pid(&self) -> Pid {
        let file = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        let pid = file.lines().next().unwrap().trim().parse().unwrap();
        Pid::from_raw(pid).unwrap()
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The directory with the server's socket.
    pub(crate) fn sockets(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.lock().unwrap().take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}

/// The URL of a database behind a socket in this directory.
pub(crate) fn url(sockets: &Path, database: &str) -> String {
    format!("postgres://postgres@{}/{database}", escaped(sockets))
}

fn escaped(path: &Path) -> String {
    path.to_str().unwrap().replace('/', "%2F")
}

/// The directory of a server that was never started, made once.
fn template() -> PathBuf {
    static TEMPLATE: OnceLock<TempDir> = OnceLock::new();
    let made = TEMPLATE.get_or_init(|| {
        let directory = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
        own(directory.path());
        let data = directory.path().join("data").display().to_string();
        let initdb = program("initdb").unwrap().display().to_string();
        let arguments = [
            initdb.as_str(),
            "-D",
            &data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ];
        let arguments: Vec<String> = arguments.map(str::to_owned).to_vec();
        let command = as_user(&arguments);
        run(Command::new(&command[0]).args(&command[1..]));
        directory
    });
    made.path().join("data")
}

/// The server refuses to run as root.
fn as_user(command: &[String]) -> Vec<String> {
    if !getuid().is_root() {
        return command.to_vec();
    }
    let user = [
        "setpriv",
        "--reuid=postgres",
        "--regid=postgres",
        "--clear-groups",
    ];
    user.map(str::to_owned)
        .into_iter()
        .chain(command.iter().cloned())
        .collect()
}

fn own(directory: &Path) {
    if getuid().is_root() {
        run(Command::new("chown")
            .args(["-R", "postgres:postgres"])
            .arg(directory));
    }
    run(Command::new("chmod").arg("755").arg(directory));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A program of PostgreSQL. Debian keeps them off the path, by version.
fn program(name: &str) -> Option<PathBuf> {
    let mut directories: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        directories.extend(versions.flatten().map(|entry| entry.path().join("bin")));
    }
    let found = directories
        .into_iter()
        .map(|directory| directory.join(name));
    found.into_iter().find(|file| file.is_file())
}
