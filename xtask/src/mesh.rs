//! A two-node mesh on this machine, with both logs on the terminal.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::build;
use crate::setup::root;

/// HTTP, cluster and admin port of each node: those of the README.
const NODES: [(u16, u16, u16); 2] = [(8080, 9742, 9080), (8081, 9743, 9081)];

/// Where the nodes keep the state of entities: new for each run, so that the commands answer as the
/// README shows.
const STATE_DIRECTORY: &str = "target/run";

/// Long enough for a node to compile its plugins, as it does at its first start.
const READY_MAX: Duration = Duration::from_secs(60);

const TRY_THIS: &str = r#"
The mesh is up: two nodes, each with the streams `account`, `cart`,
`echo`, `orders` and `transfer`. Try, from either port:

  curl -sX POST http://localhost:8080/api/echo/4985 -H 'Content-Type: application/json' -d '{"hello":"world"}'
  curl -sX POST http://localhost:8081/api/echo/4985 -H 'Content-Type: application/json' -d '{"hello":"world"}'
  curl -sX POST http://localhost:8080/api/broadcast/echo/4985 -H 'Content-Type: application/json' -d '{"hello":"world"}'
  curl -sX POST http://localhost:8081/api/orders/ada -d '{"article":"tea","quantity":3}'
  curl -sX POST http://localhost:8080/api/cart/ada -d '{"article":"tea","quantity":2,"cents":450}'
  curl -s http://localhost:8081/api/cart/ada
  curl -sX POST http://localhost:8080/api/account/ada -d '{"deposit":{"cents":1000}}'
  curl -sX POST http://localhost:8081/api/transfer/t1 -d '{"from":"ada","to":"bob","cents":250}'
  curl -s http://localhost:8080/api/account/bob
  curl -s http://localhost:9080/cluster
  curl -s http://localhost:9080/cluster/owner/echo/4985

`pkill -9 -f -- '--http-port 8080'` kills the first node; the other one goes on with the cart. Ctrl-C stops what runs.
"#;

enum Event {
    Stop,
    Ended(usize, std::process::ExitStatus),
}

pub(crate) fn run() -> Result<()> {
    build::everything()?;
    // It may not be there.
    let _ = std::fs::remove_dir_all(root().join(STATE_DIRECTORY));
    let (events, happened) = mpsc::channel();
    let on_signal = events.clone();
    ctrlc::set_handler(move || {
        // Fails only once `run` has ended, when nothing is left to stop.
        let _ = on_signal.send(Event::Stop);
    })?;
    let mut mesh = Mesh {
        running: BTreeMap::new(),
        happened,
    };
    let result = mesh.start(&events).and_then(|()| mesh.run());
    mesh.stop();
    result
}

/// The running nodes, and the events about them.
struct Mesh {
    running: BTreeMap<usize, Pid>,
    happened: mpsc::Receiver<Event>,
}

impl Mesh {
    fn start(&mut self, events: &mpsc::Sender<Event>) -> Result<()> {
        for index in 0..NODES.len() {
            let mut node = start(index)?;
            self.running.insert(index, Pid::from_child(&node));
            let events = events.clone();
            thread::spawn(move || {
                if let Ok(status) = node.wait() {
                    let _ = events.send(Event::Ended(index, status));
                }
            });
        }
        Ok(())
    }

    /// Runs until a signal to stop. A node that exits by itself is an error.
    fn run(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_MAX;
        for (_, _, admin_port) in NODES {
            // Events first: if a node could not start because another mesh has its port, that mesh
            // may be answering here.
            loop {
                match self.happened.recv_timeout(Duration::from_millis(50)) {
                    Ok(event) => return self.take(event),
                    Err(_) if sees_everyone(admin_port) => break,
                    Err(_) if Instant::now() > deadline => {
                        bail!("the nodes were not ready after {READY_MAX:?}")
                    }
                    Err(_) => {}
                }
            }
        }
        println!("{TRY_THIS}");
        // One may be killed, to see that the other goes on.
        loop {
            match self.happened.recv()? {
                Event::Ended(index, status) if self.running.len() > 1 => {
                    self.running.remove(&index);
                    println!("node {} ended: {status}; the other one goes on", index + 1);
                }
                event => return self.take(event),
            }
        }
    }

    fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Stop => Ok(()),
            Event::Ended(index, status) => {
                self.running.remove(&index);
                bail!("node {} ended: {status}", index + 1)
            }
        }
    }

    /// Sends SIGTERM to every node, and waits until all have exited. Another Ctrl-C sends it again,
    /// which makes them exit at once.
    fn stop(&mut self) {
        self.signal(Signal::TERM);
        while !self.running.is_empty() {
            match self.happened.recv_timeout(READY_MAX) {
                Ok(Event::Ended(index, _)) => {
                    self.running.remove(&index);
                }
                Ok(Event::Stop) => self.signal(Signal::TERM),
                Err(_) => return self.signal(Signal::KILL),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        for pid in self.running.values() {
            // Fails only for a node that has just exited.
            let _ = kill_process(*pid, signal);
        }
    }
}

fn start(index: usize) -> Result<Child> {
    let (http_port, cluster_port, admin_port) = NODES[index];
    let seeds: Vec<String> = NODES
        .iter()
        .map(|(_, port, _)| format!("127.0.0.1:{port}"))
        .collect();
    let mut node = Command::new(build::host_binary()?)
        .current_dir(root())
        .args(["--plugins", "plugins", "--seeds", &seeds.join(",")])
        .args([
            "--http-port",
            &http_port.to_string(),
            "--cluster-port",
            &cluster_port.to_string(),
        ])
        .args(["--admin-port", &admin_port.to_string()])
        .args(["--state", &format!("sqlite:{STATE_DIRECTORY}/state.db")])
        // Variables for a node of the developer's own must not configure these two.
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| {
            ["PATH", "HOME", "XDG_CACHE_HOME"]
                .iter()
                .any(|kept| name == kept)
        }))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        // So that Ctrl-C reaches this process only, which then shuts the nodes down gracefully.
        .process_group(0)
        .spawn()
        .context("cannot start a node")?;
    let log = node.stderr.take().context("a node's log is piped")?;
    thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            println!("node {} | {line}", index + 1);
        }
    });
    Ok(node)
}

/// Whether a node is ready, and sees all nodes as ready.
fn sees_everyone(admin_port: u16) -> bool {
    let ready_nodes =
        get(admin_port, "/cluster").map(|view| view.matches(r#""state":"ready""#).count());
    get(admin_port, "/readyz").is_some() && ready_nodes == Some(NODES.len())
}

/// The answer to a GET request, if its status is 200.
fn get(port: u16, path: &str) -> Option<String> {
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.lines().next()?.contains(" 200 ").then_some(answer)
}
