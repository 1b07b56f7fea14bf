//! What is told of a request besides its answer: a line of the access log, a span of its trace.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::Method;
use http::request::Parts;

use super::answer::{HttpResponse, NODE};
use crate::message::{Message, Trace};
use crate::telemetry::traces::{self, Span};
use crate::telemetry::{Access, AccessLog, Stages};

/// What is told of one request.
pub(super) struct Record<'l> {
    /// Boxed because it is rare: otherwise every request's future would reserve space for it.
    entry: Option<Box<Entry<'l>>>,
    span: Span,
}

/// A request on its way into the access log. Its line is written when this is dropped: also if the client goes away before.
struct Entry<'l> {
    log: &'l AccessLog,
    time: SystemTime,
    began: Instant,
    method: String,
    path: String,
    trace_id: Option<u128>,
    message: Option<Arc<Message>>,
    answer: Option<Answered>,
}

struct Answered {
    status: u16,
    owner: Option<String>,
    bytes: usize,
}

impl<'l> Record<'l> {
    pub(super) fn begin(log: Option<&'l AccessLog>, head: &Parts) -> Self {
        Self {
            entry: log.map(|log| Box::new(Entry::begin(log, head))),
            span: traces::request(&head.method, &head.uri, &head.headers),
        }
    }

    pub(super) fn is_of_route(&mut self, method: &Method, route: &'static str) {
        self.span.is_of_route(method, route);
    }

    /// Has what is done for the message told, too.
    pub(super) fn goes_on_in(&mut self, message: &mut Message) {
        message.watched = self.entry.is_some().then(Arc::default);
        self.span.goes_on_in(message);
        self.span.describe(message);
    }

    pub(super) fn is_of(&mut self, message: &Arc<Message>) {
        if let Some(entry) = &mut self.entry {
            entry.message = Some(message.clone());
        }
    }

    pub(super) fn is_answered(&mut self, response: &HttpResponse) {
        self.span.answered(response.status());
        if let Some(entry) = &mut self.entry {
            entry.is_answered(response);
            if let Some(trace) = self.span.trace() {
                entry.trace_id = Some(trace.trace_id);
            }
        }
    }
}

impl<'l> Entry<'l> {
    fn begin(log: &'l AccessLog, head: &Parts) -> Self {
        let trace = Trace::of(&head.headers);
        Self {
            log,
            time: SystemTime::now(),
            began: Instant::now(),
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            trace_id: trace.map(|trace| trace.trace_id),
            message: None,
            answer: None,
        }
    }

    fn is_answered(&mut self, response: &HttpResponse) {
        let owner = response.headers().get(NODE);
        self.answer = Some(Answered {
            status: response.status().as_u16(),
            owner: owner.and_then(|owner| Some(owner.to_str().ok()?.to_owned())),
            bytes: response.body().bytes.len(),
        });
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let (message, answer) = (self.message.as_deref(), self.answer.as_ref());
        let traced = message.and_then(|message| message.trace);
        let trace_id = traced.map(|trace| trace.trace_id).or(self.trace_id);
        let trace_id = trace_id.map(|id| format!("{id:032x}"));
        self.log.write(&Access {
            time: Some(self.time),
            status: answer.map(|answer| answer.status),
            method: &self.method,
            path: &self.path,
            stream: message.map(|message| message.stream.as_str()),
            owner: answer
                .filter(|_| message.is_some())
                .and_then(|answer| answer.owner.as_deref()),
            message_id: message.map(|message| message.id),
            trace_id: trace_id.as_deref(),
            request_bytes: message.map_or(0, |message| message.body.len()),
            response_bytes: answer.map_or(0, |answer| answer.bytes),
            seconds: self.began.elapsed(),
            stages: message.and_then(stages),
        });
    }
}

fn stages(message: &Message) -> Option<Stages> {
    let micros = message.watched.as_ref()?.micros();
    let [waiting, running, committing] = micros.map(Duration::from_micros);
    (micros != [0; 3]).then_some(Stages {
        waiting,
        running,
        committing,
    })
}
