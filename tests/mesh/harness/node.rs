//! Nodes: real processes of the real binary.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

#[cfg(target_os = "linux")]
use super::one_core::on_one_core;
use super::{Answer, Client, HANG, Plugins, Request, Secret, State};
#[cfg(target_os = "linux")]
use super::{Place, Wire};

/// Polling interval while a test waits for a node to reach a state.
const ASK_INTERVAL: Duration = Duration::from_millis(20);

/// How a node is started.
pub(crate) struct Setup {
    plugins: Plugins,
    arguments: Vec<String>,
    variables: Vec<(String, OsString)>,
    ports_are_any: bool,
    stdout: Option<PathBuf>,
    #[cfg(target_os = "linux")]
    address_space_kb_max: Option<u64>,
    #[cfg(target_os = "linux")]
    has_one_core: bool,
    #[cfg(target_os = "linux")]
    place: Option<Arc<Place>>,
}

/// A running node. Dropping it kills the process.
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) http: String,
    pub(crate) cluster: String,
    pub(crate) admin: String,
    /// Deleted with the node, unless others share it.
    _plugins: Plugins,
    client: Client,
    child: Child,
    log: Arc<Log>,
}

/// A node as `/cluster` lists it.
pub(crate) struct Seen {
    pub(crate) state: String,
    pub(crate) http: String,
    /// The streams that it offers, with the digest of each.
    pub(crate) offers: BTreeMap<String, String>,
}

#[derive(Default)]
pub(super) struct Log {
    lines: Mutex<Vec<String>>,
    grown: Notify,
    /// What the task that reads the node's stderr shall do.
    reader: watch::Sender<Reader>,
}

/// What the reader of a node's log does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Reader {
    #[default]
    Reads,
    /// The pipe fills up.
    Pauses,
    /// The pipe is closed, so that writes fail.
    Gone,
}

impl Setup {
    pub(crate) fn new(plugins: Plugins) -> Self {
        Self {
            plugins,
            arguments: Vec::new(),
            variables: Vec::new(),
            ports_are_any: true,
            stdout: None,
            #[cfg(target_os = "linux")]
            address_space_kb_max: None,
            #[cfg(target_os = "linux")]
            has_one_core: false,
            #[cfg(target_os = "linux")]
            place: None,
        }
    }

    pub(crate) fn id(self, id: &str) -> Self {
        self.flag("--node-id", id)
    }

    pub(crate) fn flag(mut self, flag: &str, value: &str) -> Self {
        self.arguments.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    pub(crate) fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn seeds(self, seeds: &[&Node]) -> Self {
        let seeds: Vec<&str> = seeds.iter().map(|node| node.cluster.as_str()).collect();
        self.flag("--seeds", &seeds.join(","))
    }

    /// Does not set the ports to 0: the test sets them by flags or variables.
    pub(crate) fn own_ports(mut self) -> Self {
        self.ports_are_any = false;
        self
    }

    /// Limits the address space of the node.
    #[cfg(target_os = "linux")]
    pub(crate) fn address_space_kb_max(mut self, max: u64) -> Self {
        self.address_space_kb_max = Some(max);
        self
    }

    /// What the node writes to stdout goes into this file.
    pub(crate) fn stdout_to(mut self, file: &Path) -> Self {
        self.stdout = Some(file.to_owned());
        self
    }

    /// Pins the node to one core, so that it has one link to each peer.
    #[cfg(target_os = "linux")]
    pub(crate) fn one_core(mut self) -> Self {
        self.has_one_core = true;
        self
    }

    /// Starts the node on the simulated network, as the one of this number.
    #[cfg(target_os = "linux")]
    pub(crate) fn on(self, wire: &Wire, number: usize) -> Self {
        let addr = wire.place(number).addr.to_string();
        self.on_at(wire, number, &addr)
    }

    /// The same, listening on all addresses there.
    #[cfg(target_os = "linux")]
    pub(crate) fn everywhere_on(self, wire: &Wire, number: usize) -> Self {
        self.on_at(wire, number, "0.0.0.0")
    }

    #[cfg(target_os = "linux")]
    fn on_at(mut self, wire: &Wire, number: usize, bind: &str) -> Self {
        let place = wire.place(number);
        let addr = place.addr.to_string();
        self.place = Some(place);
        let setup = self
            .id(&format!("n{number}"))
            .flag("--bind", bind)
            .secret(&Secret::shared());
        // Only the test can reach this network.
        setup.flag("--admin-bind", &addr).flag("--insecure", "true")
    }

    /// Where the node keeps the state of its entities.
    pub(crate) fn state(self, state: &State) -> Self {
        self.flag("--state", &state.location())
    }

    /// Gives the node this secret file.
    pub(crate) fn secret(self, secret: &Secret) -> Self {
        self.flag("--secret-file", secret.file())
    }

    fn spawn(&self) -> Child {
        let mut command = self.command();
        #[cfg(target_os = "linux")]
        if let Some(place) = &self.place {
            return place.enter(|| command.spawn().unwrap());
        }
        #[cfg(target_os = "linux")]
        if self.has_one_core {
            return on_one_core(|| command.spawn().unwrap());
        }
        command.spawn().unwrap()
    }

    fn command(&self) -> Command {
        let mut command = self.program();
        command.env_clear();
        command.args(["--plugins", self.plugins.path().to_str().unwrap()]);
        let usual = [
            ("--log-format", "json"),
            ("--data-dir", concat!(env!("CARGO_TARGET_TMPDIR"), "/data")),
        ];
        for (flag, value) in usual
            .iter()
            .filter(|(flag, _)| !self.arguments.iter().any(|argument| argument == flag))
        {
            command.args([flag, value]);
        }
        if self.ports_are_any {
            command.args([
                "--http-port",
                "0",
                "--cluster-port",
                "0",
                "--admin-port",
                "0",
            ]);
        }
        command
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
            .stdin(Stdio::null())
            .stdout(self.stdout())
            .env("RUST_BACKTRACE", "1")
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    fn stdout(&self) -> Stdio {
        let Some(file) = &self.stdout else {
            return Stdio::null();
        };
        File::create(file).unwrap().into()
    }

    fn program(&self) -> Command {
        #[cfg(target_os = "linux")]
        if let Some(max) = self.address_space_kb_max {
            // The shell limits itself and then execs the node: a `pre_exec` hook would need unsafe
            // code.
            let mut shell = Command::new("/bin/sh");
            shell
                .args(["-c", &format!("ulimit -v {max} && exec \"$0\" \"$@\"")])
                .arg(binary());
            return shell;
        }
        Command::new(binary())
    }

    /// Starts the node and waits until it logs its ports.
    pub(crate) async fn start(self) -> Node {
        let mut child = self.spawn();
        let log = Arc::new(Log::default());
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let writer = log.clone();
        tokio::spawn(async move {
            let mut reader = writer.reader.subscribe();
            loop {
                let stays = reader
                    .wait_for(|reader| *reader != Reader::Pauses)
                    .await
                    .is_ok_and(|reader| *reader == Reader::Reads);
                if !stays {
                    return;
                }
                let line = tokio::select! {
                    line = lines.next_line() => line,
                    _ = reader.changed() => continue,
                };
                let Ok(Some(line)) = line else { return };
                writer.lines.lock().unwrap().push(line);
                writer.grown.notify_waiters();
            }
        });
        let start = log.wait_for(&event("starts")).await;
        let start: Value = serde_json::from_str(&start).unwrap();
        let field = |name: &str| start[name].as_str().unwrap().to_owned();
        #[cfg(target_os = "linux")]
        let field = |name: &str| match &self.place {
            Some(place) => field(name).replace("0.0.0.0", &place.addr.to_string()),
            None => field(name),
        };
        Node {
            id: field("node_id"),
            http: field("http"),
            cluster: field("cluster"),
            admin: field("admin"),
            _plugins: self.plugins,
            client: Client::new(),
            child,
            log,
        }
    }

    /// Starts the node and waits until it is ready.
    pub(crate) async fn ready(self) -> Node {
        let node = self.start().await;
        node.wait_until_ready().await;
        node
    }

    /// Starts a node that is expected to exit by itself. Returns its exit code and its stderr.
    pub(crate) async fn fail(self) -> (i32, String) {
        let output = timeout(HANG, self.command().output())
            .await
            .expect("the node did not end")
            .unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }
}

impl Seen {
    pub(crate) fn streams(&self) -> Vec<&str> {
        self.offers.keys().map(String::as_str).collect()
    }
}

impl Node {
    pub(crate) fn request(&self, method: Method, path: &str) -> Request<'_> {
        self.client
            .request(method, &format!("http://{}{path}", self.http))
    }

    pub(crate) fn post(&self, path: &str) -> Request<'_> {
        self.request(Method::POST, path)
    }

    pub(crate) fn put(&self, path: &str) -> Request<'_> {
        self.request(Method::PUT, path)
    }

    pub(crate) fn get(&self, path: &str) -> Request<'_> {
        self.request(Method::GET, path)
    }

    /// A GET of the admin API.
    pub(crate) async fn admin(&self, path: &str) -> Answer {
        self.request_admin(path).send().await
    }

    pub(crate) fn request_admin(&self, path: &str) -> Request<'_> {
        self.client
            .request(Method::GET, &format!("http://{}{path}", self.admin))
    }

    pub(crate) async fn wait_until_ready(&self) {
        let admin = &self.admin;
        until(|| async move {
            let request = self
                .client
                .request(Method::GET, &format!("http://{admin}/readyz"));
            request
                .try_send()
                .await
                .is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }

    /// This node's view: each live node by its id.
    pub(crate) async fn view(&self) -> BTreeMap<String, Seen> {
        let cluster = self.admin("/cluster").await.json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let see = |node: &Value| Seen {
            state: text(&node["state"]),
            http: text(&node["httpAddr"]),
            offers: serde_json::from_value(node["streams"].clone()).unwrap(),
        };
        cluster["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| (text(&node["nodeId"]), see(node)))
            .collect()
    }

    /// The ranking of a key: its owner, then the nodes to fail over to.
    pub(crate) async fn ranking(&self, stream: &str, key: &str) -> Vec<String> {
        let answer = self.admin(&format!("/cluster/owner/{stream}/{key}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let owner = answer.json();
        let ranking: Vec<String> = owner["ranking"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_str().unwrap().to_owned())
            .collect();
        assert_eq!(owner["owner"], ranking[0]);
        ranking
    }

    /// Waits until `/metrics` has this line.
    pub(crate) async fn wait_for_metric(&self, line: &str) {
        until(|| async {
            self.admin("/metrics")
                .await
                .text()
                .lines()
                .any(|found| found == line)
        })
        .await;
    }

    /// The value of a series in `/metrics`, named with its labels; 0 if it is missing.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let metrics = self.admin("/metrics").await;
        let text = metrics.text();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// How many messages of a stream have run here.
    pub(crate) async fn served(&self, stream: &str) -> u64 {
        self.metric(&format!(r#"meshage_calls_total{{stream="{stream}"}}"#))
            .await
    }

    /// Waits until exactly this many messages of a stream run here.
    pub(crate) async fn wait_until_running(&self, stream: &str, count: usize) {
        self.wait_for_metric(&format!(
            r#"meshage_instances{{stream="{stream}",state="running"}} {count}"#
        ))
        .await;
    }

    /// A key that node `owner` owns in this node's view.
    pub(crate) async fn key_owned_by(&self, stream: &str, owner: &str) -> String {
        self.key_ranked(stream, 0, owner).await
    }

    /// A key in whose ranking node `id` has this place (the owner has 0), in this node's view.
    pub(crate) async fn key_ranked(&self, stream: &str, place: usize, id: &str) -> String {
        let found = OnceLock::new();
        // It may not offer the stream yet.
        until(|| async {
            for key in 0..1_000 {
                let key = format!("key-{key}");
                let ranking = self.ranking(stream, &key).await;
                if ranking.get(place).is_some_and(|ranked| ranked == id) {
                    return found.set(key).is_ok();
                }
                if !ranking.iter().any(|ranked| ranked == id) {
                    return false;
                }
            }
            panic!("{id} has place {place} for none of a thousand keys");
        })
        .await;
        found.into_inner().unwrap()
    }

    /// Waits for a line of the log with this text in it, and returns it.
    pub(crate) async fn log_line(&self, text: &str) -> String {
        self.log.wait_for(text).await
    }

    /// Waits for a line of the log about this event, and returns it.
    pub(crate) async fn event(&self, name: &str) -> String {
        self.log.wait_for(&event(name)).await
    }

    /// How many lines of the log are about this event, so far.
    pub(crate) fn events(&self, name: &str) -> usize {
        self.log_lines(&event(name))
    }

    /// How many lines of the log have this text in them, so far.
    pub(crate) fn log_lines(&self, text: &str) -> usize {
        self.log
            .lines
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.contains(text))
            .count()
    }

    /// Changes what the reader of the log does.
    pub(crate) fn log_reader(&self, reader: Reader) {
        self.log.reader.send_replace(reader);
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.child.id().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process_id() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Sends SIGSTOP, and waits until all threads are stopped: the kernel stops them one by one.
    pub(crate) async fn hang(&self) {
        self.signal(Signal::STOP);
        let threads = format!("/proc/{}/task", self.process_id());
        let stands_still = |thread: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ")
                .is_some_and(|(_, state)| state.starts_with('T'))
        };
        until(|| async {
            std::fs::read_dir(&threads)
                .unwrap()
                .all(|thread| stands_still(thread.unwrap()))
        })
        .await;
    }

    /// Sends a signal repeatedly until the process has exited.
    pub(crate) async fn signal_until_ended(&mut self, signal: Signal) -> ExitStatus {
        let deadline = Instant::now() + HANG;
        let mut ticks = tokio::time::interval(ASK_INTERVAL);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the node did not end:\n{}",
                self.log.text()
            );
            self.signal(signal);
            ticks.tick().await;
        }
    }

    /// Waits until the process has exited.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        match timeout(HANG, self.child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("the node did not end:\n{}", self.log.text()),
        }
    }

    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// The log of the node, for code that does not hold the node.
    pub(super) fn log(&self) -> Arc<Log> {
        self.log.clone()
    }
}

/// The text in each log line about this event.
fn event(name: &str) -> String {
    format!(r#""event":"{name}""#)
}

impl Log {
    async fn wait_for(&self, text: &str) -> String {
        let found = async {
            loop {
                let grown = self.grown.notified();
                tokio::pin!(grown);
                grown.as_mut().enable();
                if let Some(line) = self
                    .lines
                    .lock()
                    .unwrap()
                    .iter()
                    .find(|line| line.contains(text))
                {
                    return line.clone();
                }
                grown.await;
            }
        };
        match timeout(HANG, found).await {
            Ok(line) => line,
            Err(_) => panic!("{text:?} is not in the log:\n{}", self.text()),
        }
    }

    pub(super) fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }
}

/// Polls until the condition holds. Panics after `HANG`.
pub(crate) async fn until<F: Future<Output = bool>>(is_so: impl FnMut() -> F) {
    until_within(HANG, is_so).await;
}

/// Polls until the condition holds. Panics after `longest`.
pub(crate) async fn until_within<F: Future<Output = bool>>(
    longest: Duration,
    mut is_so: impl FnMut() -> F,
) {
    let deadline = Instant::now() + longest;
    let mut ticks = tokio::time::interval(ASK_INTERVAL);
    while !is_so().await {
        assert!(Instant::now() < deadline, "it is not so after {longest:?}");
        ticks.tick().await;
    }
}

pub(crate) fn refs(nodes: &[Node]) -> Vec<&Node> {
    nodes.iter().collect()
}

/// Waits until each of these nodes is ready and has exactly these in its view, all ready.
pub(crate) async fn wait_for_mesh(nodes: &[&Node]) {
    for node in nodes {
        node.wait_until_ready().await;
        until(|| async {
            let view = node.view().await;
            // The port tells a restarted node from its earlier incarnation. The address is ignored:
            // a node may advertise another one than it is bound to.
            let port = |addr: &str| addr.rsplit(':').next().map(str::to_owned);
            let is_seen = |other: &&Node| {
                view.get(&other.id).is_some_and(|seen| {
                    seen.state == "ready" && port(&seen.http) == port(&other.http)
                })
            };
            view.len() == nodes.len() && nodes.iter().all(is_seen)
        })
        .await;
    }
}

/// A mesh of nodes `n1`, `n2`, … with the usual plugins, each in the view of all.
pub(crate) async fn mesh(size: usize) -> Vec<Node> {
    let plugins: Vec<Plugins> = (0..size).map(|_| Plugins::usual()).collect();
    mesh_of(&plugins).await
}

/// Like [`mesh`], with one node for each of these plugins directories.
pub(crate) async fn mesh_of(plugins: &[Plugins]) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for (number, plugins) in (1..).zip(plugins) {
        let setup = Setup::new(plugins.clone())
            .id(&format!("n{number}"))
            .seeds(&refs(&nodes));
        nodes.push(setup.start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    nodes
}

/// A free port (TCP and UDP) for a node whose port must be known before it starts. It stays free:
/// it is outside the range from which the system picks for port 0, and each is handed out once.
pub(crate) fn port_known_beforehand() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(port < 30_000, "no port is free");
        let is_free = std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        if is_free && std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The binary that `cargo xtask test` has built, beside the tests' own.
pub(crate) fn binary() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let binary = tests
        .ancestors()
        .nth(2)
        .map(|directory| directory.join("meshage-host"))
        .unwrap();
    assert!(
        binary.exists(),
        "{} is missing: run the tests with `cargo xtask test`",
        binary.display()
    );
    binary
}
