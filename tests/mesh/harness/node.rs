//! Nodes: real processes of the real binary.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
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
use super::{Answer, Client, HANG, Plugins, Request, Secret};
#[cfg(target_os = "linux")]
use super::{Place, Wire};

/// How often a node is asked whether it is where a test waits for it to be.
const ASK_INTERVAL: Duration = Duration::from_millis(20);

/// How a node is started.
pub(crate) struct Setup {
    plugins: Plugins,
    arguments: Vec<String>,
    variables: Vec<(String, OsString)>,
    ports_are_any: bool,
    #[cfg(target_os = "linux")]
    address_space_kb_max: Option<u64>,
    #[cfg(target_os = "linux")]
    has_one_core: bool,
    #[cfg(target_os = "linux")]
    place: Option<Arc<Place>>,
}

/// A running node. It is killed when the value goes.
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) http: String,
    pub(crate) cluster: String,
    pub(crate) admin: String,
    /// Goes with the node.
    _plugins: Plugins,
    client: Client,
    child: Child,
    log: Arc<Log>,
}

/// What `/cluster` says of a node.
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
    /// Whether somebody reads what the node writes.
    reader: watch::Sender<Reader>,
}

/// Who reads a node's log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Reader {
    #[default]
    Reads,
    /// What is between the two fills up.
    Pauses,
    /// There is nobody to whom it could be written.
    Gone,
}

impl Setup {
    pub(crate) fn new(plugins: Plugins) -> Self {
        Self {
            plugins,
            arguments: Vec::new(),
            variables: Vec::new(),
            ports_are_any: true,
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

    /// Leaves the ports to the flags and variables of the test.
    pub(crate) fn own_ports(mut self) -> Self {
        self.ports_are_any = false;
        self
    }

    /// Gives the node no more address space than this.
    #[cfg(target_os = "linux")]
    pub(crate) fn address_space_kb_max(mut self, max: u64) -> Self {
        self.address_space_kb_max = Some(max);
        self
    }

    /// Starts it on one core, so that it has one link to each peer.
    #[cfg(target_os = "linux")]
    pub(crate) fn one_core(mut self) -> Self {
        self.has_one_core = true;
        self
    }

    /// Starts it on a wire, as the node of this number.
    #[cfg(target_os = "linux")]
    pub(crate) fn on(mut self, wire: &Wire, number: usize) -> Self {
        let place = wire.place(number);
        let addr = place.addr.to_string();
        self.place = Some(place);
        let setup = self
            .id(&format!("n{number}"))
            .flag("--bind", &addr)
            .secret(&Secret::shared());
        // Nobody but the test is on the wire.
        setup.flag("--admin-bind", &addr).flag("--insecure", "true")
    }

    /// Gives the node the secrets of a file.
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
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    fn program(&self) -> Command {
        #[cfg(target_os = "linux")]
        if let Some(max) = self.address_space_kb_max {
            // It limits itself, which takes no unsafe code, and becomes the node.
            let mut shell = Command::new("/bin/sh");
            shell
                .args(["-c", &format!("ulimit -v {max} && exec \"$0\" \"$@\"")])
                .arg(binary());
            return shell;
        }
        Command::new(binary())
    }

    /// Starts the node and waits until it says which ports it has.
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

    /// Starts a node that is expected to end by itself: its exit code, and what it wrote.
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

    /// What this node believes of each live node, by node id.
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

    /// The owner of a key, and who comes behind it.
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

    /// What `/metrics` says of a metric, its labels included; zero if it does not have it.
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

    /// Waits until so many messages of a stream run here.
    pub(crate) async fn wait_until_running(&self, stream: &str, count: usize) {
        self.wait_for_metric(&format!(
            r#"meshage_instances{{stream="{stream}",state="running"}} {count}"#
        ))
        .await;
    }

    /// A key that this node believes that one to own.
    pub(crate) async fn key_owned_by(&self, stream: &str, owner: &str) -> String {
        self.key_ranked(stream, 0, owner).await
    }

    /// A key in whose ranking that one has this place, by the belief of this node.
    pub(crate) async fn key_ranked(&self, stream: &str, place: usize, id: &str) -> String {
        for key in 0..1_000 {
            let key = format!("key-{key}");
            if self.ranking(stream, &key).await[place] == id {
                return key;
            }
        }
        panic!("{id} has place {place} for none of a thousand keys");
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

    /// Stops the process where it is, and waits until all its threads stand still: the system tells
    /// them one by one.
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

    /// Sends a signal again and again, until the process has ended.
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

    /// Waits until the process has ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        match timeout(HANG, self.child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("the node did not end:\n{}", self.log.text()),
        }
    }

    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// What it logs, for when it is not at hand.
    pub(super) fn log(&self) -> Arc<Log> {
        self.log.clone()
    }
}

/// What a line about this event has in it.
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

/// Asks again and again until it is so.
pub(crate) async fn until<F: Future<Output = bool>>(mut is_so: impl FnMut() -> F) {
    let deadline = Instant::now() + HANG;
    let mut ticks = tokio::time::interval(ASK_INTERVAL);
    while !is_so().await {
        assert!(Instant::now() < deadline, "it is not so after {HANG:?}");
        ticks.tick().await;
    }
}

pub(crate) fn refs(nodes: &[Node]) -> Vec<&Node> {
    nodes.iter().collect()
}

/// Waits until each of these nodes is ready and sees exactly these, all ready.
pub(crate) async fn wait_for_mesh(nodes: &[&Node]) {
    for node in nodes {
        node.wait_until_ready().await;
        until(|| async {
            let view = node.view().await;
            // The port tells a node that has come back from what it was before; it may be reached
            // at another address.
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

/// A mesh of nodes `n1`, `n2`, … with the usual plugins, each in the view of each.
pub(crate) async fn mesh(size: usize) -> Vec<Node> {
    let plugins: Vec<Plugins> = (0..size).map(|_| Plugins::usual()).collect();
    mesh_of(&plugins).await
}

/// The same, with a node for each of these plugins directories.
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

/// A port for a node that others must know before it starts. It is free, and stays so: it is
/// outside the range of which the system chooses for port 0, and no test gets it twice.
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
