//! The frames of the peer protocol: `docs/peer-protocol.md`. Each is a 32-bit big-endian length, a
//! byte for its kind, and for most a 32-bit call id; then a head in postcard's format, then the
//! bytes of a body. No I/O here.
//!
//! What a later version adds is skipped, or ends only the call that it belongs to, never the
//! connection.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};
use tokio_util::codec::LengthDelimitedCodec;
use uuid::Uuid;

mod body;
mod chain;
mod fault;
mod headers;
mod hello;
mod question;
mod scan;

pub(super) use body::Body;
pub use hello::Hello;
pub(super) use hello::{Agreed, Versions};
pub use question::Question;
pub(super) use scan::{calls_in, void_call};

use crate::bodies::Reservation;
use crate::message::{
    BODY_BYTES_MAX, Fault, Message, Method, PartitionKey, Reply, Stage, StoreTime, StreamName,
    Watched, truncate,
};

/// Bodies are cut into pieces of this size, so that a large one does not hold up small ones.
pub(super) const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// A chunk and the head before it: 64 KiB of headers, 64 KiB of query, and small fields.
const FRAME_BYTES_MAX: usize = CHUNK_BYTES_MAX + 256 * 1024;

/// A message is forwarded once.
const HOPS_MAX: u8 = 1;

/// Longest text of a reject that is kept. The peer chooses it.
const REASON_BYTES_MAX: usize = 1024;

/// Identifies a call on its connection. The caller chooses it.
pub(super) type CallId = u32;

/// How long each stage of a call took, in microseconds.
pub(super) type Stages = [u64; Stage::COUNT];

/// A frame as it was received.
#[derive(Debug)]
pub(super) enum Frame {
    Hello(Hello),
    /// The peer rejects the hello; the text says why.
    Reject(String),
    /// A message to run, with the first chunk of its body.
    Call {
        id: CallId,
        message: Box<Message>,
        remaining: Duration,
        body: Body,
    },
    /// A handler's reply, with the first chunk of its body.
    Reply {
        id: CallId,
        reply: Box<Reply>,
        body: Body,
        stages: Option<Stages>,
    },
    /// Why there is no reply.
    Fault {
        id: CallId,
        fault: Fault,
    },
    /// The next chunk of a call's or a reply's body.
    Chunk {
        id: CallId,
        bytes: Bytes,
    },
    /// The caller does not want the reply any more.
    Cancel {
        id: CallId,
    },
    /// The answer is a reply.
    Ask {
        id: CallId,
        question: Question,
    },
    Ping,
    Pong,
    /// The sender wants no more calls. It runs those that still come for a while, then refuses
    /// them.
    Leaving,
    /// A hello that this version cannot read; `versions` is what the peer speaks, if that could be
    /// read.
    UnreadableHello {
        versions: Option<Versions>,
        error: WireError,
    },
    /// A call that this version cannot read.
    UnreadableCall {
        id: CallId,
        error: WireError,
    },
    /// An answer that this version cannot read.
    UnreadableAnswer {
        id: CallId,
        error: WireError,
    },
    /// A frame of a kind that this version does not know.
    Unknown,
}

/// Fields that later versions may add to a head, by number. Unknown ones are skipped.
type Extensions<'a> = Vec<(u32, &'a [u8])>;

/// The extension of a call that goes to every candidate; its value is empty.
const BROADCAST: u32 = 1;

/// The extension of a call that takes no effect after this moment by the store's clock:
/// milliseconds since 1970, 8 bytes, big-endian.
const NOT_AFTER: u32 = 2;

/// The extension of a call with which a node was lost that may run it still; its value is empty.
const REPEATED: u32 = 3;

/// The extension of a call that a handler sent, and whose id the store knows; its value is empty.
const SENT: u32 = 4;

/// The extension of a call by a handler: the handlers that wait for it.
const CHAIN: u32 = 5;

/// The extension of a call that only handlers of HTTP understand: its method, and what came after its
/// key, as in the first line of a request.
const HTTP: u32 = 6;

/// The extension of a call whose caller wants to know how long its stages took; its value is empty.
const WATCHED: u32 = 7;

/// The extension of a reply to such a call: a number of microseconds for each [`Stage`].
const STAGES: u32 = 2;

/// The extension of a reply that an earlier message got already; its value is empty.
const REPLAYED: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("a frame ends before its head does")]
    Short,
    #[error("a frame's head cannot be read: {0}")]
    Head(#[from] postcard::Error),
    #[error("a message came over more than {HOPS_MAX} hop")]
    Hops,
    #[error("a body of {0} bytes was announced; the limit is {BODY_BYTES_MAX}")]
    BodyBytes(usize),
    #[error("a body has more bytes than were announced")]
    TooManyChunks,
    #[error("the call id {0} is in use")]
    CallId(CallId),
    #[error("it does not begin as a node of this mesh does")]
    NoNode,
    #[error("the method {0:?} is not known")]
    Method(String),
}

mod kind {
    /// A call that was taken back before it was written; the receiver skips it.
    pub(super) const VOID: u8 = 0;
    pub(super) const HELLO: u8 = 1;
    pub(super) const REJECT: u8 = 2;
    pub(super) const CALL: u8 = 3;
    pub(super) const REPLY: u8 = 4;
    pub(super) const FAULT: u8 = 5;
    pub(super) const CHUNK: u8 = 6;
    pub(super) const CANCEL: u8 = 7;
    pub(super) const PING: u8 = 8;
    pub(super) const PONG: u8 = 9;
    pub(super) const LEAVING: u8 = 10;
    pub(super) const REPORT: u8 = 11;
    pub(super) const RELEASE: u8 = 13;
}

/// The codec that cuts a byte stream into frames.
pub(super) fn framing() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .length_field_type::<u32>()
        .max_frame_length(FRAME_BYTES_MAX)
        .new_codec()
}

#[derive(Serialize, Deserialize)]
struct CallHead<'a> {
    message_id: [u8; 16],
    hop: u8,
    remaining_us: u64,
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    partition_key: Cow<'a, str>,
    #[serde(borrow)]
    method: &'a str,
    #[serde(borrow)]
    query: Cow<'a, str>,
    #[serde(with = "headers")]
    headers: Cow<'a, HeaderMap>,
    body_bytes: usize,
    #[serde(borrow)]
    extensions: Extensions<'a>,
}

#[derive(Serialize, Deserialize)]
struct ReplyHead<'a> {
    status: u16,
    #[serde(with = "headers")]
    headers: Cow<'a, HeaderMap>,
    body_bytes: usize,
    #[serde(borrow)]
    extensions: Extensions<'a>,
}

/// Appends the first frame of a call to `buffer`; returns the rest of its body, for [`put_chunk`].
pub(super) fn put_call(
    buffer: &mut BytesMut,
    id: CallId,
    message: &Message,
    remaining: Duration,
) -> Bytes {
    let not_after = message
        .not_after
        .get()
        .map(|time| time.millis().to_be_bytes());
    let chain = message.chain.as_deref().map(chain::write);
    let broadcast = message.is_broadcast.then_some((BROADCAST, &[][..]));
    let http = http_text(message);
    let not_after = not_after.as_ref().map(|time| (NOT_AFTER, &time[..]));
    let head = CallHead {
        message_id: message.id.into_bytes(),
        hop: 1,
        remaining_us: u64::try_from(remaining.as_micros()).unwrap_or(u64::MAX),
        stream: message.stream.as_str().into(),
        partition_key: message.partition_key.as_str().into(),
        method: message.method.for_messages().as_str(),
        query: message.query.as_str().into(),
        headers: Cow::Borrowed(&message.headers),
        body_bytes: message.body.len(),
        extensions: broadcast
            .into_iter()
            .chain(not_after)
            .chain(message.is_repeated.get().map(|()| (REPEATED, &[][..])))
            .chain(message.is_sent.then_some((SENT, &[][..])))
            .chain(chain.as_ref().map(|chain| (CHAIN, &chain[..])))
            .chain(http.as_ref().map(|http| (HTTP, http.as_bytes())))
            .chain(message.watched.as_ref().map(|_| (WATCHED, &[][..])))
            .collect(),
    };
    put_with_body(buffer, kind::CALL, id, &head, &message.body)
}

/// Appends the first frame of a reply to `buffer`; returns the rest of its body, for [`put_chunk`].
pub(super) fn put_reply(
    buffer: &mut BytesMut,
    id: CallId,
    reply: &Reply,
    watched: Option<&Watched>,
) -> Bytes {
    let stages = watched.and_then(|watched| postcard::to_stdvec(&watched.micros()).ok());
    let stages = stages.as_ref().map(|stages| (STAGES, &stages[..]));
    let head = ReplyHead {
        status: reply.status.as_u16(),
        headers: Cow::Borrowed(&reply.headers),
        body_bytes: reply.body.len(),
        extensions: reply
            .is_replayed
            .then_some((REPLAYED, &[][..]))
            .into_iter()
            .chain(stages)
            .collect(),
    };
    put_with_body(buffer, kind::REPLY, id, &head, &reply.body)
}

fn put_with_body(
    buffer: &mut BytesMut,
    kind: u8,
    id: CallId,
    head: &impl Serialize,
    body: &Bytes,
) -> Bytes {
    let first = body.slice(..body.len().min(CHUNK_BYTES_MAX));
    put(buffer, kind, |buffer| {
        buffer.put_u32(id);
        put_head(buffer, head);
        buffer.put_slice(&first);
    });
    body.slice(first.len()..)
}

/// Appends the next chunk of `rest`, and removes it from `rest`.
pub(super) fn put_chunk(buffer: &mut BytesMut, id: CallId, rest: &mut Bytes) {
    let chunk = rest.split_to(rest.len().min(CHUNK_BYTES_MAX));
    put(buffer, kind::CHUNK, |buffer| {
        buffer.put_u32(id);
        buffer.put_slice(&chunk);
    });
}

pub(super) fn put_fault(buffer: &mut BytesMut, id: CallId, fault: &Fault) {
    put(buffer, kind::FAULT, |buffer| {
        buffer.put_u32(id);
        fault::put(buffer, fault);
    });
}

pub(super) fn put_cancel(buffer: &mut BytesMut, id: CallId) {
    put(buffer, kind::CANCEL, |buffer| buffer.put_u32(id));
}

pub(super) fn put_question(buffer: &mut BytesMut, id: CallId, question: Question) {
    let kind = match question {
        Question::Report => kind::REPORT,
        Question::Release { .. } => kind::RELEASE,
    };
    put(buffer, kind, |buffer| {
        buffer.put_u32(id);
        question.put(buffer);
    });
}

pub(super) fn put_hello(buffer: &mut BytesMut, hello: &Hello) {
    put(buffer, kind::HELLO, |buffer| hello.put(buffer));
}

pub(super) fn put_reject(buffer: &mut BytesMut, reason: &str) {
    put(buffer, kind::REJECT, |buffer| put_head(buffer, &reason));
}

pub(super) fn put_ping(buffer: &mut BytesMut) {
    put(buffer, kind::PING, |_| {});
}

pub(super) fn put_pong(buffer: &mut BytesMut) {
    put(buffer, kind::PONG, |_| {});
}

pub(super) fn put_leaving(buffer: &mut BytesMut) {
    put(buffer, kind::LEAVING, |_| {});
}

/// Appends one frame. Its length is known only at the end, and filled in then.
fn put(buffer: &mut BytesMut, kind: u8, content: impl FnOnce(&mut BytesMut)) {
    let start = buffer.len();
    buffer.put_u32(0);
    buffer.put_u8(kind);
    content(buffer);
    let length = buffer.len() - start - size_of::<u32>();
    let length = u32::try_from(length).expect("a frame is cut far below 4 GiB");
    buffer[start..start + size_of::<u32>()].copy_from_slice(&length.to_be_bytes());
}

fn put_head(buffer: &mut BytesMut, head: &impl Serialize) {
    postcard::serialize_with_flavor(head, Appender(buffer))
        .expect("heads are plain data of known length, and the buffer grows");
}

/// Lets postcard write to the end of a buffer.
struct Appender<'a>(&'a mut BytesMut);

impl Flavor for Appender<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.put_u8(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.put_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Reads one frame, without the length in front of it.
pub(super) fn decode(mut frame: Bytes) -> Result<Frame, WireError> {
    if !frame.has_remaining() {
        return Err(WireError::Short);
    }
    let kind = frame.get_u8();
    Ok(match kind {
        kind::HELLO => match Hello::read(&frame) {
            Ok(hello) => Frame::Hello(hello),
            Err((versions, error)) => Frame::UnreadableHello { versions, error },
        },
        kind::REJECT => match postcard::from_bytes(&frame) {
            Ok(reason) => Frame::Reject(truncate(reason, REASON_BYTES_MAX)),
            Err(_) => Frame::Unknown,
        },
        kind::CALL => {
            let id = take_id(&mut frame)?;
            decode_call(id, frame).unwrap_or_else(|error| Frame::UnreadableCall { id, error })
        }
        kind::REPLY => {
            let id = take_id(&mut frame)?;
            decode_reply(id, frame).unwrap_or_else(|error| Frame::UnreadableAnswer { id, error })
        }
        kind::FAULT => {
            let id = take_id(&mut frame)?;
            match fault::read(&frame) {
                Ok(fault) => Frame::Fault { id, fault },
                Err(error) => Frame::UnreadableAnswer { id, error },
            }
        }
        kind::CHUNK => Frame::Chunk {
            id: take_id(&mut frame)?,
            bytes: frame,
        },
        kind::CANCEL => Frame::Cancel {
            id: take_id(&mut frame)?,
        },
        kind::REPORT => Frame::Ask {
            id: take_id(&mut frame)?,
            question: Question::Report,
        },
        kind::RELEASE => Frame::Ask {
            id: take_id(&mut frame)?,
            question: Question::take_release(&mut frame)?,
        },
        kind::PING => Frame::Ping,
        kind::PONG => Frame::Pong,
        kind::LEAVING => Frame::Leaving,
        _ => Frame::Unknown,
    })
}

fn take_id(frame: &mut Bytes) -> Result<CallId, WireError> {
    frame.try_get_u32().map_err(|_| WireError::Short)
}

fn decode_call(id: CallId, frame: Bytes) -> Result<Frame, WireError> {
    let (head, first): (CallHead<'_>, _) = postcard::take_from_bytes(&frame)?;
    if head.hop > HOPS_MAX {
        return Err(WireError::Hops);
    }
    let invalid = |_| WireError::Head(postcard::Error::SerdeDeCustom);
    let not_after = OnceLock::new();
    if let Some(millis) = extension(&head.extensions, NOT_AFTER) {
        let millis = millis
            .try_into()
            .map_err(|_| WireError::Head(postcard::Error::SerdeDeCustom))?;
        let _ = not_after.set(StoreTime::from_millis(u64::from_be_bytes(millis)));
    }
    let method =
        Method::of_message(head.method).ok_or_else(|| WireError::Method(head.method.to_owned()))?;
    let (method, path) = match extension(&head.extensions, HTTP) {
        Some(http) => read_http(http, method)?,
        None => (method, String::new()),
    };
    let message = Message {
        id: Uuid::from_bytes(head.message_id),
        stream: StreamName::try_from(&*head.stream).map_err(invalid)?,
        partition_key: PartitionKey::try_from(&*head.partition_key).map_err(invalid)?,
        method,
        path,
        query: head.query.into_owned(),
        headers: head.headers.into_owned(),
        body: Bytes::new(),
        is_broadcast: extension(&head.extensions, BROADCAST).is_some(),
        not_after,
        is_repeated: match extension(&head.extensions, REPEATED) {
            Some(_) => OnceLock::from(()),
            None => OnceLock::new(),
        },
        is_sent: extension(&head.extensions, SENT).is_some(),
        chain: extension(&head.extensions, CHAIN)
            .map(chain::read)
            .transpose()?,
        trace: None,
        watched: extension(&head.extensions, WATCHED).map(|_| Arc::default()),
    };
    let body = Body::new(head.body_bytes, frame.slice_ref(first))?;
    Ok(Frame::Call {
        id,
        message: Box::new(message),
        remaining: Duration::from_micros(head.remaining_us),
        body,
    })
}

/// The method and the path of a message that only handlers of HTTP understand.
fn http_text(message: &Message) -> Option<String> {
    let Message { method, path, .. } = message;
    let is_of_http = !path.is_empty() || method.for_messages() != *method;
    is_of_http.then(|| format!("{} {path}", method.as_str()))
}

/// A method that is not known is that of the head.
fn read_http(text: &[u8], method: Method) -> Result<(Method, String), WireError> {
    let text = std::str::from_utf8(text).ok();
    let (name, path) = text
        .and_then(|text| text.split_once(' '))
        .ok_or(WireError::Head(postcard::Error::SerdeDeCustom))?;
    let own = http::Method::from_bytes(name.as_bytes()).ok();
    let own = own.and_then(|own| Method::from_http(&own));
    Ok((own.unwrap_or(method), path.to_owned()))
}

fn extension<'a>(extensions: &Extensions<'a>, number: u32) -> Option<&'a [u8]> {
    let found = extensions.iter().find(|(id, _)| *id == number);
    found.map(|(_, value)| *value)
}

fn decode_reply(id: CallId, frame: Bytes) -> Result<Frame, WireError> {
    let (head, first): (ReplyHead<'_>, _) = postcard::take_from_bytes(&frame)?;
    let status = StatusCode::from_u16(head.status)
        .map_err(|_| WireError::Head(postcard::Error::SerdeDeCustom))?;
    let reply = Reply {
        status,
        headers: head.headers.into_owned(),
        body: Bytes::new(),
        is_replayed: extension(&head.extensions, REPLAYED).is_some(),
        reservation: Reservation::default(),
    };
    let body = Body::new(head.body_bytes, frame.slice_ref(first))?;
    let stages = extension(&head.extensions, STAGES);
    Ok(Frame::Reply {
        id,
        reply: Box::new(reply),
        body,
        stages: stages.and_then(|stages| postcard::from_bytes(stages).ok()),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use http::HeaderValue;
    use tokio_util::codec::Decoder;

    use super::*;
    use crate::message::{Caller, Chain, Failure, FailureKind, Refusal};

    pub(in crate::peer) fn message(body_bytes: usize) -> Message {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_bytes(&[0xe4]).unwrap());
        headers.insert("connection", HeaderValue::from_static("keep-alive"));
        Message {
            id: Uuid::from_u128(7),
            stream: StreamName::try_from("echo").unwrap(),
            partition_key: PartitionKey::try_from("a/ü").unwrap(),
            method: Method::Put,
            path: if body_bytes == 1 { "/a%20b/" } else { "" }.into(),
            query: "a=b&c".into(),
            headers,
            body: Bytes::from(vec![b'x'; body_bytes]),
            is_broadcast: body_bytes == 1,
            not_after: OnceLock::from(StoreTime::from_millis(body_bytes as u64)),
            is_repeated: OnceLock::from(()),
            is_sent: body_bytes == 0,
            chain: (body_bytes == 0).then(|| {
                let caller = |has_turn| Caller {
                    stream: StreamName::try_from("echo").unwrap(),
                    key: PartitionKey::try_from("ü").unwrap(),
                    has_turn,
                };
                Arc::new(Chain {
                    root: Uuid::from_u128(8),
                    comes_again: true,
                    callers: vec![caller(true), caller(false)],
                })
            }),
            trace: None,
            watched: (body_bytes == 1).then(Arc::default),
        }
    }

    /// Everything in the buffer, cut into frames as a receiver would.
    fn received(mut buffer: BytesMut) -> Vec<Frame> {
        let mut framing = framing();
        let frames = std::iter::from_fn(|| framing.decode(&mut buffer).unwrap());
        let frames = frames
            .map(|frame| decode(frame.freeze()).unwrap())
            .collect();
        assert!(buffer.is_empty());
        frames
    }

    #[test]
    fn a_call_arrives_as_it_was_sent() {
        for body_bytes in [
            0,
            1,
            CHUNK_BYTES_MAX,
            CHUNK_BYTES_MAX + 1,
            3 * CHUNK_BYTES_MAX,
        ] {
            let sent = message(body_bytes);
            let mut buffer = BytesMut::new();
            let mut rest = put_call(&mut buffer, 9, &sent, Duration::from_millis(1500));
            while !rest.is_empty() {
                put_chunk(&mut buffer, 9, &mut rest);
            }
            let mut frames = received(buffer).into_iter();
            let Some(Frame::Call {
                id: 9,
                message,
                remaining,
                mut body,
            }) = frames.next()
            else {
                panic!("no call")
            };
            for frame in frames {
                let Frame::Chunk { id: 9, bytes } = frame else {
                    panic!("no chunk: {frame:?}")
                };
                assert!(bytes.len() <= CHUNK_BYTES_MAX && !body.is_complete());
                body.push(&bytes).unwrap();
            }
            assert!(body.is_complete());
            assert_eq!(body.into_bytes(), sent.body);
            assert_eq!(remaining, Duration::from_millis(1500));
            assert_eq!(
                (message.id, message.method, &message.query),
                (sent.id, sent.method, &sent.query)
            );
            assert_eq!(message.watched.is_some(), sent.watched.is_some());
            assert_eq!(
                (&message.stream, &message.partition_key),
                (&sent.stream, &sent.partition_key)
            );
            assert_eq!(
                (message.is_broadcast, message.is_sent, message.chain),
                (sent.is_broadcast, sent.is_sent, sent.chain)
            );
            assert_eq!(message.not_after, sent.not_after);
            assert_eq!(message.is_repeated, sent.is_repeated);
            assert_eq!(message.headers.get_all("x-a").iter().count(), 2);
            assert!(!message.headers.contains_key("connection"));
        }
    }

    #[test]
    fn calls_that_end_in_their_order_are_found_at_once() {
        let mut buffer = BytesMut::new();
        let mut ends = Vec::new();
        for id in 1..=3 {
            put_call(&mut buffer, id, &message(10), Duration::from_secs(1));
            put_ping(&mut buffer);
            ends.push(buffer.len() - 5);
        }
        let mut void = 0;
        for (id, expected) in [(3, 0), (1, ends[0]), (2, ends[1]), (2, ends[2] + 5)] {
            assert_eq!(void_call(&mut buffer, &mut void, id), expected <= ends[2]);
            assert_eq!(void, expected, "{id}");
        }
        assert!(calls_in(&buffer).is_empty());
    }

    #[test]
    fn calls_are_found_in_a_buffer() {
        let mut buffer = BytesMut::new();
        put_ping(&mut buffer);
        let _ = put_call(&mut buffer, 7, &message(100), Duration::from_secs(1));
        put_cancel(&mut buffer, 3);
        let _ = put_call(&mut buffer, 8, &message(0), Duration::from_secs(1));
        assert_eq!(calls_in(&buffer), [7, 8]);
        assert_eq!(calls_in(&[]), [] as [CallId; 0]);
    }

    #[test]
    fn replies_and_faults_arrive_as_they_were_sent() {
        let (headers, body) = (message(0).headers, Bytes::from("done"));
        let reply = Reply {
            status: StatusCode::CREATED,
            headers,
            body,
            is_replayed: true,
            reservation: Reservation::default(),
        };
        let faults = [
            Fault::Failure(Failure {
                kind: FailureKind::Conflict,
                text: "taken".into(),
            }),
            Fault::Refused(Refusal::Leaving),
            Fault::DeadlineExceeded,
        ];
        let mut buffer = BytesMut::new();
        let watched = Watched::default();
        watched.add(Stage::Running, Duration::from_millis(7));
        assert!(put_reply(&mut buffer, 1, &reply, Some(&watched)).is_empty());
        for fault in &faults {
            put_fault(&mut buffer, 2, fault);
        }
        let mut frames = received(buffer).into_iter();
        let Some(Frame::Reply {
            id: 1,
            reply: found,
            body,
            stages: Some([0, 7_000, 0]),
        }) = frames.next()
        else {
            panic!("no reply")
        };
        assert_eq!(
            (found.status, body.into_bytes()),
            (StatusCode::CREATED, reply.body)
        );
        let found: Vec<Fault> = frames
            .map(|frame| match frame {
                Frame::Fault { id: 2, fault } => fault,
                other => panic!("no fault: {other:?}"),
            })
            .collect();
        assert_eq!(found, faults);
    }

    #[test]
    fn frames_that_make_no_sense_are_errors_and_never_panics() {
        assert!(matches!(decode(Bytes::new()), Err(WireError::Short)));
        assert!(matches!(
            decode(Bytes::from_static(&[99])),
            Ok(Frame::Unknown)
        ));
        assert!(matches!(
            decode(Bytes::from_static(&[kind::CANCEL, 0, 0])),
            Err(WireError::Short)
        ));
        let mut buffer = BytesMut::new();
        let _ = put_call(&mut buffer, 1, &message(100), Duration::from_secs(1));
        let frame = buffer.freeze().slice(4..);
        // A head truncated anywhere is an error; so is a body longer than announced.
        let head_bytes = frame.len() - 100;
        for length in 0..head_bytes {
            let found = decode(frame.slice(..length));
            let is_error = matches!(
                found,
                Err(WireError::Short) | Ok(Frame::UnreadableCall { id: 1, .. })
            );
            assert!(is_error, "truncated at {length}");
        }
        let longer = decode([&frame[..], b"x"].concat().into());
        assert!(matches!(
            longer,
            Ok(Frame::UnreadableCall {
                id: 1,
                error: WireError::TooManyChunks
            })
        ));
        for kind in 0..=255u8 {
            for filler in [0u8, 1, 0x7f, 0xff] {
                let _ = decode(Bytes::from([&[kind][..], &[filler; 64]].concat()));
            }
        }
    }
}
