//! The suites about entities: keys with state that is committed before the reply.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::counters::{self, Counters, Database, Store, message};
use crate::load::{Load, Pace, send_in_turn};
use crate::measure::{Samples, Spread, measure};
use crate::report::{Section, Table, spread, thousands};
use crate::suites::Bench;

/// Keys that requests cycle through, and connections.
const KEYS: [usize; 3] = [1, 1_000, 100_000];
const CONNECTIONS: [usize; 2] = [32, 128];

/// Servers that take no more keys than this in a time that one would wait for.
const FEW_KEYS: usize = 1_000;

/// Connections that send each of many requests once.
const SENDERS: usize = 64;

/// Entities of the large store.
const MANY: usize = 1_000_000;

pub(crate) fn entities(bench: &Bench) -> Result<Section> {
    let mut section = Section::new(
        "Entities",
        "A counter for each key, with a state of about 100 bytes, committed before the reply leaves: requests cycle through the keys, \
         each of which was written once before. The limit of a store is hyper, a map, and one committer that writes what has gathered; no \
         handler, no fence, no order. `workerd` keeps Durable Objects on its disk, Restate runs the handler in Node.js. Below each table: \
         how often this disk syncs 4 KiB, measured in the same rounds.",
    );
    let packages = counters::packages()?;
    let mut on_sqlite = vec![
        counters::limit(&Store::Sqlite)?,
        counters::meshage(&bench.host, &bench.guests, &Store::Sqlite, None)?,
    ];
    match &packages {
        Some(packages) => {
            on_sqlite.push(counters::workerd(packages.path())?);
            on_sqlite.push(counters::restate(packages.path())?);
        }
        None => section
            .text
            .push_str(" `workerd` and Restate were left out: npm could not install them."),
    }
    compare(bench, "SQLite", &on_sqlite, &mut section)?;
    drop(on_sqlite);
    let Some(database) = Database::start()? else {
        section
            .text
            .push_str(" PostgreSQL was left out: it is not installed.");
        return Ok(section);
    };
    let store = Store::Postgres(database.clone());
    let on_postgres = [
        counters::limit(&store)?,
        counters::meshage(&bench.host, &bench.guests, &store, None)?,
        counters::upserts(&database)?,
    ];
    compare(bench, "PostgreSQL", &on_postgres, &mut section)?;
    Ok(section)
}

/// Measures the servers in turns, the first of which is the limit, for all numbers of keys and
/// connections.
fn compare(
    bench: &Bench,
    store: &'static str,
    servers: &[Counters],
    section: &mut Section,
) -> Result<()> {
    let directory = TempDir::new()?;
    let mut syncs = Vec::new();
    let mut rows = Vec::new();
    for keys in KEYS {
        let measured: Vec<&Counters> = servers
            .iter()
            .filter(|counters| keys <= FEW_KEYS || is_quick(counters))
            .collect();
        for counters in &measured {
            fill(counters, keys)?;
        }
        for connections in CONNECTIONS {
            let loads: Vec<Load> = measured
                .iter()
                .map(|counters| load(counters, "POST", keys, connections))
                .collect();
            let mut samples: Vec<Samples> = measured.iter().map(|_| Samples(vec![])).collect();
            for round in 0..bench.effort.rounds {
                syncs.push(syncs_per_second(directory.path())?);
                for turn in 0..measured.len() {
                    let index = (turn + round) % measured.len();
                    let (server, load) = (&measured[index].server, &loads[index]);
                    let sample = measure(server, load, bench.effort.seconds)?;
                    samples[index].0.push(sample);
                }
            }
            for (counters, own) in measured.iter().zip(&samples) {
                rows.push(vec![
                    format!(
                        "{} {}, {connections} connections",
                        thousands(keys as f64),
                        if keys == 1 { "key" } else { "keys" }
                    ),
                    counters.server.name.clone(),
                    thousands(own.median(|sample| sample.per_second)),
                    spread(own.ratio(&samples[0]), 3),
                    spread(samples[1].ratio(own), 1),
                    format!("{:.1}", own.median(|sample| sample.cpu.total())),
                    format!("{:.2}", own.median(|sample| sample.p50_ms)),
                    format!("{:.2}", own.median(|sample| sample.p99_ms)),
                    spread(p99_ratio(own, &samples[0]), 2),
                ]);
            }
        }
    }
    let head = vec![
        store,
        "",
        "requests/s",
        "ratio to the limit",
        "meshage beside it",
        "CPU µs a request",
        "p50 ms",
        "p99 ms",
        "p99 beside the limit's",
    ];
    section.tables.push(Table { head, rows });
    section.text.push_str(&format!(
        " While {store} was measured: {} syncs/s.",
        spread(Spread::of(syncs.into_iter()), 0)
    ));
    Ok(())
}

fn is_quick(counters: &Counters) -> bool {
    !matches!(&*counters.server.name, "workerd" | "Restate")
}

fn p99_ratio(own: &Samples, limit: &Samples) -> Spread {
    let pairs = own.0.iter().zip(&limit.0);
    Spread::of(pairs.map(|(own, limit)| own.p99_ms / limit.p99_ms))
}

fn load(counters: &Counters, method: &str, keys: usize, connections: usize) -> Load {
    Load {
        addr: counters.server.addr,
        requests: counters.requests(method, keys),
        connections,
        pace: Pace::Closed,
        connect_each: false,
    }
}

/// Writes each key once.
fn fill(counters: &Counters, keys: usize) -> Result<()> {
    send_all(counters.server.addr, &counters.requests("POST", keys))
}

/// Sends each request once, over some connections.
fn send_all(addr: SocketAddr, requests: &[Vec<u8>]) -> Result<()> {
    thread::scope(|scope| {
        let senders: Vec<_> = requests
            .chunks(requests.len().div_ceil(SENDERS))
            .map(|own| scope.spawn(move || send_in_turn(addr, own, own.len())))
            .collect();
        senders
            .into_iter()
            .try_for_each(|sender| sender.join().expect("it does not panic"))
    })
}

/// How often the disk takes 4 KiB more of a file for good.
fn syncs_per_second(directory: &Path) -> Result<f64> {
    let mut file = File::create(directory.join("syncs"))?;
    let (began, mut count) = (Instant::now(), 0.0);
    while began.elapsed() < Duration::from_millis(300) {
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        count += 1.0;
    }
    Ok(count / began.elapsed().as_secs_f64())
}

/// Reads, memory, and a store with many entities.
pub(crate) fn many_entities(bench: &Bench) -> Result<Section> {
    let start = |file| counters::meshage(&bench.host, &bench.guests, &Store::Sqlite, file);
    let mut rows = Vec::new();
    let mut row = |name: &str, values: Vec<f64>, digits| {
        rows.push(vec![
            name.to_owned(),
            spread(Spread::of(values.into_iter()), digits),
        ]);
    };
    let counters = start(None)?;
    fill(&counters, FEW_KEYS)?;
    let read = load(&counters, "GET", FEW_KEYS, 32);
    let stateless = Load {
        requests: vec![message("GET", "/api/echo/k")],
        ..read.clone()
    };
    let mut cpu = Vec::new();
    for _ in 0..bench.effort.rounds {
        let [read, stateless] =
            [&read, &stateless].map(|load| measure(&counters.server, load, bench.effort.seconds));
        cpu.push(read?.cpu.total() / stateless?.cpu.total());
    }
    row(
        "CPU of a read of an entity in memory beside that of a stateless `echo`",
        cpu,
        2,
    );
    drop(counters);

    let directory = TempDir::new()?;
    let file = directory.path().join("state.db");
    drop(start(Some(&file))?);
    row("entities in the store from here on", vec![MANY as f64], 0);
    insert(&file)?;
    let mut idle = Vec::new();
    for _ in 0..bench.effort.rounds {
        let counters = start(Some(&file))?;
        idle.push(counters.server.processes[0].resident_kb()? as f64 / 1024.0);
    }
    row("an idle node with the store open, MB", idle, 1);
    let counters = start(Some(&file))?;
    // Each key for the first time.
    let first = Load {
        requests: (0..MANY)
            .map(|key| message("GET", &format!("/api/counter/k{}", scattered(key))))
            .collect(),
        connections: 1,
        ..load(&counters, "GET", 1, 1)
    };
    let sample = measure(&counters.server, &first, bench.effort.seconds)?;
    row(
        "the first read of an entity, p50, ms",
        vec![sample.p50_ms],
        3,
    );
    row("the same, p99, ms", vec![sample.p99_ms], 3);
    // The rest, from the end, so that all but the first ones are new.
    let mut requests = first.requests;
    requests.reverse();
    send_all(counters.server.addr, &requests)?;
    let resident = counters.server.processes[0].resident_kb()? as f64 / 1024.0;
    row(
        "the node after all were read (`--state-cache` is 128 MiB), MB",
        vec![resident],
        0,
    );
    let mut section = Section::new(
        "Many entities",
        "States of about 100 bytes, in SQLite; reads by GET. Each key is read for the first time over one connection.",
    );
    section.tables.push(Table {
        head: vec!["", ""],
        rows,
    });
    Ok(section)
}

/// Writes the entities into the file of a node that has ended.
fn insert(file: &Path) -> Result<()> {
    let mut connection = Connection::open(file)?;
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare(
            "INSERT INTO meshage_entity (stream, key, commit_id, state) VALUES ('counter', ?1, randomblob(16), ?2)",
        )?;
        let padding = "x".repeat(70);
        for key in 0..MANY {
            let state = format!("{{\"count\":{key},\"padding\":\"{padding}\"}}");
            insert.execute((format!("k{key}"), state))?;
        }
    }
    transaction.commit()?;
    connection
        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .context("the file is in use")
}

/// The keys in an order that is none.
fn scattered(number: usize) -> usize {
    number * 7_919 % MANY
}
