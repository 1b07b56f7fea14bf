//! The access log: a line for each request, on stdout. Like the log it waits for no reader.

use std::fmt::Write as _;
use std::io;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::log_queue::{LogQueue, Sink};
use super::logs::LogFormat;
use super::names;
use super::printable::Printable;

/// The access log of this process.
pub struct AccessLog {
    format: LogFormat,
    queue: LogQueue,
}

/// One request.
#[derive(Debug, Default, Serialize)]
pub struct Access<'a> {
    #[serde(serialize_with = "rfc3339")]
    pub time: Option<SystemTime>,
    /// None: the client went away before there was an answer.
    pub status: Option<u16>,
    pub method: &'a str,
    /// Without the query.
    pub path: &'a str,
    pub stream: Option<&'a str>,
    /// The node that ran the message, or refused it.
    pub owner: Option<&'a str>,
    pub message_id: Option<Uuid>,
    pub trace_id: Option<&'a str>,
    pub request_bytes: usize,
    pub response_bytes: usize,
    /// From the request's head to its answer.
    #[serde(serialize_with = "seconds")]
    pub seconds: Duration,
    /// In queues, in the handler, and in the commit; none if it did not get there.
    #[serde(flatten)]
    pub stages: Option<Stages>,
}

/// How long the stages of a message took.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Stages {
    #[serde(serialize_with = "seconds")]
    pub waiting: Duration,
    #[serde(serialize_with = "seconds")]
    pub running: Duration,
    #[serde(serialize_with = "seconds")]
    pub committing: Duration,
}

fn rfc3339<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time_of(*time))
}

fn time_of(time: Option<SystemTime>) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_micros(time.unwrap_or(SystemTime::UNIX_EPOCH))
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(micros(*duration))
}

/// Seconds with as many digits as mean something.
fn micros(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e6
}

impl AccessLog {
    /// Starts the thread that writes it.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(format: LogFormat) -> io::Result<Self> {
        let printable = match format {
            LogFormat::Json => Printable::Json,
            LogFormat::Text => Printable::Text,
        };
        let sink = Sink::Stdout(names::ACCESS_LOG_DROPPED);
        Ok(Self {
            format,
            queue: LogQueue::start(printable, sink)?,
        })
    }

    pub fn write(&self, access: &Access<'_>) {
        self.queue.push(&line(self.format, access));
    }
}

fn line(format: LogFormat, access: &Access<'_>) -> String {
    if format == LogFormat::Json {
        let mut line = serde_json::to_string(access).expect("it is plain data");
        line.push('\n');
        return line;
    }
    let Access {
        time,
        status,
        method,
        path,
        stream,
        owner,
        message_id,
        trace_id,
        request_bytes,
        response_bytes,
        seconds,
        stages,
    } = access;
    let status = status.map_or("-".to_owned(), |status| status.to_string());
    let mut line = format!("{} {status} {method} {path}", time_of(*time));
    let mut add = |name: &str, value: Option<&dyn std::fmt::Display>| {
        if let Some(value) = value {
            let _ = write!(line, " {name}={value}");
        }
    };
    add("stream", stream.as_ref().map(|value| value as _));
    add("owner", owner.as_ref().map(|value| value as _));
    add("message_id", message_id.as_ref().map(|value| value as _));
    add("trace_id", trace_id.as_ref().map(|value| value as _));
    add("request_bytes", Some(request_bytes));
    add("response_bytes", Some(response_bytes));
    add("seconds", Some(&micros(*seconds)));
    if let Some(stages) = stages {
        add("waiting", Some(&micros(stages.waiting)));
        add("running", Some(&micros(stages.running)));
        add("committing", Some(&micros(stages.committing)));
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_is_known() {
        let mut access = Access {
            time: Some(SystemTime::UNIX_EPOCH + Duration::from_micros(1_500_000)),
            status: Some(200),
            method: "POST",
            path: "/api/echo/1",
            stream: Some("echo"),
            owner: Some("n1"),
            message_id: Some(Uuid::nil()),
            request_bytes: 2,
            response_bytes: 13,
            seconds: Duration::from_micros(1_234),
            stages: Some(Stages {
                running: Duration::from_micros(200),
                ..Stages::default()
            }),
            ..Access::default()
        };
        assert_eq!(
            line(LogFormat::Text, &access),
            "1970-01-01T00:00:01.500000Z 200 POST /api/echo/1 stream=echo owner=n1 message_id=00000000-0000-0000-0000-000000000000 \
             request_bytes=2 response_bytes=13 seconds=0.001234 waiting=0 running=0.0002 committing=0\n"
        );
        access.stages = None;
        access.status = None;
        let read: serde_json::Value =
            serde_json::from_str(&line(LogFormat::Json, &access)).unwrap();
        assert_eq!(read["time"], "1970-01-01T00:00:01.500000Z");
        assert_eq!(read["seconds"], 0.001234);
        assert!(read["status"].is_null() && read.get("waiting").is_none());
    }
}
