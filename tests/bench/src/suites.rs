//! What is measured.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::measure::{Effort, Samples, Spread, Traffic, at_rates, in_turns};
use crate::report::{Plot, Section, Table, spread, thousands};
use crate::servers::{self, Mesh, MeshOptions, Server};

/// Where what is measured was built, and how long to measure it.
pub(crate) struct Bench {
    pub(crate) host: PathBuf,
    pub(crate) guests: PathBuf,
    pub(crate) effort: Effort,
}

pub(crate) type Suite = (&'static str, fn(&Bench) -> Result<Section>);

pub(crate) const SUITES: [Suite; 9] = [
    ("local", local),
    ("forwarded", forwarded),
    ("broadcast", broadcast),
    ("latency", latency),
    ("bodies", bodies),
    ("connections", connections),
    ("instances", instances),
    ("plugins", plugins),
    ("memory", memory),
];

impl Bench {
    fn guest(&self, name: &str) -> PathBuf {
        self.guests.join(format!("{name}.wasm"))
    }

    fn mesh(&self, nodes: usize, secret: bool) -> Result<Mesh> {
        self.mesh_with(nodes, secret, "", 1)
    }

    fn mesh_with(&self, nodes: usize, secret: bool, manifest: &str, copies: usize) -> Result<Mesh> {
        let echo = self.guest("echo");
        Mesh::start(&self.host, MeshOptions { nodes, secret, echo: &echo, manifest, copies, counted: false })
    }

    /// A mesh whose instructions are counted.
    pub(crate) fn counted(&self, nodes: usize) -> Result<Mesh> {
        let echo = self.guest("echo");
        let options = MeshOptions { nodes, secret: false, echo: &echo, manifest: "", copies: 1, counted: true };
        Mesh::start(&self.host, options)
    }

    fn one_node(&self) -> Result<Server> {
        self.mesh(1, false)?.into_server("meshage, local", 0)
    }

    fn forwarding(&self, secret: bool) -> Result<Server> {
        let name = if secret { "meshage, forwarded with TLS" } else { "meshage, forwarded" };
        self.mesh(2, secret)?.into_server(name, 1)
    }
}

/// A row for each server, with its ratio to the baseline, which is the first.
fn table(servers: &[&Server], samples: &[Samples]) -> Table {
    let rows = servers.iter().zip(samples).map(|(server, own)| {
        vec![
            server.name.clone(),
            thousands(own.median(|sample| sample.per_second)),
            spread(own.ratio(&samples[0]), 2),
            format!("{:.1}", own.median(|sample| sample.cpu_us)),
            format!("{:.2}", own.median(|sample| sample.p50_ms)),
            format!("{:.2}", own.median(|sample| sample.p99_ms)),
        ]
    });
    let head = vec!["", "requests/s", "ratio to the first", "CPU µs a request", "p50 ms", "p99 ms"];
    Table { head, rows: rows.collect() }
}

fn present<'a>(servers: impl IntoIterator<Item = &'a Option<Server>>) -> Vec<&'a Server> {
    servers.into_iter().flatten().collect()
}

fn local(bench: &Bench) -> Result<Section> {
    let servers = [
        Some(servers::bare_hyper()?),
        Some(bench.one_node()?),
        servers::wasmtime("`wasmtime serve`, WASI 0.2", &bench.guest("http_echo"), &[])?,
    ];
    let servers = present(&servers);
    let samples = in_turns(&servers, Traffic::default(), bench.effort)?;
    let mut section = Section::new(
        "A message to its owner",
        "A client sends to the node that owns the key; the echo handler is a component, and answers with what it got and who it is. \
         32 connections, bodies of 16 bytes, a closed loop.",
    );
    section.tables.push(table(&servers, &samples));
    Ok(section)
}

fn forwarded(bench: &Bench) -> Result<Section> {
    let servers =
        [servers::haproxy()?, servers::nginx()?, Some(bench.forwarding(false)?), Some(bench.forwarding(true)?)];
    let servers = present(&servers);
    let samples = in_turns(&servers, Traffic::default(), bench.effort)?;
    let mut section = Section::new(
        "A message to another node",
        "A client asks a node that does not own the key, which forwards to the one that does: two processes work for each request, as with \
         a proxy that hashes the path and an echo behind it. With a secret the nodes speak TLS 1.3; the proxies do not.",
    );
    section.tables.push(table(&servers, &samples));
    let tls = samples[samples.len() - 1].ratio(&samples[samples.len() - 2]);
    section.text.push_str(&format!(" With TLS beside without: {}.", spread(tls, 2)));
    Ok(section)
}

fn broadcast(bench: &Bench) -> Result<Section> {
    let mut servers = vec![bench.one_node()?, bench.forwarding(false)?];
    for nodes in 1..=3 {
        servers.push(bench.mesh(nodes, false)?.into_broadcast(&format!("meshage, broadcast to {nodes}")));
    }
    let servers: Vec<&Server> = servers.iter().collect();
    let samples = in_turns(&servers, Traffic::default(), bench.effort)?;
    let cpu = |index: usize| samples[index].median(|sample| sample.cpu_us);
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
    let servers =
        [Some(servers::bare_hyper()?), Some(bench.one_node()?), servers::haproxy()?, Some(bench.forwarding(false)?)];
    let servers = present(&servers);
    let peaks = in_turns(&servers, Traffic::default(), Effort { rounds: 1, ..bench.effort })?;
    let peaks: Vec<f64> = peaks.iter().map(|samples| samples.median(|sample| sample.per_second)).collect();
    let mut rows = Vec::new();
    let mut lines: Vec<(String, Vec<(f64, f64)>)> =
        servers.iter().map(|server| (server.name.clone(), Vec::new())).collect();
    for share in [0.1, 0.25, 0.5, 0.7] {
        let at: Vec<(&Server, f64)> =
            servers.iter().zip(&peaks).map(|(server, peak)| (*server, peak * share)).collect();
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
         when a request was due, so that a pause delays all that were due in it. The client shares the cores.",
    );
    section.tables.push(Table { head: vec!["", "of its peak", "requests/s", "p50 ms", "p99 ms", "p99.9 ms"], rows });
    section.plots.push(Plot { name: "latency", x: "requests/s", y: "p99 in ms", lines });
    Ok(section)
}

fn bodies(bench: &Bench) -> Result<Section> {
    let servers =
        [Some(servers::bare_hyper()?), Some(bench.one_node()?), servers::haproxy()?, Some(bench.forwarding(false)?)];
    let servers = present(&servers);
    let mut rows = Vec::new();
    for (body_bytes, name) in [(16, "16 B"), (1 << 10, "1 KiB"), (64 << 10, "64 KiB"), (1 << 20, "1 MiB")] {
        let samples = in_turns(&servers, Traffic { body_bytes, ..Traffic::default() }, bench.effort)?;
        for (server, own) in servers.iter().zip(&samples) {
            rows.push(vec![
                name.to_owned(),
                server.name.clone(),
                thousands(own.median(|sample| sample.per_second)),
                spread(own.ratio(&samples[0]), 2),
                format!("{:.1}", own.median(|sample| sample.cpu_us)),
            ]);
        }
    }
    let mut section = Section::new(
        "Bodies",
        "The handler copies a body in, reads it as JSON, and writes it out again; the others only pass it on.",
    );
    section
        .tables
        .push(Table { head: vec!["body", "", "requests/s", "ratio to bare hyper", "CPU µs a request"], rows });
    Ok(section)
}

fn connections(bench: &Bench) -> Result<Section> {
    let servers = [servers::bare_hyper()?, bench.one_node()?];
    let servers: Vec<&Server> = servers.iter().collect();
    let (mut rows, mut lines) =
        (Vec::new(), vec![(servers[0].name.clone(), vec![]), (servers[1].name.clone(), vec![])]);
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
        let samples = measure(Traffic { connections, ..Traffic::default() }, connections.to_string())?;
        for (line, samples) in lines.iter_mut().zip(&samples) {
            line.1.push((connections as f64, samples.median(|sample| sample.per_second) / 1_000.0));
        }
    }
    measure(Traffic { connect_each: true, ..Traffic::default() }, "32, new for each request".into())?;
    let mut section = Section::new("Connections", "A message to its owner, over this many connections at once.");
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
    section.plots.push(Plot { name: "connections", x: "connections", y: "thousand requests/s", lines });
    Ok(section)
}

fn instances(bench: &Bench) -> Result<Section> {
    let fresh =
        bench.mesh_with(1, false, "instances = \"fresh\"\n", 1)?.into_server("a fresh instance for each message", 0)?;
    let reused = bench.one_node()?.named("reused instances");
    let servers = [&reused, &fresh];
    let samples = in_turns(&servers, Traffic::default(), bench.effort)?;
    let mut section = Section::new(
        "Instances",
        "By default an instance runs one message after the other, as many as its manifest says; with `instances = \"fresh\"` each \
         message has its own.",
    );
    section.tables.push(table(&servers, &samples));
    Ok(section)
}

fn plugins(bench: &Bench) -> Result<Section> {
    let one = bench.one_node()?.named("1 plugin");
    let many = bench.mesh_with(1, false, "", 200)?.into_server("200 plugins", 0)?;
    let servers = [&one, &many];
    let samples = in_turns(&servers, Traffic::default(), bench.effort)?;
    let mut section = Section::new("Plugins", "A message to one plugin, of a node that has so many.");
    section.tables.push(table(&servers, &samples));
    Ok(section)
}

fn memory(bench: &Bench) -> Result<Section> {
    let resident = |copies: usize| -> Result<(f64, f64)> {
        let mesh = bench.mesh_with(1, false, "", copies)?;
        let idle = mesh.processes[0].resident_kb()? as f64;
        let connections: Vec<_> =
            (0..1_000).map(|_| std::net::TcpStream::connect(mesh.http[0])).collect::<std::io::Result<_>>()?;
        let open = || -> Result<bool> { Ok(mesh.get(0, "/metrics")?.1.contains("meshage_client_connections 1000")) };
        while !open()? {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let connected = mesh.processes[0].resident_kb()? as f64;
        drop(connections);
        Ok((idle, connected - idle))
    };
    let measured = (0..bench.effort.rounds).map(|_| Ok((resident(1)?, resident(101)?))).collect::<Result<Vec<_>>>()?;
    let row =
        |name: &str, values: Vec<f64>, digits| vec![name.to_owned(), spread(Spread::of(values.into_iter()), digits)];
    let mut section = Section::new(
        "Memory",
        "Resident memory of a node that has just started, with its compiled plugins in the cache.",
    );
    section.tables.push(Table {
        head: vec!["", ""],
        rows: vec![
            row("an idle node with `echo`, MB", measured.iter().map(|(one, _)| one.0 / 1024.0).collect(), 1),
            row(
                "a further plugin with its warm instance, kB",
                measured.iter().map(|(one, many)| (many.0 - one.0) / 100.0).collect(),
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

/// The versions of everything that was measured.
pub(crate) fn versions(host: &Path) -> Vec<(String, String)> {
    let mut versions = vec![("meshage".to_owned(), crate::process::version(host, "--version"))];
    let others = [("haproxy", "-v"), ("nginx", "-v")];
    for (program, flag) in others {
        if let Some(file) = crate::process::installed(program) {
            versions.push((program.to_owned(), crate::process::version(&file, flag)));
        }
    }
    if let Some(wasmtime) = servers::wasmtime_binary() {
        versions.push(("wasmtime".to_owned(), crate::process::version(&wasmtime, "--version")));
    }
    versions
}
