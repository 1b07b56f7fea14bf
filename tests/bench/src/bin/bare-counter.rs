//! The limit of entities: hyper, a map, and one committer that writes whatever has gathered to the
//! store, and nothing else. No wasm, no fence, no order, no other nodes. And, with `each`, what people
//! do today: one upsert a request. `bare-counter PORT sqlite FILE | postgres URL | each URL`

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use anyhow::{Result, bail};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rusqlite::Connection;
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use tokio_postgres::{Client, NoTls, Statement};

/// As in the node.
const CHECKPOINT_PAGES: i64 = 20_000;

/// What is beside the count in a state of about 100 bytes.
const PADDING: usize = 70;

/// Connections of the service with one upsert a request.
const CONNECTIONS: usize = 16;

#[derive(Default)]
struct Counters {
    counts: Mutex<HashMap<String, u64>>,
    waiting: Mutex<Vec<Commit>>,
    filled: Condvar,
    gathered: Notify,
    /// For one upsert a request.
    each: Vec<Upserts>,
    next: AtomicUsize,
}

struct Upserts {
    client: Client,
    statement: Statement,
}

struct Commit {
    key: String,
    state: String,
    done: oneshot::Sender<()>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, kind, target] = arguments.as_slice() else {
        bail!("bare-counter PORT sqlite FILE | postgres URL | each URL")
    };
    let port: u16 = port.parse()?;
    let counters = match kind.as_str() {
        "sqlite" => {
            let connection = open(Path::new(target))?;
            let counters = Arc::new(Counters::default());
            let committing = counters.clone();
            thread::spawn(move || committing.commit_for_ever(connection));
            counters
        }
        "postgres" => {
            let client = connect(target).await?;
            let counters = Arc::new(Counters::default());
            tokio::spawn(counters.clone().commit_to_postgres(client));
            counters
        }
        "each" => {
            let mut each = Vec::new();
            for _ in 0..CONNECTIONS {
                let client = connect(target).await?;
                let statement = client.prepare(UPSERT_ONE).await?;
                each.push(Upserts { client, statement });
            }
            Arc::new(Counters {
                each,
                ..Counters::default()
            })
        }
        other => bail!("{other}: expected sqlite, postgres or each"),
    };
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

/// Counts in the database, as the service has no state.
const UPSERT_ONE: &str = "INSERT INTO counter AS c (key, count, padding) VALUES ($1, 1, $2)
    ON CONFLICT (key) DO UPDATE SET count = c.count + 1 RETURNING count";

const UPSERT_MANY: &str = "INSERT INTO counter_state (key, state)
    SELECT * FROM unnest($1::text[], $2::text[])
    ON CONFLICT (key) DO UPDATE SET state = excluded.state";

async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    client
        .batch_execute(
            "SET plan_cache_mode = force_generic_plan;
             CREATE TABLE IF NOT EXISTS counter (key text COLLATE \"C\" PRIMARY KEY, count bigint NOT NULL, padding text NOT NULL) WITH (fillfactor = 70);
             CREATE TABLE IF NOT EXISTS counter_state (key text COLLATE \"C\" PRIMARY KEY, state text NOT NULL) WITH (fillfactor = 70)",
        )
        .await?;
    Ok(client)
}

impl Counters {
    async fn upsert(&self, key: &str) -> Result<i64> {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.each.len();
        let Upserts { client, statement } = &self.each[next];
        let padding = "x".repeat(PADDING);
        let row = client.query_one(statement, &[&key, &padding]).await?;
        Ok(row.get(0))
    }

    async fn commit_to_postgres(self: Arc<Self>, client: Client) {
        let statement = client.prepare(UPSERT_MANY).await.expect("it is valid");
        loop {
            let batch =
                std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            if batch.is_empty() {
                self.gathered.notified().await;
                continue;
            }
            // One statement changes a row once: of each key the last state counts.
            let last: HashMap<&str, &str> = batch
                .iter()
                .map(|commit| (commit.key.as_str(), commit.state.as_str()))
                .collect();
            let (keys, states): (Vec<&str>, Vec<&str>) = last.into_iter().unzip();
            client
                .execute(&statement, &[&keys, &states])
                .await
                .expect("the server takes it");
            for commit in batch {
                let _ = commit.done.send(());
            }
        }
    }

    async fn count(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let key = request.uri().path().rsplit('/').next().unwrap_or_default();
        if !self.each.is_empty() {
            let count = self.upsert(key).await.expect("the server takes it");
            return Response::new(Full::new(count.to_string().into()));
        }
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
        self.gathered.notify_one();
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
