//! The suites: what each measures, and how its results are shown.

use std::hint::black_box;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use meshage_host::message::NodeId;
use meshage_host::placement::{Seed, owner};
use tempfile::NamedTempFile;

use crate::entities::{entities, many_entities};
use crate::languages::{HTTP, LANGUAGES, OTHERS, other};
use crate::measure::{CpuUs, Effort, Sample, Samples, Spread, Traffic, at_rates, in_turns};
use crate::process::{START_MAX, cpu_of_ended, installed, wait_until};
use crate::report::{Plot, Section, Table, spread, thousands};
use crate::servers::{self, Mesh, MeshOptions, Server};

/// Where the host and the guests were built, and how long to measure.
pub(crate) struct Bench {
    pub(crate) host: PathBuf,
    pub(crate) guests: PathBuf,
    pub(crate) effort: Effort,
}

pub(crate) type Suite = (&'static str, fn(&Bench) -> Result<Section>);

pub(crate) const SUITES: [Suite; 17] = [
    ("local", local),
    ("forwarded", forwarded),
    ("forwarded-writes", forwarded_writes),
    ("broadcast", broadcast),
    ("latency", latency),
    ("bodies", bodies),
    ("connections", connections),
    ("http2", http2),
    ("handlers", handlers),
    ("http-handlers", http_handlers),
    ("plugins", plugins),
    ("placement", placement),
    ("entities", entities),
    ("many-entities", many_entities),
    ("memory", memory),
    ("start", start),
    ("commands", commands),
];

/// A fresh instance for each request, from a pool.
const FRESH: [&str; 2] = ["-Scli", "-Opooling-allocator"];

/// The fastest settings that `wasmtime serve` offers.
const REUSED: [&str; 4] = [
    "-Scli",
    "-Opooling-allocator",
    "--max-instance-reuse-count",
    "1000000",
];
const REUSED_P3: [&str; 5] = [
    "-Scli,p3",
    "-Wcomponent-model-async",
    "-Opooling-allocator",
    "--max-instance-reuse-count",
    "1000000",
];

impl Bench {
    pub(crate) fn guest(&self, name: &str) -> PathBuf {
        self.guests.join(format!("{name}.wasm"))
    }

    /// A mesh that does the same as the servers it is compared with: its handler answers with the
    /// body.
    fn mesh(&self, nodes: usize) -> MeshOptions {
        let component = self.guest("body_echo");
        MeshOptions {
            nodes,
            secret: false,
            component,
            manifest: "",
            copies: 1,
            counted: false,
            with_state: false,
        }
    }

    /// A mesh whose handler adds one to the key's counter, which is committed before the reply.
    fn counters(&self, nodes: usize) -> MeshOptions {
        MeshOptions {
            component: self.guest("counter"),
            with_state: true,
            ..self.mesh(nodes)
        }
    }

    /// A mesh whose handler is the example `echo`: it reads JSON, and writes it with the stream and
    /// key of the message added.
    pub(crate) fn json_mesh(&self, nodes: usize) -> MeshOptions {
        MeshOptions {
            component: self.guest("echo"),
            ..self.mesh(nodes)
        }
    }

    pub(crate) fn start(&self, options: MeshOptions) -> Result<Mesh> {
        Mesh::start(&self.host, options)
    }

    /// Requests go to the first node, for keys of the last one: with one node they run locally.
    pub(crate) fn server(&self, name: &str, options: MeshOptions) -> Result<Server> {
        let owner = options.nodes - 1;
        self.start(options)?.into_server(name, owner)
    }

    fn local(&self) -> Result<Server> {
        self.server("meshage, local", self.mesh(1))
    }

    fn local_json(&self) -> Result<Server> {
        self.server("meshage, local, `echo`", self.json_mesh(1))
    }

    fn forwarded(&self) -> Result<Server> {
        self.server("meshage, forwarded", self.mesh(2))
    }

    fn forwarded_tls(&self) -> Result<Server> {
        self.server(
            "meshage, forwarded with TLS",
            MeshOptions {
                secret: true,
                ..self.mesh(2)
            },
        )
    }

    fn forwarded_json(&self) -> Result<Server> {
        self.server("meshage, forwarded, `echo`", self.json_mesh(2))
    }

    /// `wasmtime serve` with an HTTP component that answers with the body: with the default
    /// settings, and with the fastest ones.
    fn wasmtime(&self) -> Result<[Option<Server>; 3]> {
        let (p2, p3) = (self.guest("http_echo"), self.guest("http_echo_p3"));
        Ok([
            servers::wasmtime("`wasmtime serve`, WASI 0.2 as by default", &p2, &["-Scli"])?,
            servers::wasmtime("`wasmtime serve`, WASI 0.2, instances reused", &p2, &REUSED)?,
            servers::wasmtime(
                "`wasmtime serve`, WASI 0.3, instances reused",
                &p3,
                &REUSED_P3,
            )?,
        ])
    }
}

/// A row for each server, with its ratio to the first one, the baseline.
fn table(servers: &[&Server], samples: &[Samples]) -> Table {
    let rows = servers.iter().zip(samples).map(|(server, own)| {
        vec![
            server.name.clone(),
            thousands(own.median(|sample| sample.per_second)),
            spread(own.ratio(&samples[0]), 2),
            cpu_of_each(own),
            format!("{:.1}", own.median(|sample| sample.cpu.client)),
            format!("{:.2}", own.median(|sample| sample.p50_ms)),
            format!("{:.2}", own.median(|sample| sample.p99_ms)),
        ]
    });
    let head = vec![
        "",
        "requests/s",
        "ratio to the first",
        "CPU µs a request",
        "of the client",
        "p50 ms",
        "p99 ms",
    ];
    Table {
        head,
        rows: rows.collect(),
    }
}

/// CPU time of the server, and of each of its processes if there are several.
fn cpu_of_each(samples: &Samples) -> String {
    let total = format!("{:.1}", samples.median(|sample| sample.cpu.total()));
    let processes = samples.0[0].cpu.processes.len();
    if processes == 1 {
        return total;
    }
    let each = (0..processes).map(|process| {
        format!(
            "{:.1}",
            samples.median(|sample| sample.cpu.processes[process])
        )
    });
    format!("{total} ({})", each.collect::<Vec<_>>().join(" + "))
}

fn present<'a>(servers: impl IntoIterator<Item = &'a Option<Server>>) -> Vec<&'a Server> {
    servers.into_iter().flatten().collect()
}

fn local(bench: &Bench) -> Result<Section> {
    let [p2, p2_reused, p3] = bench.wasmtime()?;
    let servers = [
        Some(servers::bare_hyper()?),
        Some(bench.local()?),
        Some(bench.local_json()?),
        p2,
        p2_reused,
        p3,
    ];
    let servers = present(&servers);
    let samples = in_turns(&servers, Traffic::default(), bench.effort)?;
    let mut section = Section::new(
        "A message to its owner",
        "A client sends to the node that owns the key. All answer with the body that they got, whatever it is; the example `echo` reads it as \
         JSON, and writes it out with the message's address added. 32 connections, bodies of 16 bytes, a closed loop.",
    );
    section.tables.push(table(&servers, &samples));
    Ok(section)
}

fn forwarded_writes(bench: &Bench) -> Result<Section> {
    let local = bench.start(bench.counters(2))?;
    let servers = [
        &local.into_server("the node that has the request", 0)?,
        &bench.server("the other node", bench.counters(2))?,
    ];
    let mut section = Section::new(
        "A message to another node that writes state",
        "Two nodes share a file of SQLite, and a handler adds one to a counter of 100 bytes, of 64 keys in turns. With a forwarded message the \
         store keeps a record of its reply, so that the mesh can send it again.",
    );
    let mut rows = Vec::new();
    for connections in [1, 32, 128] {
        let traffic = Traffic {
            connections,
            ..Traffic::default()
        };
        let samples = in_turns(&servers, traffic, bench.effort)?;
        for (server, own) in servers.iter().zip(&samples) {
            rows.push(vec![
                connections.to_string(),
                server.name.clone(),
                thousands(own.median(|sample| sample.per_second)),
                spread(own.ratio(&samples[0]), 2),
                cpu_of_each(own),
                format!("{:.2}", own.median(|sample| sample.p50_ms)),
                format!("{:.2}", own.median(|sample| sample.p99_ms)),
            ]);
        }
    }
    let head = vec![
        "connections",
        "owner of the key",
        "requests/s",
        "ratio to the first",
        "CPU µs a request",
        "p50 ms",
        "p99 ms",
    ];
    section.tables.push(Table { head, rows });
    Ok(section)
}

fn forwarded(bench: &Bench) -> Result<Section> {
    let servers = [
        servers::haproxy()?,
        servers::nginx()?,
        Some(bench.forwarded()?),
        Some(bench.forwarded_tls()?),
        Some(bench.forwarded_json()?),
    ];
    let servers = present(&servers);
    let samples = in_turns(&servers, Traffic::default(), bench.effort)?;
    let mut section = Section::new(
        "A message to another node",
        "A client asks a node that does not own the key, which forwards to the one that does: two processes work for each request, as with \
         a proxy that hashes the path and an echo behind it. With a secret the nodes speak TLS 1.3; the proxies do not.",
    );
    section.tables.push(table(&servers, &samples));
    let [.., plain, tls, _] = samples.as_slice() else {
        unreachable!("there are always three of ours")
    };
    section.text.push_str(&format!(
        " With TLS beside without: {}.",
        spread(tls.ratio(plain), 2)
    ));
    Ok(section)
}

fn broadcast(bench: &Bench) -> Result<Section> {
    let mut servers = vec![bench.local_json()?, bench.forwarded_json()?];
    for nodes in 1..=3 {
        let mesh = bench.start(bench.json_mesh(nodes))?;
        servers.push(mesh.into_broadcast(&format!("meshage, broadcast to {nodes}, `echo`")));
    }
    let servers: Vec<&Server> = servers.iter().collect();
    let samples = in_turns(&servers, Traffic::default(), bench.effort)?;
    let cpu = |index: usize| samples[index].median(|sample| sample.cpu.total());
    let ratio = cpu(3) / (cpu(0) + cpu(1));
    let mut section = Section::new(
        "A broadcast",
        format!(
            "One request runs on every node that offers the stream, and is answered with all replies. All nodes share the cores. CPU of a \
             broadcast to two nodes beside one local and one forwarded message: {ratio:.2}."
        ),
    );
    section.tables.push(table(&servers, &samples));
    Ok(section)
}

fn latency(bench: &Bench) -> Result<Section> {
    let servers = [
        Some(servers::bare_hyper()?),
        Some(bench.local()?),
        servers::haproxy()?,
        Some(bench.forwarded()?),
    ];
    let servers = present(&servers);
    let peaks = in_turns(
        &servers,
        Traffic::default(),
        Effort {
            rounds: 1,
            ..bench.effort
        },
    )?;
    let peaks: Vec<f64> = peaks
        .iter()
        .map(|samples| samples.median(|sample| sample.per_second))
        .collect();
    let mut rows = Vec::new();
    let mut lines: Vec<(String, Vec<(f64, f64)>)> = servers
        .iter()
        .map(|server| (server.name.clone(), Vec::new()))
        .collect();
    for share in [0.1, 0.25, 0.5, 0.7] {
        let at: Vec<(&Server, f64)> = servers
            .iter()
            .zip(&peaks)
            .map(|(server, peak)| (*server, peak * share))
            .collect();
        let samples = at_rates(&at, Traffic::default(), bench.effort)?;
        for (index, samples) in samples.iter().enumerate() {
            let p99 = samples.spread(|sample| sample.p99_ms);
            lines[index].1.push((at[index].1, p99.median));
            rows.push(vec![
                servers[index].name.clone(),
                format!("{:.0} %", share * 100.0),
                thousands(at[index].1),
                format!("{:.2}", samples.median(|sample| sample.p50_ms)),
                spread(p99, 2),
                spread(samples.spread(|sample| sample.p999_ms), 2),
            ]);
        }
    }
    let mut section = Section::new(
        "Time to answer, below saturation",
        "Requests are due at a fixed rate, a share of what the server did in a closed loop just before, over 32 connections. Times count from \
         when a request was due, so that a pause delays all that were due in it. The client shares the cores. What lies above two milliseconds, of bare hyper too, is the system \
         giving a core to another of the threads that share it, for its time slice.",
    );
    section.tables.push(Table {
        head: vec![
            "",
            "of its peak",
            "requests/s",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
        ],
        rows,
    });
    section.plots.push(Plot {
        name: "latency",
        x: "requests/s",
        y: "p99 in ms",
        lines,
    });
    Ok(section)
}

fn bodies(bench: &Bench) -> Result<Section> {
    let servers = [
        Some(servers::bare_hyper()?),
        Some(bench.local()?),
        Some(bench.local_json()?),
        servers::haproxy()?,
        Some(bench.forwarded()?),
    ];
    let servers = present(&servers);
    let mut rows = Vec::new();
    for (body_bytes, name) in [
        (16, "16 B"),
        (1 << 10, "1 KiB"),
        (64 << 10, "64 KiB"),
        (1 << 20, "1 MiB"),
    ] {
        let samples = in_turns(
            &servers,
            Traffic {
                body_bytes,
                ..Traffic::default()
            },
            bench.effort,
        )?;
        for (server, own) in servers.iter().zip(&samples) {
            rows.push(vec![
                name.to_owned(),
                server.name.clone(),
                thousands(own.median(|sample| sample.per_second)),
                spread(own.ratio(&samples[0]), 2),
                format!("{:.1}", own.median(|sample| sample.cpu.total())),
            ]);
        }
    }
    let mut section = Section::new(
        "Bodies",
        "All answer with the body; `echo` reads it as JSON, and writes it out again. A component has a memory of its own: its host copies \
         what goes in and what comes out.",
    );
    section.tables.push(Table {
        head: vec![
            "body",
            "",
            "requests/s",
            "ratio to bare hyper",
            "CPU µs a request",
        ],
        rows,
    });
    Ok(section)
}

fn connections(bench: &Bench) -> Result<Section> {
    let servers = [servers::bare_hyper()?, bench.local()?];
    let servers: Vec<&Server> = servers.iter().collect();
    let (mut rows, mut lines) = (
        Vec::new(),
        vec![
            (servers[0].name.clone(), vec![]),
            (servers[1].name.clone(), vec![]),
        ],
    );
    let mut measure = |traffic: Traffic, name: String| -> Result<Vec<Samples>> {
        let samples = in_turns(&servers, traffic, bench.effort)?;
        rows.push(vec![
            name,
            thousands(samples[0].median(|sample| sample.per_second)),
            thousands(samples[1].median(|sample| sample.per_second)),
            spread(samples[1].ratio(&samples[0]), 2),
            format!("{:.2}", samples[0].median(|sample| sample.p99_ms)),
            format!("{:.2}", samples[1].median(|sample| sample.p99_ms)),
        ]);
        Ok(samples)
    };
    for connections in [1, 2, 8, 32, 128, 512] {
        let samples = measure(
            Traffic {
                connections,
                ..Traffic::default()
            },
            connections.to_string(),
        )?;
        for (line, samples) in lines.iter_mut().zip(&samples) {
            line.1.push((
                connections as f64,
                samples.median(|sample| sample.per_second) / 1_000.0,
            ));
        }
    }
    measure(
        Traffic {
            connect_each: true,
            ..Traffic::default()
        },
        "32, new for each request".into(),
    )?;
    let mut section = Section::new(
        "Connections",
        "A message to its owner, over this many connections at once.",
    );
    section.tables.push(Table {
        head: vec![
            "connections",
            "bare hyper, req/s",
            "meshage, req/s",
            "ratio",
            "bare hyper, p99 ms",
            "meshage, p99 ms",
        ],
        rows,
    });
    section.plots.push(Plot {
        name: "connections",
        x: "connections",
        y: "thousand requests/s",
        lines,
    });
    Ok(section)
}

fn handlers(bench: &Bench) -> Result<Section> {
    let fresh = |options| MeshOptions {
        manifest: "instances = \"fresh\"\n",
        ..options
    };
    let mut servers = vec![
        bench.server("Rust", bench.mesh(1))?,
        bench.server(
            "Rust, a fresh instance for each message",
            fresh(bench.mesh(1)),
        )?,
        bench.server("Rust, `echo`", bench.json_mesh(1))?,
        bench.server(
            "Rust, `echo`, a fresh instance for each message",
            fresh(bench.json_mesh(1)),
        )?,
    ];
    let text = "The same handler, which answers with the body, in several languages, and `echo`. By default an instance runs one message after \
                the other, as many as its manifest says.";
    // Built before anything is measured.
    let built: Vec<_> = LANGUAGES
        .iter()
        .map(|language| Ok((language.name, language.build()?)))
        .collect::<Result<_>>()?;
    for (name, (_folder, component)) in &built {
        let options = MeshOptions {
            component: component.clone(),
            ..bench.mesh(1)
        };
        servers.push(bench.server(name, options)?);
    }
    let servers: Vec<&Server> = servers.iter().collect();
    let samples = in_turns(&servers, Traffic::default(), bench.effort)?;
    let mut section = Section::new("Handlers", text);
    section.tables.push(table(&servers, &samples));
    Ok(section)
}

/// HTTP handlers, each beside the same component on `wasmtime serve`.
fn http_handlers(bench: &Bench) -> Result<Section> {
    let mut components = vec![("Rust, `wasip2`", bench.guest("http_echo"))];
    components.extend(OTHERS.map(|name| (name, other(name))));
    let built: Vec<_> = HTTP
        .iter()
        .map(|language| Ok((language.name, language.build()?)))
        .collect::<Result<_>>()?;
    components.extend(
        built
            .iter()
            .map(|(name, (_, component))| (*name, component.clone())),
    );
    let text = "HTTP handlers that answer a POST with its body, each on meshage and on `wasmtime serve`; \"fresh\" is a new instance for each request, as is \
                the default of both. StarlingMonkey's `fetch` handlers do not bear reuse of their instances; Python's write to the node's log, \
                which only a node has.";
    let mut section = Section::new("HTTP handlers", text);
    for (name, component) in components {
        let mesh = |title: &str, manifest| {
            let options = MeshOptions {
                component: component.clone(),
                manifest,
                ..bench.mesh(1)
            };
            bench.server(&format!("{name}: {title}"), options)
        };
        let wasmtime = |title: &str, flags: &[&str]| {
            if name.contains("Python") {
                return Ok(None);
            }
            servers::wasmtime(
                &format!("{name}: `wasmtime serve`, {title}"),
                &component,
                flags,
            )
        };
        let mut servers = vec![
            wasmtime("fresh", &FRESH)?,
            Some(mesh("meshage, fresh", "memory_mb = 256\n")?),
        ];
        if !name.contains("StarlingMonkey") {
            servers.push(wasmtime("reused", &REUSED)?);
            servers.push(Some(mesh(
                "meshage, reused",
                "instances = \"reuse\"\nmemory_mb = 256\n",
            )?));
        }
        let servers = present(&servers);
        let samples = in_turns(&servers, Traffic::default(), bench.effort)?;
        section.tables.push(table(&servers, &samples));
    }
    Ok(section)
}

fn plugins(bench: &Bench) -> Result<Section> {
    let one = bench.server("1 plugin", bench.json_mesh(1))?;
    let many = bench.server(
        "200 plugins",
        MeshOptions {
            copies: 200,
            ..bench.json_mesh(1)
        },
    )?;
    let servers = [&one, &many];
    let samples = in_turns(&servers, Traffic::default(), bench.effort)?;
    let mut section = Section::new(
        "Plugins",
        "A message to one plugin, of a node that has so many.",
    );
    section.tables.push(table(&servers, &samples));
    Ok(section)
}

/// Finding the owner of a key, as it is done for each message.
fn placement(bench: &Bench) -> Result<Section> {
    let keys: Vec<String> = (0..1_024)
        .map(|number| format!("customer-{number}"))
        .collect();
    let mut rows = Vec::new();
    for nodes in [1, 10, 100, 1_000] {
        let seeds: Vec<Seed> = (0..nodes)
            .map(|number| Ok(Seed::of(&NodeId::try_from(format!("node-{number}"))?)))
            .collect::<Result<_>>()?;
        let rounds = (0..bench.effort.rounds).map(|_| {
            let (mut found, began) = (0, Instant::now());
            while began.elapsed().as_secs_f64() < bench.effort.seconds / 4.0 {
                for key in &keys {
                    black_box(owner(black_box(&seeds), key, |seed| *seed));
                }
                found += keys.len();
            }
            began.elapsed().as_secs_f64() * 1e6 / found as f64
        });
        rows.push(vec![nodes.to_string(), spread(Spread::of(rounds), 3)]);
    }
    let mut section = Section::new(
        "Placement",
        "Finding the owner of a key among the nodes that offer its stream, for each message. How gossip grows with a mesh is in [scale](scale.md).",
    );
    section.tables.push(Table {
        head: vec!["nodes", "µs a message"],
        rows,
    });
    Ok(section)
}

fn memory(bench: &Bench) -> Result<Section> {
    let resident = |copies: usize| -> Result<(f64, f64)> {
        // Restarted, so that the memory used by compilation does not count.
        let (files, options) = bench
            .start(MeshOptions {
                copies,
                ..bench.json_mesh(1)
            })?
            .stop();
        let mesh = Mesh::start_in(files, &bench.host, options)?;
        let idle = mesh.processes[0].resident_kb()? as f64;
        let connections: Vec<_> = (0..1_000)
            .map(|_| std::net::TcpStream::connect(mesh.http[0]))
            .collect::<std::io::Result<_>>()?;
        let open = || -> Result<bool> {
            Ok(mesh
                .get(0, "/metrics")?
                .1
                .contains("meshage_client_connections 1000"))
        };
        wait_until(START_MAX, open)?;
        let connected = mesh.processes[0].resident_kb()? as f64;
        drop(connections);
        Ok((idle, connected - idle))
    };
    let measured = (0..bench.effort.rounds)
        .map(|_| Ok((resident(1)?, resident(101)?)))
        .collect::<Result<Vec<_>>>()?;
    let row = |name: &str, values: Vec<f64>, digits| {
        vec![
            name.to_owned(),
            spread(Spread::of(values.into_iter()), digits),
        ]
    };
    let mut section = Section::new(
        "Memory",
        "Resident memory of a node that has just started, with its compiled plugins in the cache.",
    );
    section.tables.push(Table {
        head: vec!["", ""],
        rows: vec![
            row(
                "an idle node with `echo`, MB",
                measured.iter().map(|(one, _)| one.0 / 1024.0).collect(),
                1,
            ),
            row(
                "a further plugin with its warm instance, kB",
                measured
                    .iter()
                    .map(|(one, many)| (many.0 - one.0) / 100.0)
                    .collect(),
                0,
            ),
            row(
                "a client's connection before its first request, kB",
                measured.iter().map(|(one, _)| one.1 / 1_000.0).collect(),
                1,
            ),
        ],
    });
    Ok(section)
}

fn http2(bench: &Bench) -> Result<Section> {
    let mut section = Section::new(
        "HTTP/2",
        "A message to its owner, by `h2load` (of nghttp2): 8 connections, with up to 16 requests at a time on each, bodies of 16 bytes; first in a \
         closed loop, then at a fixed rate. `h2load` counts from when it has sent a request, not from when it was due.",
    );
    if installed("h2load").is_none() {
        section.text.push_str(" It was not installed.");
        return Ok(section);
    }
    let servers = [servers::bare_hyper()?, bench.local()?];
    let closed = h2load_in_turns(&servers, [None; 2], bench.effort)?;
    let half = [&closed[0], &closed[1]]
        .map(|samples| Some(samples.median(|sample| sample.per_second) / 2.0));
    let open = h2load_in_turns(&servers, half, bench.effort)?;
    let mut rows = Vec::new();
    for (pace, samples) in [("all it can", &closed), ("50 %", &open)] {
        for (server, own) in servers.iter().zip(samples) {
            rows.push(vec![
                server.name.clone(),
                pace.to_owned(),
                thousands(own.median(|sample| sample.per_second)),
                spread(own.ratio(&samples[0]), 2),
                cpu_of_each(own),
                format!("{:.1}", own.median(|sample| sample.cpu.client)),
                format!("{:.2}", own.median(|sample| sample.p50_ms)),
                spread(own.spread(|sample| sample.p99_ms), 2),
                spread(own.spread(|sample| sample.p999_ms), 2),
            ]);
        }
    }
    let head = vec![
        "",
        "of its peak",
        "requests/s",
        "ratio to the first",
        "CPU µs a request",
        "of the client",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
    ];
    section.tables.push(Table { head, rows });
    Ok(section)
}

const H2_CONNECTIONS: usize = 8;

/// Measures two servers in turns with h2load, each at its rate, or as fast as it can (`None`).
fn h2load_in_turns(
    servers: &[Server; 2],
    rates: [Option<f64>; 2],
    effort: Effort,
) -> Result<[Samples; 2]> {
    let mut samples = [Samples(Vec::new()), Samples(Vec::new())];
    for _ in 0..effort.rounds {
        for ((server, rate), samples) in servers.iter().zip(rates).zip(&mut samples) {
            samples.0.push(h2load(server, rate, effort.seconds)?);
        }
    }
    Ok(samples)
}

fn h2load(server: &Server, rate: Option<f64>, seconds: f64) -> Result<Sample> {
    let (mut body, log) = (NamedTempFile::new()?, NamedTempFile::new()?);
    body.write_all(format!("\"{}\"", "x".repeat(14)).as_bytes())?;
    let mut command = Command::new("h2load");
    command.args([
        "-c",
        &H2_CONNECTIONS.to_string(),
        "-m16",
        "-t1",
        "-D",
        &seconds.ceil().to_string(),
    ]);
    if let Some(rate) = rate {
        command.arg(format!("--rps={:.0}", rate / H2_CONNECTIONS as f64));
    }
    command
        .args(["-H", "content-type: application/json", "-d"])
        .arg(body.path());
    command
        .arg("--log-file")
        .arg(log.path())
        .arg(format!("http://{}{}", server.addr, server.paths[0]));
    let (cpu, client) = (server.cpu()?, cpu_of_ended()?);
    let output = command.output()?;
    let client = cpu_of_ended()? - client;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        said.contains(" 0 failed, 0 errored, 0 timeout"),
        "requests failed:\n{said}"
    );
    let line = said
        .lines()
        .find(|line| line.starts_with("finished in"))
        .context("h2load has not finished")?;
    let per_second = line
        .split(", ")
        .nth(1)
        .and_then(|rate| rate.split(' ').next())
        .context("h2load tells no rate")?;
    // A line for each request: when it was sent, its status, and how long it took in microseconds.
    let mut took = Histogram::<u64>::new(3)?;
    for line in std::fs::read_to_string(log.path())?.lines() {
        took.record(
            line.rsplit('\t')
                .next()
                .context("a line of h2load's log is empty")?
                .parse()?,
        )?;
    }
    let quantile_ms = |quantile| took.value_at_quantile(quantile) as f64 / 1e3;
    let sample = Sample {
        per_second: per_second.parse()?,
        cpu: CpuUs::since(&cpu, server, client, took.len())?,
        p50_ms: quantile_ms(0.5),
        p99_ms: quantile_ms(0.99),
        p999_ms: quantile_ms(0.999),
    };
    sample.tell(&server.name);
    Ok(sample)
}

fn start(bench: &Bench) -> Result<Section> {
    let mut found: [Vec<f64>; 3] = Default::default();
    for round in 0..bench.effort.rounds {
        let began = Instant::now();
        let mesh = bench.start(bench.json_mesh(1))?;
        found[0].push(began.elapsed().as_secs_f64() * 1e3);
        // A custom section makes it another component, with the same code.
        let stamp = [
            &[0, 12, 5][..],
            b"stamp",
            &(round as u32).to_be_bytes(),
            &[0, 0],
        ]
        .concat();
        let mut changed = std::fs::read(bench.guest("echo"))?;
        changed.extend(stamp);
        let plugins = mesh.files.path().join("plugins");
        std::fs::write(plugins.join("new"), changed)?;
        let before = loaded_at(&mesh)?;
        let began = Instant::now();
        std::fs::rename(plugins.join("new"), plugins.join("echo.wasm"))?;
        wait_until(START_MAX, || Ok(loaded_at(&mesh)? != before))?;
        found[2].push(began.elapsed().as_secs_f64() * 1e3);
        let (files, options) = mesh.stop();
        let began = Instant::now();
        drop(Mesh::start_in(files, &bench.host, options)?);
        found[1].push(began.elapsed().as_secs_f64() * 1e3);
    }
    let names = [
        "from the process's start to ready, `echo` compiled anew, ms",
        "the same, with what was compiled before, ms",
        "from a changed file to the new version in use, compiled anew, no load, ms",
    ];
    let rows = names
        .iter()
        .zip(found)
        .map(|(name, values)| vec![name.to_string(), spread(Spread::of(values.into_iter()), 0)]);
    let kilobytes = std::fs::metadata(bench.guest("echo"))?.len() / 1_000;
    let mut section = Section::new(
        "Start and change",
        format!("One node, with one plugin of {kilobytes} kB."),
    );
    section.tables.push(Table {
        head: vec!["", ""],
        rows: rows.collect(),
    });
    Ok(section)
}

/// How everything was started, so that others can reproduce it.
fn commands(bench: &Bench) -> Result<Section> {
    let [p2, p2_reused, p3] = bench.wasmtime()?;
    let servers = [
        Some(servers::bare_hyper()?),
        Some(bench.local()?),
        Some(bench.forwarded()?),
        Some(bench.forwarded_tls()?),
        servers::haproxy()?,
        servers::nginx()?,
        p2,
        p2_reused,
        p3,
    ];
    let commands: Vec<String> = present(&servers)
        .into_iter()
        .map(Server::commands)
        .collect();
    let languages = LANGUAGES
        .iter()
        .chain(&HTTP)
        .map(|language| language.command.join(" "));
    let text = format!(
        "`$FILES` is an empty folder of each server's, `$GUESTS` where cargo puts components; ports are those of one run.\n\n{}\n\
         Components of other languages, in the project's folder:\n\n```text\n{}\n```",
        commands
            .join("\n")
            .replace(&bench.guests.display().to_string(), "$GUESTS"),
        languages.collect::<Vec<_>>().join("\n")
    );
    Ok(Section::new("Commands", text))
}

/// When the running version was loaded.
fn loaded_at(mesh: &Mesh) -> Result<String> {
    let plugins: serde_json::Value = serde_json::from_str(&mesh.get(0, "/plugins")?.1)?;
    let plugins = plugins["plugins"].as_array().context("no plugins")?;
    let ready = plugins
        .iter()
        .find(|plugin| plugin["state"] == "ready")
        .context("no plugin is ready")?;
    Ok(ready["loadedAt"].to_string())
}

/// The versions of everything that was measured.
pub(crate) fn versions(host: &Path) -> Vec<(String, String)> {
    let mut versions = vec![(
        "meshage".to_owned(),
        crate::process::version(host, "--version"),
    )];
    let others = [
        ("haproxy", "-v"),
        ("nginx", "-v"),
        ("h2load", "--version"),
        ("componentize-js", "--version"),
        ("componentize-py", "--version"),
    ];
    for (program, flag) in others {
        if let Some(file) = installed(program) {
            versions.push((program.to_owned(), crate::process::version(&file, flag)));
        }
    }
    if let Some(wasmtime) = servers::wasmtime_binary() {
        versions.push((
            "wasmtime".to_owned(),
            crate::process::version(&wasmtime, "--version"),
        ));
    }
    versions
}
