//! What a handler sends to entities: kept with its writes until they are committed, and delivered
//! afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use uuid::Uuid;

use super::names::{PartitionKey, StreamName};
use super::request::Method;
use super::trace::{TRACEPARENT, TRACESTATE};

/// The header of a message that a timer brings: its name.
pub const TIMER: HeaderName = HeaderName::from_static("meshage-timer");

/// Maximum number of messages that one call sends, and timers that it cancels.
pub const SENT_MAX: usize = 128;

/// Memory that a message takes besides its own bytes.
const OVERHEAD: usize = 256;

/// What a handler asks of an entity.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub stream: StreamName,
    pub partition_key: PartitionKey,
    pub method: Method,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// One message that is to be sent.
#[derive(Debug, Clone)]
pub struct Sending {
    pub id: Uuid,
    pub outgoing: Outgoing,
    /// How long after the commit.
    pub delay: Duration,
}

/// What messages of one entity send.
#[derive(Debug, Clone, Default)]
pub struct Sends {
    pub unnamed: Vec<Sending>,
    /// Timers that take the place of others, or that are removed.
    pub timers: BTreeMap<Arc<str>, Option<Sending>>,
}

/// The headers by which a trace goes on (W3C Trace Context).
const TRACE: [HeaderName; 2] = [TRACEPARENT, TRACESTATE];

impl Outgoing {
    /// Has it belong to the trace of the message with these headers, unless it says another.
    pub fn continue_trace(&mut self, headers: &HeaderMap) {
        if TRACE.iter().any(|name| self.headers.contains_key(name)) {
            return;
        }
        for name in TRACE {
            if let Some(value) = headers.get(&name) {
                self.headers.insert(name, value.clone());
            }
        }
    }

    /// The bytes of its query, headers and body.
    fn bytes(&self) -> usize {
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        self.query.len() + headers + self.body.len()
    }
}

impl Sends {
    pub fn is_empty(&self) -> bool {
        self.unnamed.is_empty() && self.timers.is_empty()
    }

    /// Messages, and timers that are removed.
    pub fn len(&self) -> usize {
        self.unnamed.len() + self.timers.len()
    }

    /// Sends a message; one with a name is a timer.
    pub fn send(&mut self, name: Option<Arc<str>>, sending: Sending) {
        match name {
            Some(name) => drop(self.timers.insert(name, Some(sending))),
            None => self.unnamed.push(sending),
        }
    }

    /// Removes a timer.
    pub fn cancel(&mut self, name: Arc<str>) {
        self.timers.insert(name, None);
    }

    /// Adds what a later message sends.
    pub fn append(&mut self, later: Self) {
        self.unnamed.extend(later.unnamed);
        self.timers.extend(later.timers);
    }

    /// Has all of them belong to the trace of the message with these headers.
    pub fn continue_trace(&mut self, headers: &HeaderMap) {
        let timers = self.timers.values_mut().flatten();
        for sending in self.unnamed.iter_mut().chain(timers) {
            sending.outgoing.continue_trace(headers);
        }
    }

    /// All that are sent, timers with their names.
    pub fn iter(&self) -> impl Iterator<Item = (Option<&Arc<str>>, &Sending)> {
        let unnamed = self.unnamed.iter().map(|sending| (None, sending));
        let timers = self.timers.iter();
        unnamed.chain(timers.filter_map(|(name, sending)| Some((Some(name), sending.as_ref()?))))
    }

    /// The bytes of all of them, names included.
    pub fn bytes(&self) -> usize {
        let names: usize = self.timers.keys().map(|name| name.len()).sum();
        let sent: usize = self.iter().map(|(_, sent)| sent.outgoing.bytes()).sum();
        names + sent
    }

    /// An estimate of the memory that they take.
    pub fn memory(&self) -> usize {
        self.bytes() + self.len() * OVERHEAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sending(body: &'static str) -> Sending {
        Sending {
            id: Uuid::now_v7(),
            outgoing: Outgoing {
                stream: StreamName::try_from("ledger").unwrap(),
                partition_key: PartitionKey::try_from("2026").unwrap(),
                method: Method::Post,
                query: String::new(),
                headers: HeaderMap::new(),
                body: Bytes::from_static(body.as_bytes()),
            },
            delay: Duration::ZERO,
        }
    }

    fn bodies(sends: &Sends) -> Vec<&[u8]> {
        sends
            .iter()
            .map(|(_, sending)| &sending.outgoing.body[..])
            .collect()
    }

    #[test]
    fn the_last_word_about_a_timer_counts() {
        let mut sends = Sends::default();
        sends.send(None, sending("a"));
        sends.send(Some("t".into()), sending("b"));
        let mut later = Sends::default();
        later.send(Some("t".into()), sending("c"));
        later.cancel("u".into());
        later.send(None, sending("d"));
        sends.append(later);
        assert_eq!(bodies(&sends), [b"a", b"d", b"c"]);
        assert_eq!((sends.len(), sends.bytes()), (4, 5));
        sends.cancel("t".into());
        assert_eq!(bodies(&sends), [b"a", b"d"]);
        sends.send(Some("u".into()), sending("e"));
        assert_eq!(bodies(&sends), [b"a", b"d", b"e"]);
    }
}
