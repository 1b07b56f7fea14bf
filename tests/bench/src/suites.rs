//! What is measured.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::measure::{Effort, Samples, Spread, Traffic, at_rates, in_turns};
use crate::process::installed;
use crate::report::{Plot, Section, Table, spread, thousands};
use crate::servers::{self, Mesh, MeshOptions, Server};

/// Where what is measured was built, and how long to measure it.
pub(crate) struct Bench {
    pub(crate) host: PathBuf,
    pub(crate) guests: PathBuf,
    pub(crate) effort: Effort,
}

pub(crate) type Suite = (&'static str, fn(&Bench) -> Result<Section>);

pub(crate) const SUITES: [Suite; 11] = [
    ("local", local),
    ("forwarded", forwarded),
    ("broadcast", broadcast),
    ("latency", latency),
    ("bodies", bodies),
    ("connections", connections),
    ("http2", http2),
    ("instances", instances),
    ("plugins", plugins),
    ("memory", memory),
    ("start", start),
];

/// The most that `wasmtime serve` offers.
const REUSED: [&str; 4] = ["-Scli", "-Opooling-allocator", "--max-instance-reuse-count", "1000000"];
const REUSED_P3: [&str; 5] =
    ["-Scli,p3", "-Wcomponent-model-async", "-Opooling-allocator", "--max-instance-reuse-count", "1000000"];

impl Bench {
    fn guest(&self, name: &str) -> PathBuf {
        self.guests.join(format!("{name}.wasm"))
    }

    fn mesh(&self, nodes: usize, secret: bool) -> Result<Mesh> {
        self.mesh_with(nodes, secret, "", 1)
    }

    fn mesh_with(&self, nodes: usize, secret: bool, manifest: &'static str, copies: usize) -> Result<Mesh> {
        let echo = self.guest("echo");
        Mesh::start(&self.host, MeshOptions { nodes, secret, echo, manifest, copies, counted: false })
    }

    /// A mesh whose instructions are counted.
    pub(crate) fn counted(&self, nodes: usize) -> Result<Mesh> {
        let echo = self.guest("echo");
        let options = MeshOptions { nodes, secret: false, echo, manifest: "", copies: 1, counted: true };
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
        servers::wasmtime("`wasmtime serve`, WASI 0.2 as by default", &bench.guest("http_echo"), &["-Scli"])?,
        servers::wasmtime("`wasmtime serve`, WASI 0.2, instances reused", &bench.guest("http_echo"), &REUSED)?,
        servers::wasmtime("`wasmtime serve`, WASI 0.3, instances reused", &bench.guest("http_echo_p3"), &REUSED_P3)?,
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
         when a request was due, so that a pause delays all that were due in it. The client shares the cores. What lies above two milliseconds, of bare hyper too, is the system \
         giving a core to another of the threads that share it, for its time slice.",
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
        // Started again: it does not count what compiling took.
        let (files, options) = bench.mesh_with(1, false, "", copies)?.stop();
        let mesh = Mesh::start_in(files, &bench.host, options)?;
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

fn http2(bench: &Bench) -> Result<Section> {
    let mut section = Section::new(
        "HTTP/2",
        "A message to its owner, by `h2load` (of nghttp2): 8 connections with 16 requests at a time on each, bodies of 16 bytes.",
    );
    if installed("h2load").is_none() {
        section.text.push_str(" It was not installed.");
        return Ok(section);
    }
    let servers = [servers::bare_hyper()?, bench.one_node()?];
    let mut found = [Vec::new(), Vec::new()];
    for _ in 0..bench.effort.rounds {
        for (server, found) in servers.iter().zip(&mut found) {
            found.push(h2load(server, bench.effort.seconds)?);
        }
    }
    let ratio = Spread::of(found[1].iter().zip(&found[0]).map(|(own, bare)| own / bare));
    let median = |values: &[f64]| thousands(Spread::of(values.iter().copied()).median);
    section.tables.push(Table {
        head: vec!["bare hyper, req/s", "meshage, req/s", "ratio"],
        rows: vec![vec![median(&found[0]), median(&found[1]), spread(ratio, 2)]],
    });
    Ok(section)
}

fn h2load(server: &Server, seconds: f64) -> Result<f64> {
    let mut body = tempfile::NamedTempFile::new()?;
    body.write_all(format!("\"{}\"", "x".repeat(14)).as_bytes())?;
    let output = Command::new("h2load")
        .args(["-c8", "-m16", "-t1", "-D", &seconds.ceil().to_string(), "-H", "content-type: application/json", "-d"])
        .arg(body.path())
        .arg(format!("http://{}{}", server.addr, server.paths[0]))
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().find(|line| line.starts_with("finished in")).context("h2load has not finished")?;
    let rate = line.split(", ").nth(1).and_then(|rate| rate.split(' ').next()).context("h2load tells no rate")?;
    ensure!(said.contains(" 0 failed, 0 errored, 0 timeout"), "requests failed:\n{said}");
    eprintln!("  {:<40} {rate} req/s", server.name);
    Ok(rate.parse()?)
}

fn start(bench: &Bench) -> Result<Section> {
    let mut found: [Vec<f64>; 3] = Default::default();
    for round in 0..bench.effort.rounds {
        let began = Instant::now();
        let mesh = bench.mesh(1, false)?;
        found[0].push(began.elapsed().as_secs_f64() * 1e3);
        // A custom section makes it another component, with the same code.
        let stamp = [&[0, 12, 5][..], b"stamp", &(round as u32).to_be_bytes(), &[0, 0]].concat();
        let mut changed = std::fs::read(bench.guest("echo"))?;
        changed.extend(stamp);
        let plugins = mesh.files.path().join("plugins");
        std::fs::write(plugins.join("new"), changed)?;
        let before = loaded_at(&mesh)?;
        let began = Instant::now();
        std::fs::rename(plugins.join("new"), plugins.join("echo.wasm"))?;
        while loaded_at(&mesh)? == before {
            std::thread::sleep(Duration::from_millis(1));
        }
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
    let rows =
        names.iter().zip(found).map(|(name, values)| vec![name.to_string(), spread(Spread::of(values.into_iter()), 0)]);
    let mut section = Section::new("Start and change", "One node, with one plugin of 258 KB.");
    section.tables.push(Table { head: vec!["", ""], rows: rows.collect() });
    Ok(section)
}

/// When the version that is in use was loaded.
fn loaded_at(mesh: &Mesh) -> Result<String> {
    let plugins: serde_json::Value = serde_json::from_str(&mesh.get(0, "/plugins")?.1)?;
    let plugins = plugins["plugins"].as_array().context("no plugins")?;
    let ready = plugins.iter().find(|plugin| plugin["state"] == "ready").context("no plugin is ready")?;
    Ok(ready["loadedAt"].to_string())
}

/// The versions of everything that was measured.
pub(crate) fn versions(host: &Path) -> Vec<(String, String)> {
    let mut versions = vec![("meshage".to_owned(), crate::process::version(host, "--version"))];
    let others = [("haproxy", "-v"), ("nginx", "-v"), ("h2load", "--version")];
    for (program, flag) in others {
        if let Some(file) = installed(program) {
            versions.push((program.to_owned(), crate::process::version(&file, flag)));
        }
    }
    if let Some(wasmtime) = servers::wasmtime_binary() {
        versions.push(("wasmtime".to_owned(), crate::process::version(&wasmtime, "--version")));
    }
    versions
}
