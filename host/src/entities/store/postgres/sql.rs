//! The statements.

/// The entities of a batch, in the order of their keys, so that two nodes lock them in the same
/// order. An update waits for a row that another transaction has changed, and then looks at the
/// commit's id again (read committed).
///
/// Rows are looked up one by one (`LATERAL … LIMIT`), and changed where they were found (`ctid`). A
/// join by their keys would leave it to the planner which side it reads first: of a table that was
/// tiny when it last looked it would read every row, for each batch, until it looks again.
///
/// The committer's own row comes first: of a batch that was sent twice, one waits here for the other, and
/// then does nothing.
const COMMIT_ENTITIES: &str = "
WITH own AS MATERIALIZED (
    SELECT batch FROM meshage_committer WHERE id = $1::uuid FOR UPDATE
), HELD c AS MATERIALIZED (
    SELECT * FROM unnest($4::text[], $5::text[], $6::uuid[], $7::uuid[], $8::bool[], $9::bytea[], $10::bool[],
            $11::bigint[], $12::bigint[], $13::bigint[])
        WITH ORDINALITY AS u(stream, key, expected, id, has_state, state, is_clear,
            not_after, messages_until, keys_until, ord)
    LEFT JOIN LATERAL (
        SELECT ctid AS place FROM meshage_entity e
        WHERE u.expected IS NOT NULL AND e.stream = u.stream AND e.key = u.key LIMIT 1
    ) e ON true
    WHERE (SELECT batch FROM own) < $2::bigint
        AND (SELECT compatible FROM meshage_store) <= $3::int
        AND (u.not_after IS NULL OR u.not_after > (SELECT CLOCK FROM meshage_store))
        NOT_VOID
), old AS (
    UPDATE meshage_entity e
    SET commit_id = c.id, messages_until = c.messages_until, keys_until = c.keys_until,
        state = CASE WHEN c.has_state THEN c.state ELSE e.state END
    FROM c
    WHERE e.ctid = c.place AND e.commit_id = c.expected
    RETURNING c.ord
), new AS (
    INSERT INTO meshage_entity (stream, key, commit_id, state, messages_until, keys_until)
    SELECT stream, key, id, state, messages_until, keys_until FROM c WHERE expected IS NULL ORDER BY ord
    ON CONFLICT DO NOTHING
    RETURNING stream, key
), won AS MATERIALIZED (
    SELECT ord FROM old
    UNION ALL SELECT c.ord FROM new JOIN c USING (stream, key)
)";

/// The values that lie in rows of their own. A value that is written again after all were deleted
/// is only written: one statement changes a row once.
const COMMIT_VALUES: &str = ", v AS MATERIALIZED (
    SELECT c.stream, c.key, v.name, v.value, v.ord
    FROM unnest($14::int[], $15::text[], $16::bytea[]) AS v(ord, name, value)
    JOIN won ON won.ord = v.ord JOIN c ON c.ord = v.ord
), put AS (
    INSERT INTO meshage_value (stream, key, name, value)
    SELECT stream, key, name, value FROM v WHERE value IS NOT NULL ORDER BY ord, name
    ON CONFLICT (stream, key, name) DO UPDATE SET value = excluded.value
), gone AS (
    DELETE FROM meshage_value d USING (
        SELECT d.place FROM v CROSS JOIN LATERAL (
            SELECT ctid AS place FROM meshage_value d
            WHERE d.stream = v.stream AND d.key = v.key AND d.name = v.name LIMIT 1
        ) d
        WHERE v.value IS NULL
    ) g
    WHERE d.ctid = g.place
), cleared AS (
    DELETE FROM meshage_value d USING (
        SELECT d.place FROM won JOIN c ON c.ord = won.ord CROSS JOIN LATERAL (
            SELECT ctid AS place, name FROM meshage_value d
            WHERE d.stream = c.stream AND d.key = c.key OFFSET 0
        ) d
        WHERE c.is_clear AND NOT EXISTS (SELECT FROM v WHERE v.ord = c.ord AND v.name = d.name)
    ) g
    WHERE d.ctid = g.place
)";

/// The records of messages; the one of a key takes the place of an expired one. `$+1` is the first
/// parameter behind those of what comes before.
const COMMIT_RECORDS: &str = ", kept AS (
    INSERT INTO meshage_reply (id, stream, key, until, not_after, fingerprint, reply)
    SELECT r.id, c.stream, c.key, r.until, r.not_after, r.fingerprint, r.reply
    FROM unnest($+1::int[], $+2::uuid[], $+3::bigint[], $+4::bigint[], $+5::bytea[], $+6::bytea[])
        AS r(ord, id, until, not_after, fingerprint, reply)
    JOIN won ON won.ord = r.ord JOIN c ON c.ord = r.ord
    ORDER BY r.id
    ON CONFLICT (id) DO UPDATE SET until = excluded.until, not_after = excluded.not_after,
        fingerprint = excluded.fingerprint, reply = excluded.reply
)";

/// None of the messages that were delivered may have taken effect, or been cancelled; nor may they be
/// cancelled from here on. `$+1` is the first parameter behind those of what comes before.
const HELD: &str = "held AS MATERIALIZED (
    SELECT id FROM meshage_send WHERE id = ANY($+2::uuid[]) ORDER BY id FOR UPDATE
), void AS MATERIALIZED (
    SELECT d.ord FROM unnest($+1::int[], $+2::uuid[]) AS d(ord, id)
    LEFT JOIN held h ON h.id = d.id WHERE h.id IS NULL
),";
const NOT_VOID: &str = "AND NOT EXISTS (SELECT FROM void WHERE void.ord = u.ord)";

/// What is sent, and timers that are removed or replaced. A timer that is set again by what it brings is
/// replaced, as one statement changes a row once.
///
/// Rows are deleted by their ids, wherever they are by then: a node that takes a message, or says that
/// it still delivers it, moves its row.
const COMMIT_SENDS: &str = ", done AS (
    DELETE FROM meshage_send WHERE id = ANY(ARRAY(
        SELECT d.id FROM unnest($+1::int[], $+2::uuid[], $+14::bool[]) AS d(ord, id, is_replaced)
        JOIN won ON won.ord = d.ord WHERE NOT d.is_replaced
    ))
), cancelled AS (
    DELETE FROM meshage_send WHERE id = ANY(ARRAY(
        SELECT s.id FROM unnest($+3::int[], $+4::text[]) AS t(ord, name)
        JOIN won ON won.ord = t.ord JOIN c ON c.ord = t.ord CROSS JOIN LATERAL (
            SELECT id FROM meshage_send s
            WHERE s.stream = c.stream AND s.key = c.key AND s.name = t.name LIMIT 1
        ) s
        WHERE t.name IS NOT NULL
    ))
), sent AS (
    INSERT INTO meshage_send (id, stream, key, name, to_stream, to_key, due, wake_at, node, message)
    SELECT s.id, c.stream, c.key, s.name, s.to_stream, s.to_key,
        (SELECT CLOCK FROM meshage_store) + s.delay, (SELECT CLOCK FROM meshage_store) + s.wake_after,
        $+13::text, s.message
    FROM unnest($+5::int[], $+6::uuid[], $+7::text[], $+8::text[], $+9::text[], $+10::bigint[], $+11::bigint[], $+12::bytea[])
        AS s(ord, id, name, to_stream, to_key, delay, wake_after, message)
    JOIN won ON won.ord = s.ord JOIN c ON c.ord = s.ord
    ON CONFLICT (stream, key, name) WHERE name IS NOT NULL DO UPDATE SET id = excluded.id,
        to_stream = excluded.to_stream, to_key = excluded.to_key, due = excluded.due,
        wake_at = excluded.wake_at, node = excluded.node, tries = 0, problem = NULL,
        message = excluded.message
)";

/// The store's clock, in milliseconds since 1970: it has passed what records were deleted up to.
const CLOCK: &str = "greatest((extract(epoch FROM clock_timestamp()) * 1000)::bigint, swept_to)";

/// The receipt of the committer's last batch. One that was sent twice leaves it as the first has
/// written it; so does one that the server gets to see late. A row with 0 says that it was written.
const COMMIT_END: &str = ", receipt AS (
    UPDATE meshage_committer SET batch = $2::bigint, at = now(),
        won = (SELECT coalesce(array_agg(ord::int), '{}') FROM won)
    WHERE id = $1::uuid AND batch < $2::bigint
    RETURNING 0
)
SELECT ord::int FROM won UNION ALL SELECT * FROM receipt";

/// It writes, so that it ends no sooner than the commit that left the receipt is where the server
/// wants it: with synchronous replication that may be later than others see it.
pub(super) const RECEIPT: &str =
    "UPDATE meshage_committer SET at = now() WHERE id = $1 AND batch = $2 RETURNING won";

/// The statement, for batches with values in rows of their own or without, and with records or
/// without.
pub(super) fn commit(has_values: bool, has_records: bool, sends: bool) -> String {
    let (values, mut before) = if has_values {
        (COMMIT_VALUES, 16)
    } else {
        ("", 13)
    };
    let mut records = String::new();
    if has_records {
        records = numbered(COMMIT_RECORDS, before, 6);
        before += 6;
    }
    let (mut sent, mut held, mut not_void) = (String::new(), String::new(), "");
    if sends {
        sent = numbered(COMMIT_SENDS, before, 14);
        held = numbered(HELD, before, 14);
        not_void = NOT_VOID;
    }
    format!("{COMMIT_ENTITIES}{values}{records}{sent}{COMMIT_END}")
        .replace("HELD", &held)
        .replace("NOT_VOID", not_void)
        .replace("CLOCK", CLOCK)
}

/// The statement with its parameters behind so many others.
fn numbered(statement: &str, before: usize, parameters: usize) -> String {
    (1..=parameters).fold(statement.to_owned(), |statement, number| {
        statement.replace(&format!("$+{number}:"), &format!("${}:", before + number))
    })
}

/// The row of a committer, which its batches need.
pub(super) const COMMITTER: &str = "
    INSERT INTO meshage_committer (id, batch, won) VALUES ($1, 0, '{}') ON CONFLICT DO NOTHING";

/// The store's clock.
pub(super) fn clock() -> String {
    "SELECT CLOCK FROM meshage_store".replace("CLOCK", CLOCK)
}

pub(super) const ANSWERED: &str = "DELETE FROM meshage_send WHERE id = ANY($1)";

/// Deliveries that failed, each with how long to wait in milliseconds; NULL: for ever.
pub(super) fn failed() -> String {
    "UPDATE meshage_send s SET tries = s.tries + 1, problem = f.problem,
        wake_at = (SELECT CLOCK FROM meshage_store) + f.pause
    FROM (
        SELECT f.problem, f.pause, s.place
        FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS f(id, problem, pause)
        CROSS JOIN LATERAL (
            SELECT ctid AS place FROM meshage_send s WHERE s.id = f.id LIMIT 1
        ) s
    ) f
    WHERE s.ctid = f.place"
        .replace("CLOCK", CLOCK)
}

pub(super) fn renewed() -> String {
    "UPDATE meshage_send SET wake_at = (SELECT CLOCK FROM meshage_store) + $2::bigint
    WHERE id = ANY($1) AND wake_at IS NOT NULL"
        .replace("CLOCK", CLOCK)
}

/// Takes what is due for this node: its own messages, and others' after a while.
pub(super) fn due() -> String {
    "
    WITH due AS MATERIALIZED (
        SELECT ctid AS place FROM meshage_send
        WHERE wake_at <= (SELECT CLOCK FROM meshage_store)
            AND (node = $1::text OR wake_at <= (SELECT CLOCK FROM meshage_store) - $2::bigint)
        ORDER BY wake_at LIMIT $4::int FOR UPDATE SKIP LOCKED
    )
    UPDATE meshage_send s SET node = $1::text, wake_at = (SELECT CLOCK FROM meshage_store) + $3::bigint
    FROM due WHERE s.ctid = due.place
    RETURNING s.id, s.stream, s.key, s.name, s.to_stream, s.to_key, s.due, s.tries, s.message"
        .replace("CLOCK", CLOCK)
}

/// Takes over what a node that is gone has to deliver, or some of it.
pub(super) const TAKE_OVER: &str = "
    WITH theirs AS MATERIALIZED (
        SELECT ctid AS place FROM meshage_send WHERE node = $1::text AND wake_at IS NOT NULL
        ORDER BY wake_at LIMIT $3::int FOR UPDATE SKIP LOCKED
    )
    UPDATE meshage_send s SET node = $2::text FROM theirs WHERE s.ctid = theirs.place";

/// Delivers messages at once that were tried before, and as often as new ones.
pub(super) fn retry() -> String {
    "UPDATE meshage_send SET tries = 0, wake_at = (SELECT CLOCK FROM meshage_store)
    WHERE id = ANY($1) AND tries > 0"
        .replace("CLOCK", CLOCK)
}

/// Messages that have no answer.
pub(super) const OUTSTANDING: &str = "
    SELECT id, stream, key, name, to_stream, to_key, due, tries,
        CASE WHEN $4 THEN message ELSE '' END, node, wake_at, problem, length(message)
    FROM meshage_send WHERE id > $1 AND (wake_at IS NULL OR NOT $2) ORDER BY id LIMIT $3";

/// Records of all entities.
pub(super) const RECORDS: &str = "
    SELECT id, stream, key, until, not_after, fingerprint, reply
    FROM meshage_reply WHERE id > $1 ORDER BY id LIMIT $2";

/// Takes over a record, and a message, of another store: of an entity that is not there yet.
pub(super) const IMPORT_RECORD: &str = "
    INSERT INTO meshage_reply (id, stream, key, until, not_after, fingerprint, reply)
    SELECT $1::uuid, $2::text, $3::text, $4::bigint, $5::bigint, $6::bytea, $7::bytea
    WHERE NOT EXISTS (SELECT FROM meshage_entity WHERE stream = $2 AND key = $3)
    ON CONFLICT DO NOTHING";
pub(super) const IMPORT_SEND: &str = "
    INSERT INTO meshage_send (id, stream, key, name, to_stream, to_key, due, tries, message, node, wake_at, problem)
    SELECT $1::uuid, $2::text, $3::text, $4::text, $5::text, $6::text, $7::bigint, $8::int, $9::bytea,
        $10::text, $11::bigint, $12::text
    WHERE NOT EXISTS (SELECT FROM meshage_entity WHERE stream = $2 AND key = $3)
    ON CONFLICT DO NOTHING";

pub(super) const NEXT_DUE: &str = "
    SELECT wake_at FROM (
        SELECT node, wake_at FROM meshage_send
        WHERE wake_at IS NOT NULL AND (node, wake_at) >= ($1::text, 0)
        ORDER BY node, wake_at LIMIT 1
    ) s WHERE node = $1::text";

/// Whether a message that was sent to the entity is still to take effect.
pub(super) const SENT: &str = "
    SELECT e.commit_id, EXISTS (SELECT FROM meshage_send s WHERE s.id = $3)
    FROM meshage_entity e WHERE e.stream = $1 AND e.key = $2";

/// What is kept of a message, if it is not to be deleted already.
pub(super) fn record() -> String {
    "
    SELECT e.commit_id, r.fingerprint, r.reply
    FROM meshage_entity e
    LEFT JOIN meshage_reply r ON r.id = $3 AND r.stream = e.stream AND r.key = e.key
        AND (r.fingerprint IS NULL OR r.until > (SELECT CLOCK FROM meshage_store))
    WHERE e.stream = $1 AND e.key = $2"
        .replace("CLOCK", CLOCK)
}

/// Deletes records that nobody can ask for any more, and notes up to when. Those of messages have the
/// order of their times: the first ones are the oldest.
pub(super) fn sweep() -> String {
    "
    WITH clock AS MATERIALIZED (
        SELECT CLOCK AS now FROM meshage_store
    ), due AS MATERIALIZED (
        SELECT place FROM (
            SELECT ctid AS place, until FROM meshage_reply
            WHERE id < 'ff000000-0000-0000-0000-000000000000' ORDER BY id LIMIT $1::int
        ) m WHERE until <= (SELECT now FROM clock)
        UNION ALL SELECT place FROM (
            SELECT ctid AS place FROM meshage_reply
            WHERE fingerprint IS NOT NULL AND until <= (SELECT now FROM clock)
            ORDER BY until LIMIT $1::int
        ) k
    ), gone AS (
        DELETE FROM meshage_reply r USING due
        WHERE r.ctid = due.place AND r.until <= (SELECT now FROM clock)
        RETURNING r.not_after
    ), noted AS (
        UPDATE meshage_store SET swept_to = (SELECT max(not_after) FROM gone)
        WHERE swept_to < (SELECT max(not_after) FROM gone)
    )
    SELECT (SELECT now FROM clock), (SELECT count(*) FROM gone)"
        .replace("CLOCK", CLOCK)
}

pub(super) const LAST: &str = "
    SELECT c.ord::int, e.commit_id
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS c(stream, key, ord)
    CROSS JOIN LATERAL (
        SELECT commit_id FROM meshage_entity e WHERE e.stream = c.stream AND e.key = c.key LIMIT 1
    ) e";

/// Of values beyond `$4` bytes together, and of larger ones, the name alone is loaded; the one of the
/// entity's own row comes once.
pub(super) const VALUES_OF_ENTITIES: &str = "
    SELECT c.ord::int, e.commit_id, CASE WHEN coalesce(v.n, 1) = 1 THEN e.state END, v.name, v.value,
        v.name IS NOT NULL AND v.value IS NULL, e.messages_until, e.keys_until
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS c(stream, key, ord)
    CROSS JOIN LATERAL (
        SELECT commit_id, state, messages_until, keys_until FROM meshage_entity e
        WHERE e.stream = c.stream AND e.key = c.key LIMIT 1
    ) e
    LEFT JOIN LATERAL (
        SELECT name, n, CASE WHEN own <= $4::bigint AND small - own < $4::bigint THEN value END AS value
        FROM (
            SELECT name, value, octet_length(value) AS own, row_number() OVER (ORDER BY name) AS n,
                sum(octet_length(value)) FILTER (WHERE octet_length(value) <= $4::bigint)
                    OVER (ORDER BY name) AS small
            FROM (
                SELECT name, value FROM meshage_value v
                WHERE v.stream = c.stream AND v.key = c.key
                ORDER BY name LIMIT $3::int
            ) v
        ) v
    ) v ON true
    ORDER BY c.ord, v.name";

pub(super) const VALUE: &str = "
    SELECT e.commit_id, CASE WHEN $3 = 'state' THEN e.state END, v.value
    FROM meshage_entity e
    LEFT JOIN meshage_value v ON v.stream = e.stream AND v.key = e.key AND v.name = $3
    WHERE e.stream = $1 AND e.key = $2";

/// Of values beyond `$6` bytes together the name alone is loaded: the page ends before them.
pub(super) const PAGE: &str = "
    SELECT e.commit_id, CASE WHEN coalesce(v.n, 1) = 1 THEN e.state END, v.name, v.value
    FROM meshage_entity e
    LEFT JOIN LATERAL (
        SELECT name, n, CASE WHEN before < $6::bigint THEN value END AS value
        FROM (
            SELECT name, value, row_number() OVER (ORDER BY name) AS n,
                sum(octet_length(value)) OVER (ORDER BY name) - octet_length(value) AS before
            FROM (
                SELECT name, value FROM meshage_value v
                WHERE v.stream = e.stream AND v.key = e.key AND v.name >= $3 AND v.name > $4
                ORDER BY name LIMIT $5::int
            ) v
        ) v
    ) v ON true
    WHERE e.stream = $1 AND e.key = $2
    ORDER BY v.name";

pub(super) const ENTITIES_OF_STREAM: &str = "
    SELECT key, commit_id FROM meshage_entity
    WHERE stream = $1 AND key >= $2 AND key > $3 ORDER BY key LIMIT $4::int";

pub(super) const STREAM_AFTER: &str =
    "SELECT stream FROM meshage_entity WHERE stream > $1 ORDER BY stream LIMIT 1";

#[cfg(test)]
mod tests {
    use super::super::connect::Connector;
    use super::super::schema;
    use super::*;
    use crate::entities::store::backend::Make;

    /// A plan is made once, and for ever: it must not depend on how small the tables are then.
    #[tokio::test]
    async fn rows_are_found_by_their_keys_even_if_the_tables_are_tiny_when_it_is_planned() {
        let Some(url) = test_postgres::database("rows_are_found_by_their_keys").await else {
            return;
        };
        let connector = Connector::new(&url.parse().unwrap()).unwrap();
        let mut connection = connector.connect().await.unwrap();
        schema::prepare(&mut connection.client, "test", Make::IfMissing)
            .await
            .unwrap();
        let client = &connection.client;
        let fill = "INSERT INTO meshage_entity (stream, key, commit_id, state) VALUES ('s', 'k', gen_random_uuid(), NULL);
                    INSERT INTO meshage_value VALUES ('s', 'k', 'n', '');
                    ANALYZE;";
        client.batch_execute(fill).await.unwrap();
        for (statement, parameters) in [
            (commit(false, false, false), 13),
            (commit(true, false, false), 16),
            (commit(false, true, false), 19),
            (commit(true, true, false), 22),
            (commit(false, false, true), 27),
            (commit(true, true, true), 36),
            (ANSWERED.into(), 1),
            (failed(), 3),
            (renewed(), 2),
            (due(), 4),
            (NEXT_DUE.into(), 1),
            (TAKE_OVER.into(), 3),
            (SENT.into(), 3),
            (record(), 3),
            (sweep(), 1),
            (LAST.into(), 2),
            (VALUES_OF_ENTITIES.into(), 4),
            (VALUE.into(), 3),
            (PAGE.into(), 6),
            (ENTITIES_OF_STREAM.into(), 4),
            (STREAM_AFTER.into(), 1),
        ] {
            let nulls = vec!["NULL"; parameters].join(", ");
            let explain =
                format!("PREPARE p AS {statement}; EXPLAIN EXECUTE p({nulls}); DEALLOCATE p;");
            let rows = client.simple_query(&explain).await.unwrap();
            let lines: Vec<&str> = rows
                .iter()
                .filter_map(|row| match row {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
                    _ => None,
                })
                .collect();
            let scans = lines.iter().enumerate().filter(|(_, line)| {
                line.contains("Scan")
                    && line.contains("on meshage_")
                    && !line.contains("Bitmap Heap")
            });
            for (place, scan) in scans.filter(|(_, line)| !line.contains("meshage_store")) {
                let next = lines.get(place + 1).copied().unwrap_or_default();
                assert!(
                    next.contains("Index Cond") || next.contains("TID Cond"),
                    "{scan}\n{}",
                    lines.join("\n")
                );
            }
        }
    }
}
