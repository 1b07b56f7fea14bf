//! Looks at what is committed. Those for last commits and for whole entities go together, in one
//! statement each; all of a batch are under way at once.

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use super::connect::{Connection, Statements};
use super::outbox;
use crate::entities::commit::{CommitId, EntityId};
use crate::entities::record::{Kept, RecordId, RecordedUntil};
use crate::entities::store::backend::{
    Found, LOADED_BYTES_MAX, LOADED_VALUES_MAX, Listing, Look, Seen, What,
};
use crate::message::StoreTime;
use crate::state::{MAIN_VALUE, Name, PAGE_BYTES_MAX, Page, Range, Values, Writes};

/// Values that a page asks the server for at once; a page of large ones is cut afterwards.
const PAGE_ROWS_MAX: usize = 100;

pub(super) async fn look(connection: &Connection, looks: &[Look]) -> Result<Vec<Seen>, Error> {
    let Some(statements) = &connection.statements else {
        return Ok(Vec::new());
    };
    let reader = Reader {
        connection,
        statements,
    };
    let mut seen: Vec<Option<Seen>> = looks.iter().map(|_| None).collect();
    let lasts = at(looks, |what| matches!(what, What::Last));
    let whole = at(looks, |what| matches!(what, What::Values));
    let others = looks
        .iter()
        .enumerate()
        .filter(|(_, look)| !matches!(look, Look::At(_, What::Last | What::Values)));
    let others =
        others.map(|(place, look)| async move { Ok::<_, Error>((place, reader.one(look).await?)) });
    let (lasts, whole, others) = tokio::try_join!(
        reader.lasts(&lasts),
        reader.whole(&whole),
        try_join_all(others)
    )?;
    for (place, found) in lasts.into_iter().chain(whole).chain(others) {
        seen[place] = Some(found);
    }
    Ok(seen.into_iter().flatten().collect())
}

/// The entities of some looks, each with the place of its look.
fn at(looks: &[Look], wanted: impl Fn(&What) -> bool) -> Vec<(usize, &EntityId)> {
    let entities = looks
        .iter()
        .enumerate()
        .filter_map(|(place, look)| match look {
            Look::At(entity, what) if wanted(what) => Some((place, &**entity)),
            _ => None,
        });
    entities.collect()
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    connection: &'a Connection,
    statements: &'a Statements,
}

type Placed = Vec<(usize, Seen)>;

impl Reader<'_> {
    async fn lasts(&self, wanted: &[(usize, &EntityId)]) -> Result<Placed, Error> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let (streams, keys) = names(wanted);
        let rows = self
            .connection
            .client
            .query(&self.statements.last, &[&streams, &keys])
            .await?;
        let mut found: Placed = wanted
            .iter()
            .map(|(place, _)| (*place, nothing()))
            .collect();
        for row in rows {
            found[index(&row)].1.last = Some(commit_id(&row, 1));
        }
        Ok(found)
    }

    async fn whole(&self, wanted: &[(usize, &EntityId)]) -> Result<Placed, Error> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let (streams, keys) = names(wanted);
        // One more than are kept, to see whether there are more.
        let limit = LOADED_VALUES_MAX as i32 + 1;
        let bytes = LOADED_BYTES_MAX as i64;
        let rows = self
            .connection
            .client
            .query(&self.statements.values, &[&streams, &keys, &limit, &bytes])
            .await?;
        let mut loaded: Vec<Loaded> = wanted.iter().map(|_| Loaded::default()).collect();
        for row in &rows {
            loaded[index(row)].add(row);
        }
        let seen = loaded.into_iter().map(Loaded::seen);
        Ok(wanted.iter().map(|(place, _)| *place).zip(seen).collect())
    }

    async fn one(&self, look: &Look) -> Result<Seen, Error> {
        match look {
            Look::At(entity, What::Value(name)) => self.value(entity, name).await,
            Look::At(entity, What::Page(range)) => self.page(entity, range).await,
            Look::At(entity, What::Sent(id)) => self.sent(entity, *id).await,
            Look::At(entity, What::Record(id)) => self.record(entity, *id).await,
            Look::Entities(listing) => self.entities(listing).await,
            Look::StreamAfter(after) => self.stream_after(after).await,
            Look::Sends(wanted) => Ok(Seen {
                last: None,
                found: outbox::outstanding(self.connection, wanted).await?,
            }),
            Look::Records(after, limit) => Ok(Seen {
                last: None,
                found: outbox::records(self.connection, *after, *limit).await?,
            }),
            Look::At(_, What::Last | What::Values) => Ok(nothing()),
        }
    }

    async fn value(&self, entity: &EntityId, name: &Name) -> Result<Seen, Error> {
        let (stream, key) = (entity.stream.as_str(), entity.key.as_str());
        let row = self
            .connection
            .client
            .query_opt(&self.statements.value, &[&stream, &key, &&**name])
            .await?;
        let column = if &**name == MAIN_VALUE { 1 } else { 2 };
        Ok(Seen {
            last: row.as_ref().map(|row| commit_id(row, 0)),
            found: Found::Value(row.and_then(|row| bytes(&row, column))),
        })
    }

    async fn page(&self, entity: &EntityId, range: &Range) -> Result<Seen, Error> {
        let (stream, key) = (entity.stream.as_str(), entity.key.as_str());
        let count = range.limit.clamp(1, PAGE_ROWS_MAX);
        // One more, to see whether there are more.
        let limit = count as i32 + 1;
        let bytes_max = PAGE_BYTES_MAX as i64;
        let rows = self
            .connection
            .client
            .query(
                &self.statements.page,
                &[
                    &stream,
                    &key,
                    &&*range.prefix,
                    &&*range.after,
                    &limit,
                    &bytes_max,
                ],
            )
            .await?;
        let Some(first) = rows.first() else {
            return Ok(Seen {
                found: Found::Page(Page::end()),
                ..nothing()
            });
        };
        let (last, main) = (commit_id(first, 0), bytes(first, 1));
        let values = rows.iter().filter_map(|row| {
            let name: Option<&str> = row.get(2);
            Some((name?.into(), bytes(row, 3).unwrap_or_default()))
        });
        let is_within = |(name, _): &(Name, Bytes)| name.starts_with(&*range.prefix);
        let page = Page::of(values.take_while(is_within), count);
        let mut own_row = Writes::default();
        if main.is_some() {
            own_row.put(MAIN_VALUE.into(), main);
        }
        Ok(Seen {
            last: Some(last),
            found: Found::Page(page.with(&own_row, range)),
        })
    }

    async fn sent(&self, entity: &EntityId, id: Uuid) -> Result<Seen, Error> {
        let (stream, key) = (entity.stream.as_str(), entity.key.as_str());
        let row = self
            .connection
            .client
            .query_opt(&self.statements.sent, &[&stream, &key, &id])
            .await?;
        Ok(Seen {
            last: row.as_ref().map(|row| commit_id(row, 0)),
            // An entity without commits has taken nothing.
            found: Found::Sent(row.is_none_or(|row| row.get(1))),
        })
    }

    async fn record(&self, entity: &EntityId, id: RecordId) -> Result<Seen, Error> {
        let (stream, key) = (entity.stream.as_str(), entity.key.as_str());
        let id = Uuid::from_bytes(*id.as_bytes());
        let row = self
            .connection
            .client
            .query_opt(&self.statements.record, &[&stream, &key, &id])
            .await?;
        let kept = row.as_ref().and_then(|row| {
            Some(Kept {
                fingerprint: bytes(row, 1).and_then(|bytes| bytes[..].try_into().ok()),
                reply: bytes(row, 2)?,
            })
        });
        Ok(Seen {
            last: row.as_ref().map(|row| commit_id(row, 0)),
            found: Found::Record(kept),
        })
    }

    async fn stream_after(&self, after: &str) -> Result<Seen, Error> {
        let statement = &self.statements.stream_after;
        let client = &self.connection.client;
        let row = client.query_opt(statement, &[&after]).await?;
        let stream = row.map(|row| row.get(0));
        Ok(Seen {
            last: None,
            found: Found::Stream(stream),
        })
    }

    async fn entities(&self, listing: &Listing) -> Result<Seen, Error> {
        let Listing {
            stream,
            prefix,
            after,
            limit,
        } = listing;
        let limit = i32::try_from(*limit).unwrap_or(i32::MAX);
        let rows = self
            .connection
            .client
            .query(
                &self.statements.entities,
                &[&stream.as_str(), prefix, after, &limit],
            )
            .await?;
        let keys = rows
            .iter()
            .map(|row| (row.get::<_, String>(0), commit_id(row, 1)));
        let within = keys.take_while(|(key, _)| key.starts_with(prefix));
        Ok(Seen {
            last: None,
            found: Found::Entities(within.collect()),
        })
    }
}

/// What was loaded of an entity.
#[derive(Default)]
struct Loaded {
    last: Option<CommitId>,
    recorded: RecordedUntil,
    main: Option<Bytes>,
    values: Vec<(Name, Bytes)>,
    bytes: usize,
    is_cut: bool,
}

impl Loaded {
    fn add(&mut self, row: &Row) {
        if self.last.is_none() {
            self.last = Some(commit_id(row, 1));
            self.main = bytes(row, 2);
            self.recorded = RecordedUntil {
                messages: time(row, 6),
                keys: time(row, 7),
            };
        }
        let (name, is_large): (Option<&str>, bool) = (row.get(3), row.get(5));
        let Some(name) = name else { return };
        let is_full = self.values.len() >= LOADED_VALUES_MAX || self.bytes >= LOADED_BYTES_MAX;
        if is_large || is_full {
            self.is_cut = true;
            return;
        }
        let value = bytes(row, 4).unwrap_or_default();
        self.bytes += value.len();
        self.values.push((name.into(), value));
    }

    fn seen(self) -> Seen {
        let Some(last) = self.last else {
            return Seen {
                found: Found::Values(Values::none(), RecordedUntil::default()),
                ..nothing()
            };
        };
        let mut values = Values::new(self.values, !self.is_cut);
        values.learn(MAIN_VALUE.into(), self.main);
        Seen {
            last: Some(last),
            found: Found::Values(values, self.recorded),
        }
    }
}

fn nothing() -> Seen {
    Seen {
        last: None,
        found: Found::Nothing,
    }
}

fn names<'a>(wanted: &[(usize, &'a EntityId)]) -> (Vec<&'a str>, Vec<&'a str>) {
    wanted
        .iter()
        .map(|(_, entity)| (entity.stream.as_str(), entity.key.as_str()))
        .unzip()
}

/// The place of a row's entity among those that were asked for: ordinals count from 1.
fn index(row: &Row) -> usize {
    let ord: i32 = row.get(0);
    usize::try_from(ord).unwrap_or(1).saturating_sub(1)
}

fn commit_id(row: &Row, column: usize) -> CommitId {
    CommitId::from_bytes(row.get::<_, Uuid>(column).into_bytes())
}

pub(super) fn time(row: &Row, column: usize) -> StoreTime {
    let millis: i64 = row.get(column);
    StoreTime::from_millis(millis.try_into().unwrap_or_default())
}

fn bytes(row: &Row, column: usize) -> Option<Bytes> {
    row.get::<_, Option<&[u8]>>(column)
        .map(Bytes::copy_from_slice)
}
