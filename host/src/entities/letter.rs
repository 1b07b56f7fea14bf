//! A message that a handler has sent, as the store keeps it until it is answered.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::as_http;
use super::commit::EntityId;
use crate::message::{
    Message, Method, Outgoing, PartitionKey, Sending, StoreTime, StreamName, TIMER,
};

/// The end of the year 9999.
const LAST_SHOWN_MILLIS: u64 = 253_402_300_799_999;

/// The entity that sent a message.
const FROM: HeaderName = HeaderName::from_static("meshage-from");

/// A message of the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) id: Uuid,
    pub(super) from: Arc<EntityId>,
    pub(super) name: Option<Arc<str>>,
    pub(super) to: EntityId,
    pub(super) due: StoreTime,
    pub(super) tries: u32,
    /// Written as in HTTP.
    pub(super) text: Bytes,
}

/// A message of the outbox, with how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) letter: Letter,
    /// Which node delivers it.
    pub(super) node: String,
    /// When it is delivered, or delivered again; `None`: it is stuck.
    pub(super) wake_at: Option<StoreTime>,
    /// How its last delivery failed.
    pub(super) problem: Option<String>,
    /// The size of the text, which may not have been asked for.
    pub(super) bytes: usize,
}

impl Waiting {
    /// As operators see it.
    pub(super) fn line(&self) -> Value {
        let Letter {
            id,
            from,
            name,
            to,
            due,
            tries,
            ..
        } = &self.letter;
        let entity =
            |entity: &EntityId| json!({ "stream": entity.stream, "partitionKey": entity.key });
        let time = |time: StoreTime| {
            // Later ones cannot be written.
            let millis = time.millis().min(LAST_SHOWN_MILLIS);
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            humantime::format_rfc3339_millis(time).to_string()
        };
        json!({
            "id": id,
            "from": entity(from),
            "to": entity(to),
            "timer": name,
            "due": time(*due),
            "tries": tries,
            "state": if self.wake_at.is_none() { "stuck" } else { "waiting" },
            "nextTry": self.wake_at.filter(|at| *at > StoreTime::default()).map(time),
            "problem": self.problem,
            "node": self.node,
            "bytes": self.bytes,
        })
    }
}

impl Letter {
    /// What an entity sends, and is due now.
    pub(super) fn new(
        from: &Arc<EntityId>,
        name: Option<&Arc<str>>,
        sending: &Sending,
        now: StoreTime,
    ) -> Self {
        let Outgoing {
            stream,
            partition_key,
            ..
        } = &sending.outgoing;
        Self {
            id: sending.id,
            from: from.clone(),
            name: name.cloned(),
            to: EntityId {
                stream: stream.clone(),
                key: partition_key.clone(),
            },
            due: now,
            tries: 0,
            text: written(&sending.outgoing),
        }
    }

    /// `None`: it is nothing that meshage has written.
    pub(super) fn message(&self) -> Option<Message> {
        let (first, mut headers, body) = as_http::read(&self.text)?;
        let (method, query) = first.split_once(" ?")?;
        if let Some(name) = &self.name {
            headers.insert(TIMER, HeaderValue::from_bytes(name.as_bytes()).ok()?);
        }
        headers.insert(FROM, from_header(&self.from)?);
        Some(Message {
            id: self.id,
            stream: self.to.stream.clone(),
            partition_key: self.to.key.clone(),
            method: Method::of_message(method)?,
            path: String::new(),
            query: query.to_owned(),
            headers,
            body,
            is_broadcast: false,
            not_after: OnceLock::new(),
            is_repeated: OnceLock::new(),
            is_sent: true,
            chain: None,
            trace: None,
            watched: None,
        })
    }
}

/// A message as it is stored.
pub(super) fn written(outgoing: &Outgoing) -> Bytes {
    let first = format!("{} ?{}", outgoing.method.as_str(), outgoing.query);
    as_http::written(&first, &outgoing.headers, &outgoing.body)
}

fn from_header(entity: &EntityId) -> Option<HeaderValue> {
    let key = percent_encode(entity.key.as_str().as_bytes(), NON_ALPHANUMERIC);
    HeaderValue::from_str(&format!("{}/{key}", entity.stream)).ok()
}

/// The name of a message that an entity's timer brings to the entity itself.
pub(super) fn own_timer<'a>(headers: &'a HeaderMap, entity: &EntityId) -> Option<&'a str> {
    let from = headers.get(FROM)?;
    let is_own = from_header(entity).as_ref() == Some(from);
    let name = headers.get(TIMER).filter(|_| is_own)?;
    std::str::from_utf8(name.as_bytes()).ok()
}

/// An entity of the store, if its names are those of one.
pub(super) fn entity(stream: &str, key: &str) -> Option<EntityId> {
    Some(EntityId {
        stream: StreamName::try_from(stream).ok()?,
        key: PartitionKey::try_from(key).ok()?,
    })
}
