//! The tables, which `docs/state.md` documents.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::super::backend::{Make, StoreError};
use super::text;

/// The version of the tables. A later version that an older node can use leaves `compatible` as it
/// is.
pub(super) const VERSION: i32 = 2;

/// Rows that change often keep room on their page, so that an update stays there. Keys are compared
/// by their bytes, as everywhere in meshage.
const TABLES: &str = r#"
    CREATE TABLE meshage_store (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        id uuid NOT NULL,
        version int NOT NULL,
        compatible int NOT NULL,
        cluster text NOT NULL,
        swept_to bigint NOT NULL DEFAULT 0
    );
    CREATE TABLE meshage_entity (
        stream text COLLATE "C" NOT NULL,
        key text COLLATE "C" NOT NULL,
        commit_id uuid NOT NULL,
        state bytea,
        messages_until bigint NOT NULL DEFAULT 0,
        keys_until bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (stream, key)
    ) WITH (fillfactor = 70);
    CREATE TABLE meshage_value (
        stream text COLLATE "C" NOT NULL,
        key text COLLATE "C" NOT NULL,
        name text COLLATE "C" NOT NULL,
        value bytea NOT NULL,
        PRIMARY KEY (stream, key, name)
    ) WITH (fillfactor = 70);
    CREATE TABLE meshage_committer (
        id uuid PRIMARY KEY,
        batch bigint NOT NULL,
        won int[] NOT NULL,
        at timestamptz NOT NULL DEFAULT now()
    ) WITH (fillfactor = 10);"#;

/// What version 2 added. Old records are deleted all the time.
const RECORDS: &str = r#"
    CREATE TABLE meshage_reply (
        id uuid PRIMARY KEY,
        stream text COLLATE "C" NOT NULL,
        key text COLLATE "C" NOT NULL,
        until bigint NOT NULL,
        not_after bigint NOT NULL,
        fingerprint bytea,
        reply bytea NOT NULL
    ) WITH (autovacuum_vacuum_scale_factor = 0.02);
    CREATE TABLE meshage_send (
        id uuid PRIMARY KEY,
        stream text COLLATE "C" NOT NULL,
        key text COLLATE "C" NOT NULL,
        name text COLLATE "C",
        to_stream text COLLATE "C" NOT NULL,
        to_key text COLLATE "C" NOT NULL,
        due bigint NOT NULL,
        wake_at bigint,
        node text COLLATE "C" NOT NULL,
        tries int NOT NULL DEFAULT 0,
        problem text,
        message bytea NOT NULL
    ) WITH (autovacuum_vacuum_scale_factor = 0.02);
    CREATE UNIQUE INDEX meshage_send_name ON meshage_send (stream, key, name) WHERE name IS NOT NULL;
    CREATE INDEX meshage_send_node ON meshage_send (node, wake_at) WHERE wake_at IS NOT NULL;
    CREATE INDEX meshage_send_wake_at ON meshage_send (wake_at) WHERE wake_at IS NOT NULL;
    CREATE INDEX meshage_reply_until ON meshage_reply (until) WHERE fingerprint IS NOT NULL;"#;

const FROM_1_TO_2: &str = "
    ALTER TABLE meshage_store ADD COLUMN swept_to bigint NOT NULL DEFAULT 0;
    ALTER TABLE meshage_entity ADD COLUMN messages_until bigint NOT NULL DEFAULT 0,
        ADD COLUMN keys_until bigint NOT NULL DEFAULT 0;
    UPDATE meshage_store SET version = 2, compatible = 2;";

/// What committers of nodes that are gone have left. A commit's outcome is known or given up long
/// before.
const SWEEP: &str = "DELETE FROM meshage_committer WHERE at < now() - interval '7 days'";

/// Makes the tables if there are none and they may be made, and checks that this version of meshage can use those that
/// are there, and that they are of this cluster. Returns the store's id.
pub(super) async fn prepare(
    client: &mut Client,
    cluster: &str,
    make: Make,
) -> Result<Uuid, StoreError> {
    let failed = |error: tokio_postgres::Error| StoreError(text(&error));
    // Two nodes may make them at the same time: then one of them fails, and finds them made.
    for _ in 0..2 {
        let found = client
            .query_opt("SELECT to_regclass('meshage_store') IS NOT NULL", &[])
            .await
            .map_err(failed)?;
        if found.is_some_and(|row| row.get(0)) {
            break;
        }
        make.check()?;
        match make_tables(client, cluster).await {
            Ok(()) => break,
            Err(error) if is_race(&error) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let row = client
        .query_one(
            "SELECT id, compatible, cluster, version FROM meshage_store",
            &[],
        )
        .await
        .map_err(failed)?;
    let (id, compatible, owner): (Uuid, i32, String) = (row.get(0), row.get(1), row.get(2));
    let version: i32 = row.get(3);
    check_compatible(compatible)?;
    if owner != cluster {
        return Err(StoreError(format!(
            "it has the state of the cluster {owner:?}, and this node is of {cluster:?}: set --cluster-id, or name another database"
        )));
    }
    if version == 1 {
        upgrade(client).await.map_err(failed)?;
    }
    client.execute(SWEEP, &[]).await.map_err(failed)?;
    Ok(id)
}

async fn make_tables(client: &mut Client, cluster: &str) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(TABLES).await?;
    transaction.batch_execute(RECORDS).await?;
    transaction
        .execute(
            "INSERT INTO meshage_store (id, version, compatible, cluster) VALUES ($1, $2, $2, $3)",
            &[&Uuid::now_v7(), &VERSION, &cluster],
        )
        .await?;
    transaction.commit().await
}

/// Makes tables of version 1 those of version 2. Of several nodes the first one does it.
async fn upgrade(client: &mut Client) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    let row = transaction
        .query_one("SELECT version FROM meshage_store FOR UPDATE", &[])
        .await?;
    if row.get::<_, i32>(0) == 1 {
        transaction.batch_execute(FROM_1_TO_2).await?;
        transaction.batch_execute(RECORDS).await?;
    }
    transaction.commit().await
}

fn is_race(error: &tokio_postgres::Error) -> bool {
    let code = error.code();
    code == Some(&SqlState::UNIQUE_VIOLATION) || code == Some(&SqlState::DUPLICATE_TABLE)
}

/// # Errors
/// If the tables are of a version that this one cannot use.
pub(super) fn check_compatible(compatible: i32) -> Result<(), StoreError> {
    if compatible <= VERSION {
        return Ok(());
    }
    Err(StoreError(format!(
        "its tables are of version {compatible}, and this meshage-host knows those up to {VERSION}: upgrade it"
    )))
}
