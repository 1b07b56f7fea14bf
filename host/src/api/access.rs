//! A request on its way into the access log.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::request::Parts;

use super::answer::{HttpResponse, NODE};
use crate::message::{Message, Trace};
use crate::telemetry::{Access, AccessLog, Stages};

/// One request. Its line is written when this is dropped: also if the client goes away before.
pub(super) struct Entry<'l> {
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

impl<'l> Entry<'l> {
    pub(super) fn begin(log: &'l AccessLog, head: &Parts) -> Self {
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

    pub(super) fn is_of(&mut self, message: &Arc<Message>) {
        self.message = Some(message.clone());
    }

    pub(super) fn is_answered(&mut self, response: &HttpResponse) {
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
