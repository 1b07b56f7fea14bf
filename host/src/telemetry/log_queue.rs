//! Lines on their way to stderr or stdout: a bounded queue with its own writer thread, so that a
//! reader that is slow or stuck blocks nothing. Knows nothing of the content of lines.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use metrics::counter;
use rustix::io::Errno;
use tracing::warn;
use tracing_subscriber::fmt::MakeWriter;

use super::printable::Printable;
use super::throttle::Throttle;

/// Bytes of queued lines: some ten thousand lines, or all that 64 calls of guests may log.
const WAITING_BYTES_MAX: usize = 4 << 20;

/// Bytes per write: what a pipe holds, so that `flush` sees progress.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// Pause before the next attempt when stderr is full and another process has made it non-blocking.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// Lines that are missing after so long are told as if they were the first.
const TOLD_ANEW_AFTER: Duration = Duration::from_secs(60);

/// Where lines go to, and the counter of those that do not get there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sink {
    Stderr(&'static str),
    Stdout(&'static str),
}

impl Sink {
    fn name(self) -> &'static str {
        match self {
            Self::Stderr(_) => "log",
            Self::Stdout(_) => "access-log",
        }
    }

    fn write(self, lines: &[u8]) -> Result<usize, Errno> {
        match self {
            Self::Stderr(_) => rustix::io::write(rustix::stdio::stderr(), lines),
            Self::Stdout(_) => rustix::io::write(rustix::stdio::stdout(), lines),
        }
    }
}

/// The queue. Clones share it.
#[derive(Clone)]
pub(super) struct LogQueue {
    shared: Arc<Shared>,
    printable: Printable,
    sink: Sink,
}

struct Shared {
    waiting: Mutex<Queue>,
    changed: Condvar,
    /// What is missing on stdout, as it is told on stderr.
    told: Throttle<()>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            told: Throttle::growing(TOLD_ANEW_AFTER),
        }
    }
}

#[derive(Default)]
struct Queue {
    lines: Vec<u8>,
    /// Lines lost since the last `log-dropped` line: the queue was full, or they could not be
    /// written.
    dropped: u64,
    /// Bytes that were ever pushed, and bytes that were ever written or lost.
    pushed: u64,
    gone: u64,
}

impl LogQueue {
    /// Starts the thread that writes, for as long as the process lives.
    pub(super) fn start(printable: Printable, sink: Sink) -> io::Result<Self> {
        let queue = Self {
            shared: Arc::default(),
            printable,
            sink,
        };
        let shared = queue.shared.clone();
        thread::Builder::new()
            .name(sink.name().into())
            .spawn(move || shared.write_for_ever(sink))?;
        Ok(queue)
    }

    /// Adds a line, or counts it as dropped if the queue is full. Never waits for the reader of
    /// stderr.
    pub(super) fn push(&self, line: &str) {
        let line = self.printable.of(line);
        let mut waiting = self.shared.lock();
        if waiting.lines.len() + line.len() > WAITING_BYTES_MAX {
            waiting.dropped += 1;
            drop(waiting);
            self.shared.count_dropped(self.sink, 1);
            return;
        }
        waiting.lines.extend_from_slice(line.as_bytes());
        waiting.pushed += line.len() as u64;
        drop(waiting);
        self.shared.changed.notify_all();
    }

    /// Waits until everything pushed so far is written. Gives up after `stalled_max` without
    /// progress, and after `max` in any case.
    pub(super) fn flush(&self, stalled_max: Duration, max: Duration) {
        let give_up = Instant::now() + max;
        let mut waiting = self.shared.lock();
        let until = waiting.pushed;
        while waiting.gone < until {
            let before = waiting.gone;
            let is_stalled = |waiting: &mut Queue| waiting.gone == before;
            let left = give_up.saturating_duration_since(Instant::now());
            let waited =
                self.shared
                    .changed
                    .wait_timeout_while(waiting, stalled_max.min(left), is_stalled);
            let (now, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
            if timed_out.timed_out() {
                return;
            }
            waiting = now;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts lines that are lost. Of those of stdout it is told at once, as that needs stderr alone.
    fn count_dropped(&self, sink: Sink, lines: u64) {
        match sink {
            Sink::Stderr(name) => counter!(name).increment(lines),
            Sink::Stdout(name) => {
                counter!(name).increment(lines);
                if self.told.note((), Instant::now()).is_some() {
                    warn!(
                        event = "access-log-dropped",
                        "lines of the access log are missing: nobody takes them, or they cannot be written"
                    );
                }
            }
        }
    }

    fn write_for_ever(&self, sink: Sink) {
        let mut batch = Vec::new();
        let mut output = Output::default();
        loop {
            let dropped = self.take(&mut batch);
            let (mut lost, mut has_failed) = (0, false);
            for piece in batch.chunks(PIECE_BYTES_MAX) {
                // After a failed piece the rest of the batch is skipped: it may begin in the middle
                // of a line whose beginning was not written.
                let rest = if has_failed {
                    piece
                } else {
                    output.write(piece, sink)
                };
                has_failed |= !rest.is_empty();
                lost += rest.iter().filter(|byte| **byte == b'\n').count() as u64;
                self.lock().gone += piece.len() as u64;
                self.changed.notify_all();
            }
            batch.clear();
            if has_failed {
                self.count_dropped(sink, lost);
                // Reported once a batch can be written again: a warning could not be written now
                // either.
                self.lock().dropped += dropped + lost;
            } else if dropped > 0 && matches!(sink, Sink::Stderr(_)) {
                let error = output.error.take().map(tracing::field::display);
                warn!(
                    event = "log-dropped",
                    lines = dropped,
                    error,
                    "lines of the log are missing here: nobody took them, or they could not be written"
                );
            }
        }
    }

    /// Waits for lines, and moves them into the empty `batch`. Returns how many were dropped
    /// before.
    fn take(&self, batch: &mut Vec<u8>) -> u64 {
        let waiting = self
            .changed
            .wait_while(self.lock(), |waiting| waiting.lines.is_empty());
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut waiting.lines, batch);
        std::mem::take(&mut waiting.dropped)
    }
}

/// How far the sink has been written.
#[derive(Default)]
struct Output {
    /// The last byte written did not end a line.
    is_mid_line: bool,
    /// What should have followed that byte was lost.
    has_gap: bool,
    /// The error of the last write that failed.
    error: Option<Errno>,
}

impl Output {
    /// Writes lines straight to the file descriptor: the lock of the standard library, held during
    /// a write that blocks, would block all other writers. Returns what could not be written.
    fn write<'a>(&mut self, mut lines: &'a [u8], sink: Sink) -> &'a [u8] {
        while !lines.is_empty() {
            // Ends a line that was cut off, so that the next one does not continue it.
            let ends_line = self.has_gap && self.is_mid_line;
            let next = if ends_line { b"\n" } else { lines };
            match sink.write(next) {
                Ok(written) => {
                    self.is_mid_line = next[..written].last().is_some_and(|byte| *byte != b'\n');
                    self.has_gap = false;
                    lines = &lines[if ends_line { 0 } else { written }..];
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => thread::sleep(FULL_PAUSE),
                Err(error) => {
                    self.has_gap = true;
                    self.error = Some(error);
                    return lines;
                }
            }
        }
        lines
    }
}

/// The writer that `tracing` passes one line to.
pub(super) struct Line<'a>(&'a LogQueue);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(&String::from_utf8_lossy(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> LogQueue {
        // Without the writer thread, so that lines stay in the queue.
        LogQueue {
            shared: Arc::default(),
            printable: Printable::Json,
            sink: Sink::Stderr(super::super::names::LOG_DROPPED),
        }
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let queue = queue();
        let line = "x".repeat(WAITING_BYTES_MAX / 4);
        for _ in 0..6 {
            queue.push(&line);
        }
        let mut batch = Vec::new();
        assert_eq!(queue.shared.take(&mut batch), 2);
        assert_eq!(batch.len(), WAITING_BYTES_MAX);
        queue.push(&line);
        batch.clear();
        assert_eq!(queue.shared.take(&mut batch), 0, "it was told");
        assert_eq!(batch.len(), line.len());
    }

    #[test]
    fn who_waits_for_the_last_line_gives_up_when_nobody_takes_any() {
        let queue = queue();
        let long = Duration::from_secs(3_600);
        queue.flush(long, long);
        queue.push("never taken\n");
        queue.flush(Duration::from_millis(1), long);
        queue.flush(long, Duration::from_millis(1));
    }
}
