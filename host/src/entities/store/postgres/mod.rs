//! PostgreSQL: a database that the nodes of many hosts share. Two connections: one commits, one
//! looks. Neither holds a lock or a transaction while a handler runs.

mod commit;
mod connect;
mod look;
mod outbox;
mod schema;
mod sql;
mod tls;
mod url;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Error;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::ToSql;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::backend::{Backend, Look, LookError, Make, Order, SWEPT_MAX, Seen, StoreError, Swept};
use super::{Store, start};
use crate::entities::commit::{Commit, Outcome};
use crate::entities::outbox::{Chores, Outbox, Tended};
use commit::Batch;
use connect::{Connection, Connector};

pub use url::PostgresUrl;

/// How long a connection may take to be made, on all hosts of the URL together.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long the server may take for one batch. It then counts as gone.
const STATEMENT_MAX: Duration = Duration::from_secs(10);

/// How long it is waited between two tries to learn how a commit ended whose connection was lost.
const RESOLVE_PAUSE: Duration = Duration::from_millis(200);

/// What uses one connection, which is made again when it is lost.
struct Postgres {
    outbox: Arc<Outbox>,
    connector: Connector,
    connection: Option<Connection>,
    /// Its last batch.
    batch: Batch,
}

impl Postgres {
    fn new(connector: Connector, outbox: Arc<Outbox>) -> Self {
        let committer = Uuid::now_v7();
        Self {
            outbox,
            connector,
            connection: None,
            batch: Batch {
                committer,
                number: 0,
            },
        }
    }
}

/// How a statement failed.
#[derive(Debug)]
enum Failed {
    /// The server rejects what was to be written, and would do so again.
    Data(Error),
    /// Two batches waited for each other; one was rolled back.
    Conflict,
    /// The server did nothing.
    Nothing(StoreError),
    /// The connection was lost: it may have been done.
    Unknown(StoreError),
}

impl Failed {
    fn of(error: Error) -> Self {
        let Some(db) = error.as_db_error() else {
            return Self::Unknown(StoreError(text(&error)));
        };
        // A connection that the server ends may have been ended after the commit.
        if !matches!(db.parsed_severity(), Some(Severity::Error)) {
            return Self::Unknown(StoreError(text(&error)));
        }
        let code = db.code();
        if [
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::T_R_SERIALIZATION_FAILURE,
        ]
        .contains(code)
        {
            return Self::Conflict;
        }
        // Classes of errors: data exceptions, integrity constraints, what triggers raise, limits
        // of the server.
        if ["22", "23", "P0", "54"]
            .iter()
            .any(|class| code.code().starts_with(class))
        {
            return Self::Data(error);
        }
        Self::Nothing(StoreError(text(&error)))
    }
}

/// How tokio-postgres says that it was to speak TLS, and the server does not.
const NO_TLS: &str = "server does not support TLS";

/// The error with its causes, on one line, and what to do where that is known.
fn text(error: &Error) -> String {
    let mut text = match error.as_db_error() {
        Some(db) => return format!("{} ({})", db.message(), db.code().code()),
        None => error.to_string(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    if text.ends_with(NO_TLS) {
        text += " (a URL with `?sslmode=disable` goes without, where nobody else is on the way)";
    }
    text.replace('\n', " ")
}

impl Store {
    /// Opens the database with the tables in it.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(in crate::entities) async fn open_postgres(
        url: &PostgresUrl,
        cluster: &str,
        make: Make,
        outbox: Arc<Outbox>,
        ended: CancellationToken,
    ) -> Result<(Self, Uuid), StoreError> {
        let named = |error: StoreError| StoreError(format!("{url}: {error}"));
        let connector = Connector::new(url).map_err(named)?;
        let mut connection = connector.connect().await.map_err(named)?;
        let id = schema::prepare(&mut connection.client, cluster, make)
            .await
            .map_err(named)?;
        connection.warn_of_settings().await.map_err(named)?;
        let asked = connection.client.query_one(&sql::clock(), &[]).await;
        let now = asked.map_err(|error| named(StoreError(text(&error))))?;
        outbox.clock.leave_host();
        outbox.clock.note(look::time(&now, 0));
        let store = Self::new(None, outbox.clone(), ended);
        let (committing, looking) = (
            Postgres::new(connector.clone(), outbox.clone()),
            Postgres::new(connector, outbox),
        );
        let (commits, looks) = (store.clone(), store.clone());
        let failed = |error: std::io::Error| named(StoreError(error.to_string()));
        start("commits", async move {
            commits.serve_commits(committing).await;
        })
        .map_err(failed)?;
        start("state", async move { looks.serve_looks(looking).await }).map_err(failed)?;
        Ok((store, id))
    }
}

impl Postgres {
    /// The connection, made again if it was lost.
    async fn connection(&mut self) -> Result<&mut Connection, StoreError> {
        if self.connection.as_ref().is_some_and(Connection::is_closed) {
            self.connection = None;
        }
        if self.connection.is_none() {
            let mut connection = self.connector.connect().await?;
            let prepared = timeout(STATEMENT_MAX, connection.prepare()).await;
            prepared.map_err(|_| StoreError(format!("no answer within {STATEMENT_MAX:?}")))??;
            self.connection = Some(connection);
        }
        self.connection
            .as_mut()
            .ok_or_else(|| StoreError("there is no connection".into()))
    }

    /// Commits a batch, and finds out how it ended if the connection is lost.
    async fn commit_batch(&mut self, commits: &[Commit]) -> Result<Vec<Outcome>, Failed> {
        self.batch.number += 1;
        let (batch, outbox) = (self.batch, self.outbox.clone());
        let connection = self.connection().await.map_err(Failed::Nothing)?;
        let sent = timeout(STATEMENT_MAX, async {
            if !connection.has_committer {
                let made = commit::make_committer(connection, batch.committer).await;
                made.map_err(|error| Failed::Nothing(StoreError(text(&error))))?;
                connection.has_committer = true;
            }
            commit::send(connection, batch, commits, &outbox).await
        })
        .await;
        let failed = match sent {
            Ok(Ok(outcomes)) => return Ok(outcomes),
            Ok(Err(failed)) => failed,
            Err(_) => Failed::Unknown(StoreError(format!("no answer within {STATEMENT_MAX:?}"))),
        };
        match failed {
            Failed::Unknown(error) => {
                self.connection = None;
                tracing::warn!(event = "commit-unknown", %error, "the connection was lost in a commit: finding out how it ended");
                self.resolve(batch, commits).await
            }
            other => Err(other),
        }
    }

    /// Learns from the batch's receipt how it ended. If there is none, the same batch is sent again:
    /// it waits for the first one, if that is still under way. An error of the second says nothing
    /// of the first, but that the data are not accepted.
    async fn resolve(&mut self, batch: Batch, commits: &[Commit]) -> Result<Vec<Outcome>, Failed> {
        loop {
            let outbox = self.outbox.clone();
            let tried = async {
                let connection = self.connection().await.map_err(Failed::Unknown)?;
                if let Some(outcomes) = commit::receipt(connection, batch, commits).await? {
                    return Ok(outcomes);
                }
                commit::send(connection, batch, commits, &outbox).await
            };
            match timeout(STATEMENT_MAX, tried).await {
                Ok(Ok(outcomes)) => return Ok(outcomes),
                Ok(Err(Failed::Data(error))) => return Err(Failed::Data(error)),
                Ok(Err(_)) | Err(_) => self.connection = None,
            }
            tokio::time::sleep(RESOLVE_PAUSE).await;
        }
    }

    /// Commits each by itself, so that only the bad ones fail. When the server does not work any more
    /// the rest is not tried.
    async fn commit_each(&mut self, commits: &[Commit]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(commits.len());
        for commit in commits {
            let mut alone = self.commit_batch(std::slice::from_ref(commit)).await;
            if let Err(Failed::Conflict) = alone {
                alone = self.commit_batch(std::slice::from_ref(commit)).await;
            }
            outcomes.push(match alone {
                Ok(outcomes) => outcomes[0],
                Err(Failed::Data(error)) => {
                    tracing::error!(event = "commit-rejected", entity = %commit.entity, error = text(&error), "the store rejects what a handler wrote");
                    Outcome::Rejected
                }
                Err(Failed::Conflict) => Outcome::Unavailable,
                Err(Failed::Nothing(_) | Failed::Unknown(_)) => break,
            });
        }
        outcomes.resize(commits.len(), Outcome::Unavailable);
        outcomes
    }
}

impl Backend for Postgres {
    async fn commit(&mut self, commits: &[Commit]) -> Result<Vec<Outcome>, StoreError> {
        match self.commit_batch(commits).await {
            Ok(outcomes) => Ok(outcomes),
            Err(Failed::Data(_) | Failed::Conflict) => Ok(self.commit_each(commits).await),
            Err(Failed::Nothing(error) | Failed::Unknown(error)) => Err(error),
        }
    }

    async fn look(&mut self, looks: &[Look]) -> Result<Vec<Seen>, LookError> {
        let connection = self.connection().await.map_err(LookError::Store)?;
        let seen = timeout(STATEMENT_MAX, look::look(connection, looks)).await;
        match seen {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(error)) => Err(match Failed::of(error) {
                Failed::Data(error) => LookError::Data(StoreError(text(&error))),
                Failed::Conflict => {
                    LookError::Store(StoreError("two looks were in conflict".into()))
                }
                Failed::Nothing(error) | Failed::Unknown(error) => LookError::Store(error),
            }),
            Err(_) => {
                self.connection = None;
                let error = format!("no answer within {STATEMENT_MAX:?}");
                Err(LookError::Store(StoreError(error)))
            }
        }
    }

    async fn tend(&mut self, chores: &Chores) -> Result<Tended, StoreError> {
        let node = self.outbox.node.clone();
        let connection = self.connection().await?;
        match timeout(
            STATEMENT_MAX,
            outbox::tend(connection, chores, node.as_str()),
        )
        .await
        {
            Ok(Ok(tended)) => Ok(tended),
            Ok(Err(error)) => Err(StoreError(text(&error))),
            Err(_) => {
                self.connection = None;
                Err(StoreError(format!("no answer within {STATEMENT_MAX:?}")))
            }
        }
    }

    async fn carry_out(&mut self, order: &Order) -> Result<u64, StoreError> {
        let connection = self.connection().await?;
        let doing = async {
            match order {
                Order::Retry(ids) => outbox::retry(connection, ids).await,
                Order::Import(imported) => outbox::import(connection, imported).await,
            }
        };
        match timeout(STATEMENT_MAX, doing).await {
            Ok(done) => done.map_err(|error| StoreError(text(&error))),
            Err(_) => {
                self.connection = None;
                Err(StoreError(format!("no answer within {STATEMENT_MAX:?}")))
            }
        }
    }

    async fn sweep(&mut self) -> Result<Swept, StoreError> {
        let connection = self.connection().await?;
        let Some(statements) = &connection.statements else {
            return Err(StoreError("nothing is prepared".into()));
        };
        let limit = SWEPT_MAX as i32;
        let parameters: [&(dyn ToSql + Sync); 1] = [&limit];
        let swept = connection.client.query_one(&statements.sweep, &parameters);
        match timeout(STATEMENT_MAX, swept).await {
            Ok(Ok(row)) => Ok(Swept {
                now: look::time(&row, 0),
                is_more: row.get::<_, i64>(1) >= SWEPT_MAX as i64,
            }),
            Ok(Err(error)) => Err(StoreError(text(&error))),
            Err(_) => {
                self.connection = None;
                Err(StoreError(format!("no answer within {STATEMENT_MAX:?}")))
            }
        }
    }
}
