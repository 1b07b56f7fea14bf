//! Records: what a store keeps of messages that took effect, so that a repetition of one takes none
//! and gets the same reply.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use uuid::Uuid;

use super::as_http;
use super::commit::EntityId;
use crate::bodies::{BodyMemory, NoRoom};
use crate::message::{
    Failure, FailureKind, Fault, IDEMPOTENCY_KEY, Message, Outcome, Reply, StoreTime, short_hash,
};

/// The first byte of the ids that are made of keys. Those of messages begin with the time, so that
/// they come before.
const KEY: u8 = 0xff;

/// In the id of a call that is kept like a key.
const CALL: &[u8] = b"meshage-call";

/// In place of a status: the handler crashed.
const CRASHED: &str = "crashed";

/// Records of an entity whose ids are kept in memory.
const RECENT_MAX: usize = 4096;

/// Memory that a recent id takes: an entry of a map, and one of a queue.
const RECENT_BYTES: usize = 64;

/// Memory that a record takes besides its reply.
const RECORD_OVERHEAD: usize = 96;

/// What a message is known by: its own id, or its `Idempotency-Key`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RecordId([u8; 16]);

/// A hash of what a message asks for.
pub(super) type Fingerprint = [u8; 16];

/// How a message is told from its repetitions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Once {
    pub(super) id: RecordId,
    /// Its own id, by which failures are kept, if nodes may repeat it.
    pub(super) own_id: Option<RecordId>,
    /// Of a message with an `Idempotency-Key`: another message with that key is none of its
    /// repetitions.
    fingerprint: Option<Fingerprint>,
    /// The moment after which it takes no effect any more; `None`: only its client can repeat it.
    pub(super) not_after: Option<StoreTime>,
    /// Another node may run it still.
    is_repeated: bool,
    /// A handler calls with it. When that runs again it calls with the same id, but until later.
    is_call: bool,
}

/// What is kept of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) id: RecordId,
    pub(super) until: StoreTime,
    /// The moment after which the message takes no effect.
    pub(super) not_after: Option<StoreTime>,
    pub(super) kept: Kept,
}

/// What its repetitions get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) fingerprint: Option<Fingerprint>,
    /// A status, headers and a body, written as in HTTP; of a failure its name in place of a status.
    pub(super) reply: Bytes,
}

/// Until when the store keeps records of an entity at most: those of messages, and those of keys. 0:
/// there were none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct RecordedUntil {
    pub(super) messages: StoreTime,
    pub(super) keys: StoreTime,
}

/// What is known of an entity's records.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    /// What the store has in the entity's row.
    until: RecordedUntil,
    /// The same of those records that are not among the recent ones.
    others: RecordedUntil,
    recent: HashMap<RecordId, StoreTime>,
    /// From the oldest to the newest.
    order: VecDeque<RecordId>,
}

impl RecordId {
    /// Before all others.
    pub(super) const FIRST: Self = Self([0; 16]);

    fn of_message(id: Uuid) -> Self {
        Self(id.into_bytes())
    }

    fn of_key(entity: &EntityId, keys: &[&[u8]]) -> Self {
        let (stream, key) = entity.name();
        let parts = [stream.as_bytes(), key.as_bytes()];
        let mut id = short_hash(parts.into_iter().chain(keys.iter().copied()));
        id[0] = KEY;
        Self(id)
    }

    pub(super) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    pub(super) fn is_of_key(&self) -> bool {
        self.0[0] == KEY
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&Uuid::from_bytes(self.0), f)
    }
}

impl Once {
    /// `None`: it is a read, or a client's first attempt without a key, which nobody repeats; or a handler
    /// sent it, and the store has it until it has taken effect.
    pub(super) fn of(entity: &EntityId, message: &Message) -> Option<Self> {
        if message.is_read() || message.is_sent {
            return None;
        }
        let not_after = message.not_after.get().copied();
        let own_id = not_after.map(|_| RecordId::of_message(message.id));
        let is_repeated = message.is_repeated.get().is_some();
        let keys = message.headers.get_all(IDEMPOTENCY_KEY).iter();
        let mut keys: Vec<&[u8]> = keys.map(HeaderValue::as_bytes).collect();
        let chain = message.chain.as_ref();
        if chain.is_some_and(|chain| chain.comes_again) {
            // Its own id is a key: it is kept as long as one.
            keys.extend([CALL, message.id.as_bytes()]);
        }
        if keys.is_empty() {
            return own_id.map(|id| Self {
                id,
                own_id,
                fingerprint: None,
                not_after,
                is_repeated,
                is_call: chain.is_some(),
            });
        }
        let (method, query) = (message.method.as_str(), message.query.as_bytes());
        let asked = [method.as_bytes(), query, &message.body];
        let path = (!message.path.is_empty()).then_some(message.path.as_bytes());
        Some(Self {
            id: RecordId::of_key(entity, &keys),
            own_id,
            is_repeated,
            fingerprint: Some(short_hash(asked.into_iter().chain(path))),
            not_after,
            is_call: chain.is_some(),
        })
    }

    /// That of a message that was forwarded.
    #[cfg(test)]
    pub(super) fn of_number(number: u64) -> Self {
        Self {
            id: RecordId::of_message(Uuid::from_u128(number.into())),
            own_id: Some(RecordId::of_message(Uuid::from_u128(number.into()))),
            is_repeated: false,
            fingerprint: None,
            not_after: Some(StoreTime::from_millis(number + 1)),
            is_call: false,
        }
    }

    /// The ids under which there may be a record of it.
    pub(super) fn ids(&self) -> impl Iterator<Item = RecordId> + use<> {
        let own_id = self.own_id.filter(|own_id| *own_id != self.id);
        [self.id].into_iter().chain(own_id)
    }

    /// The record of the message, which took effect. Without a key it is needed only if it wrote
    /// something or is run elsewhere, and until nobody can repeat it.
    pub(super) fn record(
        &self,
        reply: &Reply,
        wrote: bool,
        keys_until: StoreTime,
    ) -> Option<Record> {
        let until = match (self.fingerprint, self.not_after) {
            (Some(_), not_after) => keys_until.max(not_after.unwrap_or_default()),
            (None, Some(not_after)) if wrote || self.is_repeated => not_after,
            (None, _) => return None,
        };
        Some(Record {
            id: self.id,
            until,
            not_after: self.not_after,
            kept: Kept {
                fingerprint: self.fingerprint,
                reply: as_http::written(reply.status.as_str(), &reply.headers, &reply.body),
            },
        })
    }

    /// The record of a failure, which changed nothing: if another node may run the message still, it
    /// must not succeed there.
    pub(super) fn record_of_failure(&self, fault: &Fault) -> Option<Record> {
        let (Some(id), Some(until), true) = (self.own_id, self.not_after, self.is_repeated) else {
            return None;
        };
        let (name, text) = match fault {
            Fault::Failure(failure) => (failure.kind.name(), failure.text.clone()),
            _ => (CRASHED, String::new()),
        };
        Some(Record {
            id,
            until,
            not_after: self.not_after,
            kept: Kept {
                fingerprint: None,
                reply: as_http::written(name, &HeaderMap::new(), text.as_bytes()),
            },
        })
    }

    /// The outcome of a repetition.
    pub(super) fn replay(&self, kept: &Kept, bodies: &'static BodyMemory) -> Outcome {
        if kept.fingerprint.is_some() && self.fingerprint != kept.fingerprint {
            return Err(Fault::IdempotencyKeyReused);
        }
        let mut reply = read(&kept.reply).unwrap_or(Err(Fault::Crashed))?;
        let room = bodies.reserve(reply.body.len());
        reply.reservation = room.map_err(|NoRoom| Fault::no_room(bodies))?;
        Ok(reply)
    }
}

/// `None`: it is nothing that meshage has written.
fn read(text: &Bytes) -> Option<Outcome> {
    let (first, headers, body) = as_http::read(text)?;
    if let Some(fault) = fault(first, &body) {
        return Some(Err(fault));
    }
    Some(Ok(Reply {
        status: StatusCode::from_bytes(first.as_bytes()).ok()?,
        headers,
        body,
        is_replayed: true,
        reservation: Default::default(),
    }))
}

fn fault(name: &str, text: &Bytes) -> Option<Fault> {
    if name == CRASHED {
        return Some(Fault::Crashed);
    }
    let kind = FailureKind::ALL
        .into_iter()
        .find(|kind| kind.name() == name)?;
    let text = String::from_utf8_lossy(text).into_owned();
    Some(Fault::Failure(Failure { kind, text }))
}

impl Record {
    /// An estimate of the memory that it takes.
    pub(super) fn memory(&self) -> usize {
        RECORD_OVERHEAD + self.kept.reply.len()
    }
}

impl RecordedUntil {
    fn note(&mut self, id: RecordId, until: StoreTime) {
        let field = if id.is_of_key() {
            &mut self.keys
        } else {
            &mut self.messages
        };
        *field = until.max(*field);
    }
}

impl Recorded {
    /// What an entity's row says when it is loaded.
    pub(super) fn new(until: RecordedUntil) -> Self {
        Self {
            until,
            others: until,
            ..Self::default()
        }
    }

    /// What the row says after a commit with these records.
    pub(super) fn with(&self, records: &[Record]) -> RecordedUntil {
        let mut until = self.until;
        for record in records {
            until.note(record.id, record.until);
        }
        until
    }

    /// They were committed.
    pub(super) fn add(&mut self, records: &[Record]) {
        self.until = self.with(records);
        for record in records {
            if self.recent.insert(record.id, record.until).is_none() {
                self.order.push_back(record.id);
            }
        }
        while self.order.len() > RECENT_MAX
            && let Some(id) = self.order.pop_front()
            && let Some(until) = self.recent.remove(&id)
        {
            self.others.note(id, until);
        }
    }

    /// Whether the store may have a record under this id of the message. What is not known here was committed by
    /// others before the entity was loaded, or was forgotten; and a message's record is kept until
    /// the same moment after which the message takes no effect.
    pub(super) fn may_have(&self, id: RecordId, once: &Once) -> bool {
        if self.recent.contains_key(&id) {
            return true;
        }
        if id.is_of_key() {
            return self.others.keys > StoreTime::default();
        }
        if once.is_call {
            return self.others.messages > StoreTime::default();
        }
        once.not_after
            .is_some_and(|not_after| not_after <= self.others.messages)
    }

    /// An estimate of the memory that it takes.
    pub(super) fn memory(&self) -> usize {
        self.order.len() * RECENT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::message::{Method, PartitionKey, StreamName};

    fn entity() -> EntityId {
        EntityId {
            stream: StreamName::try_from("cart").unwrap(),
            key: PartitionKey::try_from("ada").unwrap(),
        }
    }

    fn message(not_after: Option<u64>, key: Option<&'static str>, body: &'static str) -> Message {
        let EntityId {
            stream,
            key: partition_key,
        } = entity();
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_static(key));
        }
        let set = OnceLock::new();
        if let Some(millis) = not_after {
            set.set(StoreTime::from_millis(millis)).unwrap();
        }
        Message {
            id: Uuid::now_v7(),
            stream,
            partition_key,
            method: Method::Post,
            path: String::new(),
            query: String::new(),
            headers,
            body: Bytes::from_static(body.as_bytes()),
            is_broadcast: false,
            not_after: set,
            is_repeated: OnceLock::new(),
            is_sent: false,
            chain: None,
            trace: None,
            watched: None,
        }
    }

    fn once(not_after: Option<u64>, key: Option<&'static str>, body: &'static str) -> Option<Once> {
        Once::of(&entity(), &message(not_after, key, body))
    }

    fn reply() -> Reply {
        let mut headers = HeaderMap::new();
        headers.append("a", HeaderValue::from_static("1"));
        headers.append("a", HeaderValue::from_bytes(b": \xe4").unwrap());
        headers.append("empty", HeaderValue::from_static(""));
        Reply {
            status: StatusCode::CREATED,
            headers,
            body: Bytes::from_static(b"\r\n\r\n\0body"),
            is_replayed: false,
            reservation: Default::default(),
        }
    }

    fn bodies() -> &'static BodyMemory {
        BodyMemory::new(1 << 20)
    }

    fn record(once: &Once) -> Record {
        once.record(&reply(), true, StoreTime::from_millis(1000))
            .unwrap()
    }

    #[test]
    fn a_repetition_gets_the_same_reply() {
        let once = once(Some(5), None, "").unwrap();
        let replayed = once.replay(&record(&once).kept, bodies()).unwrap();
        let first = reply();
        assert_eq!(
            (replayed.status, &replayed.headers),
            (first.status, &first.headers)
        );
        assert_eq!((&replayed.body, replayed.is_replayed), (&first.body, true));
    }

    #[test]
    fn a_first_attempt_has_no_record_and_an_attempt_without_an_effect_needs_none() {
        assert!(once(None, None, "").is_none());
        let forwarded = once(Some(5), None, "").unwrap();
        assert_eq!(
            forwarded.record(&reply(), false, StoreTime::default()),
            None
        );
        assert_eq!(record(&forwarded).until, StoreTime::from_millis(5));
        // A key promises the same reply.
        let keyed = once(None, Some("k"), "").unwrap();
        let kept = keyed
            .record(&reply(), false, StoreTime::from_millis(7))
            .unwrap();
        assert_eq!(kept.until, StoreTime::from_millis(7));
    }

    #[test]
    fn a_key_belongs_to_one_message() {
        let first = once(None, Some("k"), "a").unwrap();
        let kept = record(&first).kept;
        let again = once(Some(5), Some("k"), "a").unwrap();
        assert_eq!(again.id, first.id);
        assert!(again.replay(&kept, bodies()).is_ok());
        let other = once(None, Some("k"), "b").unwrap();
        assert_eq!(other.id, first.id);
        assert_eq!(
            other.replay(&kept, bodies()).unwrap_err(),
            Fault::IdempotencyKeyReused
        );
        assert_ne!(once(None, Some("l"), "a").unwrap().id, first.id);
    }

    #[test]
    fn the_store_is_asked_only_for_what_was_there_before_or_was_forgotten() {
        let mut recorded = Recorded::new(RecordedUntil {
            messages: StoreTime::from_millis(10),
            keys: StoreTime::default(),
        });
        let (old, new) = (
            once(Some(10), None, "").unwrap(),
            once(Some(11), None, "").unwrap(),
        );
        let keyed = once(None, Some("k"), "").unwrap();
        assert!(
            recorded.may_have(old.id, &old)
                && !recorded.may_have(new.id, &new)
                && !recorded.may_have(keyed.id, &keyed)
        );
        recorded.add(&[record(&new), record(&keyed)]);
        assert!(recorded.may_have(new.id, &new) && recorded.may_have(keyed.id, &keyed));
        let latest = once(Some(12), None, "").unwrap();
        assert!(!recorded.may_have(latest.id, &latest));
        for _ in 0..RECENT_MAX {
            recorded.add(&[record(&once(Some(13), None, "").unwrap())]);
        }
        assert!(recorded.may_have(new.id, &new) && recorded.may_have(keyed.id, &keyed));
        assert!(!recorded.may_have(latest.id, &latest));
        assert_eq!(recorded.memory(), RECENT_MAX * RECENT_BYTES);
        assert_eq!(recorded.with(&[]).messages, StoreTime::from_millis(13));
    }
}
