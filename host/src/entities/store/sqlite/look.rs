//! Looks at what is committed.

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{OptionalExtension, Row, Transaction};

use super::commit::millis;
use super::outbox;
use crate::entities::commit::{CommitId, EntityId};
use crate::entities::letter::entity as entity_of;
use crate::entities::record::{Kept, Record, RecordId, RecordedUntil};
use crate::entities::store::backend::{
    Found, LOADED_BYTES_MAX, LOADED_VALUES_MAX, Listing, Look, LookError, Seen, StoreError, What,
};
use crate::entities::store::host_time;
use crate::message::StoreTime;
use crate::state::{MAIN_VALUE, Name, Page, Range, Values, Writes};

/// All of them see the same moment.
pub(super) fn look(transaction: &Transaction<'_>, looks: &[Look]) -> Result<Vec<Seen>, LookError> {
    looks
        .iter()
        .map(|look| see(transaction, look).map_err(|error| failed(error, look)))
        .collect()
}

/// An error that is none of SQLite's own is one of what was read.
fn failed(error: rusqlite::Error, look: &Look) -> LookError {
    match error.sqlite_error() {
        Some(_) => error.into(),
        None => LookError::Data(StoreError(format!("{look}: {error}"))),
    }
}

pub(super) fn value(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Bytes>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(Bytes::copy_from_slice(bytes)),
        ValueRef::Null => None,
        // Somebody wrote a number by hand.
        ValueRef::Integer(number) => Some(number.to_string().into()),
        ValueRef::Real(number) => Some(number.to_string().into()),
    })
}

fn see(transaction: &Transaction<'_>, look: &Look) -> rusqlite::Result<Seen> {
    let (entity, what) = match look {
        Look::At(entity, what) => (entity, what),
        Look::Entities(listing) => {
            return Ok(Seen {
                last: None,
                found: Found::Entities(keys(transaction, listing)?),
            });
        }
        Look::Sends(wanted) => {
            return Ok(Seen {
                last: None,
                found: outbox::outstanding(transaction, wanted)?,
            });
        }
        Look::Records(after, limit) => {
            return Ok(Seen {
                last: None,
                found: records(transaction, *after, *limit)?,
            });
        }
        Look::StreamAfter(after) => {
            return Ok(Seen {
                last: None,
                found: Found::Stream(stream_after(transaction, after)?),
            });
        }
    };
    let parameters = (entity.stream.as_str(), entity.key.as_str());
    if let What::Last = what {
        let last = transaction
            .prepare_cached("SELECT commit_id FROM meshage_entity WHERE stream = ?1 AND key = ?2")?
            .query_row(parameters, |row| row.get(0))
            .optional()?;
        return Ok(Seen {
            last: last.map(CommitId::from_bytes),
            found: Found::Nothing,
        });
    }
    let entry = transaction
        .prepare_cached(
            "SELECT commit_id, messages_until, keys_until, state FROM meshage_entity WHERE stream = ?1 AND key = ?2",
        )?
        .query_row(parameters, |row| {
            let recorded = RecordedUntil {
                messages: time(row, 1)?,
                keys: time(row, 2)?,
            };
            Ok((CommitId::from_bytes(row.get(0)?), recorded, value(row, 3)?))
        })
        .optional()?;
    let (last, recorded, main) = match entry {
        Some((last, recorded, main)) => (Some(last), recorded, main),
        None => (None, RecordedUntil::default(), None),
    };
    let found = match what {
        What::Last => Found::Nothing,
        What::Values if last.is_none() => Found::Values(Values::none(), recorded),
        What::Values => Found::Values(values(transaction, entity, main)?, recorded),
        What::Value(name) if &**name == MAIN_VALUE => Found::Value(main),
        What::Value(name) => Found::Value(one(transaction, entity, name)?),
        What::Page(range) => Found::Page(page(transaction, entity, range, main)?),
        What::Sent(id) => Found::Sent(outbox::are_there(transaction, &[*id])?),
        What::Record(id) => Found::Record(record(transaction, entity, *id)?),
    };
    Ok(Seen { last, found })
}

pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<StoreTime> {
    let millis: i64 = row.get(column)?;
    Ok(StoreTime::from_millis(
        millis.try_into().unwrap_or_default(),
    ))
}

/// What is kept of a message, if it is not to be deleted already.
fn record(
    transaction: &Transaction<'_>,
    entity: &EntityId,
    id: RecordId,
) -> rusqlite::Result<Option<Kept>> {
    let (stream, key) = (entity.stream.as_str(), entity.key.as_str());
    transaction
        .prepare_cached(
            "SELECT fingerprint, reply FROM meshage_reply WHERE id = ?1 AND stream = ?2 AND key = ?3 AND (fingerprint IS NULL OR until > ?4)",
        )?
        .query_row((&id.as_bytes()[..], stream, key, millis(host_time())), |row| {
            Ok(Kept {
                fingerprint: row.get(0)?,
                reply: value(row, 1)?.unwrap_or_default(),
            })
        })
        .optional()
}

/// Records of all entities.
fn records(
    transaction: &Transaction<'_>,
    after: RecordId,
    limit: usize,
) -> rusqlite::Result<Found> {
    let mut statement = transaction.prepare_cached(
        "SELECT id, stream, key, until, not_after, fingerprint, reply FROM meshage_reply WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    let mut rows = statement.query((&after.as_bytes()[..], limit as i64))?;
    let (mut found, mut last, mut count) = (Vec::new(), None, 0);
    while let Some(row) = rows.next()? {
        let id = RecordId::from_bytes(row.get(0)?);
        last = Some(id);
        count += 1;
        let (stream, key): (String, String) = (row.get(1)?, row.get(2)?);
        let Some(entity) = entity_of(&stream, &key) else {
            continue;
        };
        let not_after = time(row, 4)?;
        let record = Record {
            id,
            until: time(row, 3)?,
            not_after: (not_after > StoreTime::default()).then_some(not_after),
            kept: Kept {
                fingerprint: row.get(5)?,
                reply: value(row, 6)?.unwrap_or_default(),
            },
        };
        found.push((entity, record));
    }
    Ok(Found::Records(found, last.filter(|_| count >= limit)))
}

fn one(
    transaction: &Transaction<'_>,
    entity: &EntityId,
    name: &str,
) -> rusqlite::Result<Option<Bytes>> {
    let found = transaction
        .prepare_cached(
            "SELECT value FROM meshage_value WHERE stream = ?1 AND key = ?2 AND name = ?3",
        )?
        .query_row((entity.stream.as_str(), entity.key.as_str(), name), |row| {
            value(row, 0)
        })
        .optional()?;
    Ok(found.flatten())
}

/// All values of an entity, or the first ones if they are many or large.
fn values(
    transaction: &Transaction<'_>,
    entity: &EntityId,
    main: Option<Bytes>,
) -> rusqlite::Result<Values> {
    let mut statement = transaction.prepare_cached(
        "SELECT name, value FROM meshage_value WHERE stream = ?1 AND key = ?2 ORDER BY name",
    )?;
    let mut rows = statement.query((entity.stream.as_str(), entity.key.as_str()))?;
    let mut found: Vec<(Name, Bytes)> = Vec::new();
    let mut bytes = 0;
    let mut is_complete = true;
    while let Some(row) = rows.next()? {
        if found.len() >= LOADED_VALUES_MAX || bytes >= LOADED_BYTES_MAX {
            is_complete = false;
            break;
        }
        let value = value(row, 1)?.unwrap_or_default();
        bytes += value.len();
        found.push((name(row)?, value));
    }
    let mut values = Values::new(found, is_complete);
    values.learn(MAIN_VALUE.into(), main);
    Ok(values)
}

fn name(row: &Row<'_>) -> rusqlite::Result<Name> {
    Ok(row.get_ref(0)?.as_str()?.into())
}

/// The first values of a range.
fn page(
    transaction: &Transaction<'_>,
    entity: &EntityId,
    range: &Range,
    main: Option<Bytes>,
) -> rusqlite::Result<Page> {
    let mut statement = transaction.prepare_cached(
        "SELECT name, value FROM meshage_value WHERE stream = ?1 AND key = ?2 AND name >= ?3 AND name > ?4 ORDER BY name",
    )?;
    let (stream, key) = (entity.stream.as_str(), entity.key.as_str());
    let mut rows = statement.query((stream, key, &*range.prefix, &*range.after))?;
    let mut failed = None;
    let found = std::iter::from_fn(|| {
        let next = rows.next().and_then(|row| {
            let Some(row) = row else { return Ok(None) };
            Ok(Some((name(row)?, value(row, 1)?.unwrap_or_default())))
        });
        next.unwrap_or_else(|error| {
            failed = Some(error);
            None
        })
    });
    let is_within = |(name, _): &(Name, Bytes)| name.starts_with(&*range.prefix);
    let page = Page::of(found.take_while(is_within), range.limit);
    if let Some(error) = failed {
        return Err(error);
    }
    let mut own_row = Writes::default();
    if main.is_some() {
        own_row.put(MAIN_VALUE.into(), main);
    }
    Ok(page.with(&own_row, range))
}

fn stream_after(transaction: &Transaction<'_>, after: &str) -> rusqlite::Result<Option<String>> {
    transaction
        .prepare_cached(
            "SELECT stream FROM meshage_entity WHERE stream > ?1 ORDER BY stream LIMIT 1",
        )?
        .query_row([after], |row| row.get(0))
        .optional()
}

fn keys(
    transaction: &Transaction<'_>,
    listing: &Listing,
) -> rusqlite::Result<Vec<(String, CommitId)>> {
    let mut statement = transaction.prepare_cached(
        "SELECT key, commit_id FROM meshage_entity WHERE stream = ?1 AND key >= ?2 AND key > ?3 ORDER BY key LIMIT ?4",
    )?;
    let Listing {
        stream,
        prefix,
        after,
        limit,
    } = listing;
    let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
    let mut rows = statement.query((stream.as_str(), prefix, after, limit))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let key = row.get_ref(0)?.as_str()?;
        if !key.starts_with(prefix.as_str()) {
            break;
        }
        found.push((key.to_owned(), CommitId::from_bytes(row.get(1)?)));
    }
    Ok(found)
}
