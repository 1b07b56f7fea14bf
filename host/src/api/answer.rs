//! Answers of the public API: replies, problems, and the array of a broadcast.

use std::io::Write;
use std::pin::pin;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use metrics::counter;
use serde::Serialize;
use serde::de::IgnoredAny;

use super::problem::{ApiError, Problem, RETRY_AFTER_SECONDS, Subject};
use crate::bodies::{BodyMemory, Reservation};
use crate::message::{Answer, Fault, Message, Method, NodeId, Reply};
use crate::telemetry::names;

pub(super) type HttpResponse = Response<Content>;

/// The body of an answer, with its memory reservation.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) bytes: Bytes,
    pub(super) reservation: Reservation,
}

impl From<Vec<u8>> for Content {
    /// A small body, without a reservation.
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes: bytes.into(),
            reservation: Reservation::default(),
        }
    }
}

const REPLAYED: HeaderName = HeaderName::from_static("meshage-replayed");
pub(super) const NODE: HeaderName = HeaderName::from_static("meshage-node");
const BROADCAST: HeaderName = HeaderName::from_static("meshage-broadcast");

/// Makes the answers of one node.
pub(super) struct Answers {
    node: NodeId,
    /// The same as a header value, since most answers contain it.
    name: HeaderValue,
}

impl Answers {
    pub(super) fn new(node: NodeId) -> Self {
        // Leaked once per process, so that answers need no reference count.
        let name = HeaderValue::from_static(String::leak(node.to_string()));
        Self { node, name }
    }

    fn name(&self, response: &mut HttpResponse, node: &NodeId) {
        let name = if *node == self.node {
            self.name.clone()
        } else {
            header_value(node)
        };
        response.headers_mut().insert(NODE, name);
    }

    /// The handler's reply, or a problem in its place.
    pub(super) fn send(&self, message: &Message, answer: Answer) -> HttpResponse {
        match answer.outcome {
            Ok(reply) => {
                let mut response = Response::new(Content {
                    bytes: reply.body,
                    reservation: reply.reservation,
                });
                *response.status_mut() = reply.status;
                *response.headers_mut() = reply.headers;
                if reply.is_replayed {
                    response
                        .headers_mut()
                        .insert(REPLAYED, HeaderValue::from_static("true"));
                }
                self.name(&mut response, &answer.node);
                response
            }
            Err(fault) => {
                let error = ApiError::Fault {
                    fault,
                    may_run_twice: answer.may_run_twice,
                };
                self.problem_of(&error, subject(message), &answer.node)
            }
        }
    }

    /// A problem reported by this node.
    pub(super) fn problem(&self, error: &ApiError, subject: Subject<'_>) -> HttpResponse {
        self.problem_of(error, subject, &self.node)
    }

    /// A problem. A retryable 503 has `Retry-After`, a 401 `WWW-Authenticate`, a 405 `Allow`.
    fn problem_of(&self, error: &ApiError, subject: Subject<'_>, node: &NodeId) -> HttpResponse {
        counter!(names::PROBLEMS, "type" => error.problem_type().name).increment(1);
        let (status, problem) = error.problem(subject, node);
        let mut response = json(&problem, "application/problem+json");
        *response.status_mut() = status;
        if status == StatusCode::SERVICE_UNAVAILABLE && error.retryable() {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static(Method::ALLOWED));
        }
        self.name(&mut response, node);
        response
    }

    /// The answers of all candidates as a JSON array, in the order in which they come. This node
    /// assembles it, adding each answer as soon as it is available.
    pub(super) async fn broadcast(
        &self,
        message: &Message,
        answers: impl Stream<Item = Answer>,
        bodies: &'static BodyMemory,
    ) -> HttpResponse {
        let mut answers = pin!(answers);
        let (mut body, mut reservation) = (Vec::from(b"["), Reservation::default());
        let (mut ok, mut failed) = (0, 0);
        while let Some(Answer {
            node,
            outcome,
            may_run_twice,
        }) = answers.next().await
        {
            if body.len() > 1 {
                body.push(b',');
            }
            let element = outcome.and_then(|reply| {
                let bytes = body.len() + element_bytes_max(&reply);
                reservation
                    .resize(bodies, bytes)
                    .map_err(|_| Fault::no_room(bodies))
                    .map(|()| reply)
            });
            match element {
                Ok(reply) => {
                    ok += 1;
                    put_reply(&mut body, &reply);
                }
                Err(fault) => {
                    failed += 1;
                    let error = ApiError::Fault {
                        fault,
                        may_run_twice,
                    };
                    let (_, problem): (_, Problem<'_>) = error.problem(subject(message), &node);
                    put_json(&mut body, &problem);
                }
            }
        }
        body.push(b']');
        let mut response = Response::new(Content {
            bytes: body.into(),
            reservation,
        });
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let counts = format!("ok={ok} failed={failed}");
        headers.insert(
            BROADCAST,
            HeaderValue::try_from(counts).expect("digits and letters are a header value"),
        );
        self.name(&mut response, &self.node);
        response
    }
}

/// A reply that is not plain JSON, with its metadata.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wrapped<'a> {
    status: u16,
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_encoding: Option<&'a str>,
    base64: String,
}

/// The overhead of a wrapped reply besides its body and the values of two headers: names, a status,
/// punctuation.
const WRAPPING_BYTES: usize = 128;

/// Maximum size of a reply in the array: base64 takes four bytes for three.
fn element_bytes_max(reply: &Reply) -> usize {
    let headers = [CONTENT_TYPE, CONTENT_ENCODING]
        .map(|name| reply.headers.get(name).map_or(0, HeaderValue::len));
    reply.body.len().div_ceil(3) * 4 + headers.iter().sum::<usize>() + WRAPPING_BYTES
}

/// A reply with status 200 and a valid JSON body goes into the array as it is; any other as base64,
/// with its status, type and encoding.
fn put_reply(body: &mut Vec<u8>, reply: &Reply) {
    let header = |name| {
        reply
            .headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let (content_type, content_encoding) = (header(CONTENT_TYPE), header(CONTENT_ENCODING));
    let says_no_more = reply.status == StatusCode::OK && content_encoding.is_none();
    if says_no_more && content_type.is_some_and(names_json) && is_json(&reply.body) {
        body.extend_from_slice(&reply.body);
    } else {
        let (status, base64) = (reply.status.as_u16(), STANDARD.encode(&reply.body));
        put_json(
            body,
            &Wrapped {
                status,
                content_type,
                content_encoding,
                base64,
            },
        );
    }
}

/// Whether the body is valid JSON. `IgnoredAny` does not check that strings are UTF-8, so that is
/// done first.
fn is_json(body: &[u8]) -> bool {
    std::str::from_utf8(body).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// `application/json`, or a type with the suffix `+json` (RFC 6839), whatever its parameters.
fn names_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
        || essence.to_ascii_lowercase().ends_with("+json")
}

fn subject(message: &Message) -> Subject<'_> {
    Subject {
        stream: Some(message.stream.as_str()),
        partition_key: Some(message.partition_key.as_str()),
        message_id: Some(message.id),
    }
}

fn json(value: &impl Serialize, content_type: &'static str) -> HttpResponse {
    let mut body = Vec::new();
    put_json(&mut body, value);
    let mut response = Response::new(Content::from(body));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn put_json(body: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(body.by_ref(), value)
        .expect("plain data can be written as JSON to memory");
}

fn header_value(node: &NodeId) -> HeaderValue {
    HeaderValue::from_str(node.as_str())
        .expect("a node id is made of letters, digits, '-', '_' and '.'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_json(content_type: &str, expected: bool) {
        assert_eq!(names_json(content_type), expected, "{content_type}");
    }

    #[test]
    fn what_is_not_utf8_is_no_json() {
        assert!(is_json("\"ü\"".as_bytes()));
        assert!(!is_json(b"\"\xff\""));
        assert!(!is_json(b""));
    }

    #[test]
    fn json_is_known_by_its_content_type() {
        check_json("application/json", true);
        check_json("Application/JSON; charset=utf-8", true);
        check_json("application/problem+json", true);
        check_json("text/plain", false);
        check_json("application/jsonp", false);
    }
}
