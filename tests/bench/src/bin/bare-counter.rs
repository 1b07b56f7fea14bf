//! The limit of entities: hyper, a map, and one thread that commits whatever has gathered to SQLite,
//! and nothing else. No wasm, no fence, no order, no other nodes. `bare-counter FILE PORT`

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rusqlite::Connection;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// As in the node.
const CHECKPOINT_PAGES: i64 = 20_000;

/// What is beside the count in a state of about 100 bytes.
const PADDING: usize = 70;

#[derive(Default)]
struct Counters {
    counts: Mutex<HashMap<String, u64>>,
    waiting: Mutex<Vec<Commit>>,
    filled: Condvar,
}

struct Commit {
    key: String,
    state: String,
    done: oneshot::Sender<()>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().context("bare-counter FILE PORT")?;
    let port = arguments
        .next()
        .and_then(|port| port.parse().ok())
        .unwrap_or(0);
    let counters = Arc::new(Counters::default());
    let connection = open(Path::new(&file))?;
    let committing = counters.clone();
    thread::spawn(move || committing.commit_for_ever(connection));
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let counters = counters.clone();
        let answer = service_fn(move |request| {
            let counters = counters.clone();
            async move { Ok::<_, Infallible>(counters.count(&request).await) }
        });
        tokio::spawn(async move {
            // A connection that breaks concerns nobody else.
            let _ = Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

fn open(file: &Path) -> Result<Connection> {
    let connection = Connection::open(file)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.execute_batch(
        "CREATE TABLE counter (key TEXT PRIMARY KEY, state TEXT NOT NULL) STRICT, WITHOUT ROWID",
    )?;
    Ok(connection)
}

impl Counters {
    async fn count(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let key = request.uri().path().rsplit('/').next().unwrap_or_default();
        let count = {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(key.to_owned()).or_default();
            *count += 1;
            *count
        };
        let (done, is_done) = oneshot::channel();
        let commit = Commit {
            key: key.to_owned(),
            state: format!(
                "{{\"count\":{count},\"padding\":\"{}\"}}",
                "x".repeat(PADDING)
            ),
            done,
        };
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(commit);
        self.filled.notify_one();
        let _ = is_done.await;
        Response::new(Full::new(count.to_string().into()))
    }

    fn commit_for_ever(&self, mut connection: Connection) {
        loop {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            while waiting.is_empty() {
                waiting = self
                    .filled
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            let batch = std::mem::take(&mut *waiting);
            drop(waiting);
            commit(&mut connection, &batch).expect("the disk takes it");
            for commit in batch {
                let _ = commit.done.send(());
            }
        }
    }
}

fn commit(connection: &mut Connection, batch: &[Commit]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut upsert = transaction.prepare_cached(
            "INSERT INTO counter (key, state) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET state = excluded.state",
        )?;
        for commit in batch {
            upsert.execute((&commit.key, &commit.state))?;
        }
    }
    transaction.commit()
}
