//! Where nodes keep the state of entities.

use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;
use test_postgres::Postgres;

use super::{Proxy, skipped};

/// A store. Clones are the same one; it is deleted with the last.
#[derive(Clone)]
pub(crate) enum State {
    /// A file that the nodes share.
    Sqlite(Arc<TempDir>),
    /// A database.
    Postgres {
        server: Arc<Postgres>,
        database: String,
    },
}

impl State {
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(Arc::new(TempDir::new().unwrap()))
    }

    /// A database on the server that tests share; `None` if there is no PostgreSQL here.
    pub(crate) async fn postgres(test: &str) -> Option<Self> {
        if !Postgres::is_installed() {
            skipped(test, "PostgreSQL (`apt-get install postgresql`)");
            return None;
        }
        Some(Self::on(Postgres::shared().await).await)
    }

    /// A new database on this server.
    pub(crate) async fn on(server: Arc<Postgres>) -> Self {
        let database = server.database().await;
        Self::Postgres { server, database }
    }

    /// The file of a store on SQLite.
    pub(crate) fn file(&self) -> PathBuf {
        match self {
            Self::Sqlite(directory) => directory.path().join("state.db"),
            Self::Postgres { .. } => panic!("a database has no file"),
        }
    }

    /// The same database, behind a proxy.
    pub(crate) fn behind(&self, proxy: &Proxy) -> String {
        test_postgres::url(proxy.sockets(), &self.database())
    }

    pub(crate) fn database(&self) -> String {
        match self {
            Self::Sqlite(_) => panic!("a file is no database"),
            Self::Postgres { database, .. } => database.clone(),
        }
    }

    /// The records of messages that are kept.
    pub(crate) async fn records(&self) -> u64 {
        self.count("SELECT count(*) FROM meshage_reply").await
    }

    /// Messages that were sent, and have no answer yet.
    pub(crate) async fn sends(&self) -> u64 {
        self.count("SELECT count(*) FROM meshage_send").await
    }

    async fn count(&self, count: &str) -> u64 {
        match self {
            Self::Sqlite(_) => {
                let file = rusqlite::Connection::open(self.file()).unwrap();
                file.query_one(count, [], |row| row.get::<_, i64>(0))
                    .unwrap() as u64
            }
            Self::Postgres { server, database } => {
                let client = server.connect(database).await.unwrap();
                let row = client.query_one(count, &[]).await.unwrap();
                row.get::<_, i64>(0) as u64
            }
        }
    }

    /// What a commit of another node does to the entity of `journal`, without changing its state.
    pub(crate) async fn commit_elsewhere(&self, key: &str) {
        let id = match self {
            Self::Sqlite(_) => "randomblob(16)",
            Self::Postgres { .. } => "gen_random_uuid()",
        };
        let sql = format!("UPDATE meshage_entity SET commit_id = {id} WHERE key = '{key}'");
        self.execute(&sql).await;
    }

    /// The same, with this value.
    pub(crate) async fn set_elsewhere(&self, key: &str, name: &str, value: &str) {
        let value = match self {
            Self::Sqlite(_) => format!("'{value}'"),
            Self::Postgres { .. } => format!("convert_to('{value}', 'UTF8')"),
        };
        let sql = format!(
            "UPDATE meshage_value SET value = {value} WHERE key = '{key}' AND name = '{name}'"
        );
        self.execute(&sql).await;
        self.commit_elsewhere(key).await;
    }

    /// Runs statements on the store.
    pub(crate) async fn execute(&self, sql: &str) {
        match self {
            Self::Sqlite(_) => {
                let file = rusqlite::Connection::open(self.file()).unwrap();
                file.execute_batch(sql).unwrap();
            }
            Self::Postgres { server, database } => {
                let client = server.connect(database).await.unwrap();
                client.batch_execute(sql).await.unwrap();
            }
        }
    }

    /// The value of `--state`.
    pub(crate) fn location(&self) -> String {
        match self {
            Self::Sqlite(_) => format!("sqlite:{}", self.file().display()),
            Self::Postgres { server, database } => test_postgres::url(server.sockets(), database),
        }
    }
}

/// Each of these tests on both stores.
macro_rules! on_both_stores {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::harness::State::sqlite()).await;
            })+
        }

        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                if let Some(state) = crate::harness::State::postgres(stringify!($test)).await {
                    super::$test(state).await;
                }
            })+
        }
    };
}

pub(crate) use on_both_stores;
