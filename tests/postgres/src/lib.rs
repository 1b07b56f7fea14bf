//! Real PostgreSQL servers, from the system's package: each with a directory and a socket of its
//! own, ended with the test.
#![allow(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getuid, kill_process};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// The server's file in its directory of sockets, by its port.
pub const SOCKET: &str = ".s.PGSQL.5432";

/// How long a server may take to start or to end.
const HANG: Duration = Duration::from_secs(60);

/// How often it is looked at meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

/// A file that cargo makes in its target directory.
const TARGET_MARK: &str = "CACHEDIR.TAG";

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
pub struct Postgres {
    directory: TempDir,
    settings: Vec<String>,
    /// Ends the server when the test process ends, however it does.
    keeper: Mutex<Option<Child>>,
}

impl Postgres {
    /// Whether there is a PostgreSQL on this machine; `cargo xtask test` installs it where it may.
    pub fn is_installed() -> bool {
        program("postgres").is_some()
    }

    /// A server for this test alone.
    pub async fn start() -> Arc<Self> {
        Self::start_with(&[], Vec::new()).await
    }

    /// A server for this test alone that listens on this address, at PostgreSQL's port, too, and
    /// speaks TLS there. The certificate and its key are in PEM form.
    pub async fn start_with_tls(address: &str, certificate: &str, key: &str) -> Arc<Self> {
        let files = [("server.crt", certificate), ("server.key", key)];
        let settings = vec!["ssl=on".into(), format!("listen_addresses={address}")];
        Self::start_with(&files, settings).await
    }

    async fn start_with(files: &[(&str, &str)], settings: Vec<String>) -> Arc<Self> {
        let directory = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
        let data = directory.path().join("data");
        run(Command::new("cp")
            .args(["-r", "-p"])
            .arg(template())
            .arg(&data));
        for (name, text) in files {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(data.join(name))
                .unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }
        let server = Self {
            directory,
            settings,
            keeper: Mutex::new(None),
        };
        own(server.directory.path());
        server.run().await;
        Arc::new(server)
    }

    /// A server that tests share, each with a database of its own.
    pub async fn shared() -> Arc<Self> {
        static SHARED: tokio::sync::OnceCell<Arc<Postgres>> = tokio::sync::OnceCell::const_new();
        SHARED.get_or_init(Self::start).await.clone()
    }

    /// Starts the server's processes, and waits until it answers.
    pub async fn run(&self) {
        let mut postgres = vec![program("postgres").unwrap().display().to_string()];
        postgres.extend(["-D".into(), self.data().display().to_string()]);
        postgres.extend(["-k".into(), self.sockets().display().to_string()]);
        for setting in SETTINGS {
            postgres.extend(["-c".into(), setting.into()]);
        }
        for setting in &self.settings {
            postgres.extend(["-c".into(), setting.clone()]);
        }
        // Ends the server when its own standard input ends, with the test process.
        let script = "\"$@\" & read end; kill -QUIT $!; wait; test -e \"$0/kept\" || rm -rf \"$0\"";
        let mut keeper = Command::new("sh");
        keeper
            .args(["-c", script])
            .arg(self.directory.path())
            .args(as_user(&postgres));
        keeper
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        *self.keeper.lock().unwrap() = Some(keeper.spawn().unwrap());
        let began = Instant::now();
        while self.connect("postgres").await.is_none() {
            assert!(began.elapsed() < HANG, "the server does not answer");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A new database. Returns its name.
    pub async fn database(&self) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("db{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let client = self.connect("postgres").await.unwrap();
        client
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .unwrap();
        name
    }

    pub async fn connect(&self, database: &str) -> Option<Client> {
        let url = format!("postgres://postgres@{}/{database}", escaped(self.sockets()));
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    /// Kills the server at once, as when the machine fails, unless it has ended already.
    pub async fn kill(&self) {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, Signal::KILL);
        }
        let began = Instant::now();
        // Its other processes notice that it is gone.
        while self.connect("postgres").await.is_some() || self.has_processes() {
            assert!(began.elapsed() < HANG, "the server does not end");
            tokio::time::sleep(PAUSE).await;
        }
        let _ = std::fs::remove_file(self.data().join("postmaster.pid"));
        let kept = self.directory.path().join("kept");
        std::fs::write(&kept, "").unwrap();
        self.end_keeper();
        std::fs::remove_file(kept).unwrap();
    }

    fn end_keeper(&self) {
        if let Some(mut keeper) = self.keeper.lock().unwrap().take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }

    /// Sends a signal to the server's main process.
    pub fn signal(&self, signal: Signal) {
        let pid = self.pid().expect("the server has ended");
        kill_process(pid, signal).unwrap();
    }

    /// Sends a signal to every process of the server.
    pub fn signal_all(&self, signal: Signal) {
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

    /// Its main process; `None` once it has ended in an orderly way.
    fn pid(&self) -> Option<Pid> {
        let file = std::fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let pid = file.lines().next()?.trim().parse().ok()?;
        Pid::from_raw(pid)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The directory with the server's socket.
    pub fn sockets(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.end_keeper();
    }
}

/// The URL of a new database on the server that tests share; `None`, with a word on the terminal, if
/// there is no PostgreSQL here.
pub async fn database(test: &str) -> Option<String> {
    if !Postgres::is_installed() {
        skipped(test);
        return None;
    }
    let server = Postgres::shared().await;
    Some(url(server.sockets(), &server.database().await))
}

/// Reports on the terminal that a test is skipped. Written straight to stderr: the test runner
/// captures what passing tests print.
fn skipped(test: &str) {
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED {test}: it needs PostgreSQL (`apt-get install postgresql`)"
    );
}

/// The URL of a database behind a socket in this directory.
pub fn url(sockets: &Path, database: &str) -> String {
    format!("postgres://postgres@{}/{database}", escaped(sockets))
}

fn escaped(path: &Path) -> String {
    path.to_str().unwrap().replace('/', "%2F")
}

/// The directory of a server that was never started. It is made once, and stays in the directory of
/// what cargo builds.
fn template() -> PathBuf {
    static MADE: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let postgres = program("postgres").unwrap();
    let version = Command::new(postgres).arg("--version").output().unwrap();
    let version: String = String::from_utf8_lossy(&version.stdout)
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '.')
        .collect();
    let executable = std::env::current_exe().unwrap();
    let is_target = |directory: &&Path| directory.join(TARGET_MARK).is_file();
    let target = executable.ancestors().find(is_target).unwrap();
    let template = target.join("tmp").join(version);
    if template.is_dir() {
        return template;
    }
    let directory = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
    own(directory.path());
    let data = directory.path().join("data");
    let initdb = program("initdb").unwrap().display().to_string();
    let data_argument = data.display().to_string();
    let arguments = ["-D", &data_argument, "-U", "postgres", "-A", "trust"];
    let locale = ["-E", "UTF8", "--locale=C.UTF-8", "--no-sync"];
    let command: Vec<String> = std::iter::once(initdb.as_str())
        .chain(arguments)
        .chain(locale)
        .map(str::to_owned)
        .collect();
    let command = as_user(&command);
    run(Command::new(&command[0]).args(&command[1..]));
    std::fs::create_dir_all(target.join("tmp")).unwrap();
    // Another test process may make it at the same time.
    let own = target
        .join("tmp")
        .join(format!("postgres-{}", std::process::id()));
    run(Command::new("cp").args(["-r", "-p"]).arg(&data).arg(&own));
    if std::fs::rename(&own, &template).is_err() {
        std::fs::remove_dir_all(&own).unwrap();
    }
    template
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
