//! Connections: made, set up, and checked for what would break the promise.

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::{debug, warn};

use super::super::backend::StoreError;
use super::url::PostgresUrl;
use super::{CONNECT_MAX, sql, text, tls};

/// The oldest version that is tested.
const VERSION_MIN: i32 = 130_000;

/// Every statement of a connection finds its rows by their keys, and is planned once: a plan made
/// while a table was empty would read all of it for ever. A statement that waits for a lock
/// ends soon after the node has given it up (`STATEMENT_MAX`); no other limit of the server's ends one, as it
/// would also end the wait for a standby, and show what that does not have yet.
const SESSION: &str = "
    SET plan_cache_mode = force_generic_plan;
    SET enable_seqscan = off;
    SET jit = off;
    SET statement_timeout = 0;
    SET lock_timeout = '11s';
    SET default_transaction_isolation = 'read committed';";

/// Makes connections.
#[derive(Clone)]
pub(super) struct Connector {
    url: PostgresUrl,
    tls: MakeRustlsConnect,
}

/// A connection with its statements.
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) statements: Option<Statements>,
    /// There is a row for the receipts of its committer.
    pub(super) has_committer: bool,
    _driver: Driver,
}

/// Reads and writes, until it is dropped or the connection is lost. By itself it would wait for an
/// answer that is still to come.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The statements of a connection.
pub(super) struct Statements {
    /// Without values in rows of their own and with them, each without records and with them, each
    /// without messages that are sent or delivered and with them.
    pub(super) commits: [Statement; 8],
    pub(super) receipt: Statement,
    pub(super) last: Statement,
    pub(super) values: Statement,
    pub(super) value: Statement,
    pub(super) page: Statement,
    pub(super) entities: Statement,
    pub(super) stream_after: Statement,
    pub(super) record: Statement,
    pub(super) sweep: Statement,
    pub(super) answered: Statement,
    pub(super) failed: Statement,
    pub(super) renewed: Statement,
    pub(super) due: Statement,
    pub(super) next_due: Statement,
    pub(super) take_over: Statement,
    pub(super) sent: Statement,
}

impl Connector {
    /// # Errors
    /// If TLS cannot be set up as the URL says.
    pub(super) fn new(url: &PostgresUrl) -> Result<Self, StoreError> {
        Ok(Self {
            tls: tls::tls(url)?,
            url: url.clone(),
        })
    }

    /// Makes a connection to the first host that takes it and can write.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn connect(&self) -> Result<Connection, StoreError> {
        let failed = |error: tokio_postgres::Error| StoreError(text(&error));
        let connecting = async {
            let (client, connection) = self
                .url
                .config
                .connect(self.tls.clone())
                .await
                .map_err(failed)?;
            let driver = Driver(tokio::spawn(async move {
                if let Err(error) = connection.await {
                    debug!(error = text(&error), "a connection to the store was lost");
                }
            }));
            client.batch_execute(SESSION).await.map_err(failed)?;
            Ok(Connection {
                client,
                statements: None,
                has_committer: false,
                _driver: driver,
            })
        };
        let late = |_| StoreError(format!("no connection within {CONNECT_MAX:?}"));
        timeout(CONNECT_MAX, connecting).await.map_err(late)?
    }
}

impl Connection {
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Prepares the statements.
    pub(super) async fn prepare(&mut self) -> Result<(), StoreError> {
        let client = &self.client;
        let prepared = async {
            Ok::<_, tokio_postgres::Error>(Statements {
                commits: [
                    client.prepare(&sql::commit(false, false, false)).await?,
                    client.prepare(&sql::commit(true, false, false)).await?,
                    client.prepare(&sql::commit(false, true, false)).await?,
                    client.prepare(&sql::commit(true, true, false)).await?,
                    client.prepare(&sql::commit(false, false, true)).await?,
                    client.prepare(&sql::commit(true, false, true)).await?,
                    client.prepare(&sql::commit(false, true, true)).await?,
                    client.prepare(&sql::commit(true, true, true)).await?,
                ],
                receipt: client.prepare(sql::RECEIPT).await?,
                last: client.prepare(sql::LAST).await?,
                values: client.prepare(sql::VALUES_OF_ENTITIES).await?,
                value: client.prepare(sql::VALUE).await?,
                page: client.prepare(sql::PAGE).await?,
                entities: client.prepare(sql::ENTITIES_OF_STREAM).await?,
                stream_after: client.prepare(sql::STREAM_AFTER).await?,
                record: client.prepare(&sql::record()).await?,
                sweep: client.prepare(&sql::sweep()).await?,
                answered: client.prepare(sql::ANSWERED).await?,
                failed: client.prepare(&sql::failed()).await?,
                renewed: client.prepare(&sql::renewed()).await?,
                due: client.prepare(&sql::due()).await?,
                next_due: client.prepare(sql::NEXT_DUE).await?,
                take_over: client.prepare(sql::TAKE_OVER).await?,
                sent: client.prepare(sql::SENT).await?,
            })
        };
        let prepared = prepared.await;
        self.statements = Some(prepared.map_err(|error| StoreError(text(&error)))?);
        Ok(())
    }

    /// Warns of settings of the server with which acknowledged commits can be lost, and refuses
    /// what cannot work at all.
    pub(super) async fn warn_of_settings(&self) -> Result<(), StoreError> {
        let row = self
            .client
            .query_one(
                "SELECT current_setting('server_version_num')::int, current_setting('synchronous_commit'),
                        current_setting('fsync'), current_setting('full_page_writes'),
                        current_setting('server_encoding')",
                &[],
            )
            .await
            .map_err(|error| StoreError(text(&error)))?;
        let version: i32 = row.get(0);
        if version < VERSION_MIN {
            return Err(StoreError(format!(
                "its version is {version}; expected {VERSION_MIN} or later"
            )));
        }
        let encoding: &str = row.get(4);
        if encoding != "UTF8" {
            return Err(StoreError(format!(
                "the database's encoding is {encoding}; expected UTF8"
            )));
        }
        for (index, name) in [
            (1, "synchronous_commit"),
            (2, "fsync"),
            (3, "full_page_writes"),
        ] {
            if row.get::<_, &str>(index) == "off" {
                warn!(
                    event = "state-at-risk",
                    setting = name,
                    "the server's setting {name} is off: when it crashes, what was acknowledged may be lost; set it to on"
                );
            }
        }
        Ok(())
    }
}
