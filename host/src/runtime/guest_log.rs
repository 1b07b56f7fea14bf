//! The log output of a guest, its stdout and stderr included: becomes entries of the node's log,
//! tagged with the stream and the running message, and bounded per call.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tracing::{Level, debug, error, info, trace, warn};
use uuid::Uuid;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::message::{StreamName, truncate};

/// How much one call may log in total. The rest is dropped, and one log entry says so.
const CALL_BYTES_MAX: usize = 64 * 1024;

/// Counted for each entry in addition to its text: time, level, stream and message id.
const ENTRY_BYTES: usize = 128;

/// Longer log entries of a guest are truncated.
const ENTRY_TEXT_BYTES_MAX: usize = 8 * 1024;

/// Longer lines of stdout, and more that is written to stderr at once, are split into several entries.
const PIECE_BYTES_MAX: usize = 4 * 1024;

/// What is written to stderr within this time of what was written before is one entry with it: a message and
/// a backtrace are written in pieces.
const PAUSE: Duration = Duration::from_millis(50);

/// How much of the end of stderr is kept for the log entry about a failed call: a panic message and
/// what led to it.
const LAST_WORDS_BYTES_MAX: usize = 2 * 1024;

/// Largest single write; the guest's library splits larger ones.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// The log of one instance. Clones share it.
#[derive(Clone)]
pub(super) struct GuestLog(Arc<Mutex<Entries>>);

#[derive(Clone, Copy)]
pub(super) enum Stdio {
    Out,
    Err,
}

/// stdout or stderr of an instance.
#[derive(Clone)]
pub(super) struct Output {
    log: GuestLog,
    stdio: Stdio,
}

struct Entries {
    stream: StreamName,
    message: Uuid,
    /// The unfinished line of stdout, and what was last written to stderr.
    pending: [Vec<u8>; 2],
    /// When something was last written to stderr.
    written_at: Option<Instant>,
    /// The last lines of stderr, whether or not they were logged.
    last_words: Vec<u8>,
    /// Bytes that the running call may still log.
    left: usize,
}

impl GuestLog {
    pub(super) fn new(stream: StreamName) -> Self {
        Self(Arc::new(Mutex::new(Entries {
            stream,
            message: Uuid::nil(),
            pending: Default::default(),
            written_at: None,
            last_words: Vec::new(),
            left: CALL_BYTES_MAX,
        })))
    }

    /// Called when a call begins: the coming entries belong to this message.
    pub(super) fn begin(&self, message: Uuid) {
        let mut entries = self.entries();
        entries.message = message;
        entries.last_words.clear();
        entries.left = CALL_BYTES_MAX;
    }

    /// Called when the call has ended: logs what is pending.
    pub(super) fn end(&self) {
        let mut entries = self.entries();
        entries.flush(Stdio::Out);
        entries.flush(Stdio::Err);
    }

    /// The last lines that the call wrote to stderr, if it wrote any.
    pub(super) fn last_words(&self) -> Option<String> {
        let entries = self.entries();
        (!entries.last_words.is_empty())
            .then(|| String::from_utf8_lossy(&entries.last_words).into_owned())
    }

    pub(super) fn output(&self, stdio: Stdio) -> Output {
        Output {
            log: self.clone(),
            stdio,
        }
    }

    pub(super) fn entry(&self, level: Level, text: String) {
        // An entry that is filtered out does not count towards the limit of the call.
        let is_seen = match level {
            Level::TRACE => tracing::enabled!(target: "guest", Level::TRACE),
            Level::DEBUG => tracing::enabled!(target: "guest", Level::DEBUG),
            Level::INFO => tracing::enabled!(target: "guest", Level::INFO),
            Level::WARN => tracing::enabled!(target: "guest", Level::WARN),
            Level::ERROR => tracing::enabled!(target: "guest", Level::ERROR),
        };
        if !is_seen {
            return;
        }
        let text = one_line(&truncate(text, ENTRY_TEXT_BYTES_MAX));
        let mut entries = self.entries();
        entries.flush(Stdio::Err);
        if !entries.admits(text.len()) {
            return;
        }
        let (stream, message) = (&entries.stream, entries.message);
        match level {
            Level::TRACE => trace!(target: "guest", %stream, message_id = %message, "{text}"),
            Level::DEBUG => debug!(target: "guest", %stream, message_id = %message, "{text}"),
            Level::INFO => info!(target: "guest", %stream, message_id = %message, "{text}"),
            Level::WARN => warn!(target: "guest", %stream, message_id = %message, "{text}"),
            Level::ERROR => error!(target: "guest", %stream, message_id = %message, "{text}"),
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    /// Whether the call may log another entry of this size. Logs a warning the first time it may
    /// not.
    fn admits(&mut self, text_bytes: usize) -> bool {
        let bytes = text_bytes + ENTRY_BYTES;
        if bytes <= self.left {
            self.left -= bytes;
            return true;
        }
        if self.left > 0 {
            self.left = 0;
            let (stream, message) = (&self.stream, self.message);
            warn!(event = "guest-log-cut-off", %stream, message_id = %message, "a handler logged more than {CALL_BYTES_MAX} bytes in one call; the rest is dropped");
        }
        false
    }

    fn write(&mut self, stdio: Stdio, bytes: &[u8]) {
        match stdio {
            Stdio::Out => self.flush(Stdio::Err),
            Stdio::Err => {
                self.keep_last(bytes);
                let before = self.written_at.replace(Instant::now());
                if before.is_some_and(|before| before.elapsed() > PAUSE) {
                    self.flush(Stdio::Err);
                }
            }
        }
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            // A line goes into one entry, if it fits.
            if self.pending[stdio as usize].len() + line.len() > PIECE_BYTES_MAX {
                self.flush(stdio);
            }
            for piece in line.chunks(PIECE_BYTES_MAX) {
                let pending = &mut self.pending[stdio as usize];
                pending.extend_from_slice(piece);
                let is_line = matches!(stdio, Stdio::Out) && piece.ends_with(b"\n");
                if is_line || pending.len() >= PIECE_BYTES_MAX {
                    self.flush(stdio);
                }
            }
        }
    }

    fn flush(&mut self, stdio: Stdio) {
        let pending = std::mem::take(&mut self.pending[stdio as usize]);
        if pending.is_empty() {
            return;
        }
        if !tracing::enabled!(target: "guest", Level::INFO) || !self.admits(pending.len()) {
            return;
        }
        let text = String::from_utf8_lossy(&pending);
        let text = one_line(text.trim_end_matches(['\n', '\r']));
        let output = match stdio {
            Stdio::Out => "stdout",
            Stdio::Err => "stderr",
        };
        info!(target: "guest", stream = %self.stream, message_id = %self.message, output, "{text}");
    }
}

impl Entries {
    fn keep_last(&mut self, bytes: &[u8]) {
        let last = &bytes[bytes.len().saturating_sub(LAST_WORDS_BYTES_MAX)..];
        let surplus = (self.last_words.len() + last.len()).saturating_sub(LAST_WORDS_BYTES_MAX);
        self.last_words.drain(..surplus);
        self.last_words.extend_from_slice(last);
    }
}

/// A call that is cancelled has no end.
impl Drop for Entries {
    fn drop(&mut self) {
        self.flush(Stdio::Out);
        self.flush(Stdio::Err);
    }
}

/// Escapes newlines, so that one text cannot look like several entries.
fn one_line(text: &str) -> String {
    text.replace('\n', "\\n").replace('\r', "\\r")
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.log.entries().write(self.stdio, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.log.entries().write(self.stdio, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_stderr_are_kept() {
        let log = GuestLog::new(StreamName::try_from("s").unwrap());
        log.begin(Uuid::nil());
        assert_eq!(log.last_words(), None);
        log.entries().write(Stdio::Out, b"not this\n");
        for number in 0..1_000 {
            log.entries()
                .write(Stdio::Err, format!("line {number} of \u{fc}\n").as_bytes());
        }
        log.entries().write(Stdio::Err, b"and what has no end");
        log.end();
        let last = log.last_words().unwrap();
        assert!(
            last.ends_with("line 999 of \u{fc}\nand what has no end"),
            "{last}"
        );
        assert!(
            (LAST_WORDS_BYTES_MAX - 4..=LAST_WORDS_BYTES_MAX + 4).contains(&last.len()),
            "{}",
            last.len()
        );
        log.begin(Uuid::nil());
        assert_eq!(log.last_words(), None);
    }
}
