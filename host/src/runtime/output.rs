//! What a guest writes to stdout and stderr becomes lines of the node's log, with the stream and the
//! message that was running.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tracing::info;
use uuid::Uuid;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::message::StreamName;

/// A longer line is cut into several.
const LINE_BYTES_MAX: usize = 4 * 1024;

/// What one write may bring; the guest's library splits larger ones.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// One of an instance's two outputs. Clones share their unfinished line.
#[derive(Clone)]
pub(super) struct Output(Arc<Mutex<Line>>);

struct Line {
    stream: StreamName,
    name: &'static str,
    message: Uuid,
    bytes: Vec<u8>,
}

impl Output {
    /// `name` is `stdout` or `stderr`.
    pub(super) fn new(stream: StreamName, name: &'static str) -> Self {
        Self(Arc::new(Mutex::new(Line { stream, name, message: Uuid::nil(), bytes: Vec::new() })))
    }

    /// Says which message the coming lines belong to.
    pub(super) fn begin(&self, message: Uuid) {
        self.line().message = message;
    }

    /// Writes a last line that has no newline.
    pub(super) fn end(&self) {
        self.line().flush();
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            for piece in part.chunks(LINE_BYTES_MAX) {
                self.bytes.extend_from_slice(piece);
                if piece.ends_with(b"\n") || self.bytes.len() >= LINE_BYTES_MAX {
                    self.flush();
                }
            }
        }
    }

    fn flush(&mut self) {
        if self.bytes.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&self.bytes);
        let text = text.trim_end_matches(['\n', '\r']);
        info!(target: "guest", stream = %self.stream, message_id = %self.message, output = self.name, "{text}");
        self.bytes.clear();
    }
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
        self.line().write(&bytes);
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
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.line().write(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
