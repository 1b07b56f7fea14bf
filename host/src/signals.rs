//! Signals: the first makes the node leave, a later one ends it at once. A thread with its own
//! event loop handles them, so that they work even if the rest of the process is blocked.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use meshage_host::telemetry::Logs;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Debounce: signals this soon after the first count as the same one. GNU `timeout` and `npm run`
/// send it to a process and then to its group.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

/// Exit code after a second signal: 128 + SIGINT, by the convention of shells.
const ENDED_AT_ONCE: i32 = 130;

/// Exit code of a node that did not finish leaving in time.
const STUCK: i32 = 1;

/// Limits on flushing the log before an immediate exit, which must not wait for a slow reader of
/// the log.
const LOG_STALLED_MAX: Duration = Duration::from_millis(200);
const LOG_FLUSH_MAX: Duration = Duration::from_secs(1);

/// Cancels `leave` at the first signal. Ends the process at a second one, or if the node has not
/// left within `leave_max` of the first.
///
/// # Errors
/// If the signal handlers, their event loop or their thread cannot be set up.
pub(crate) fn listen(leave: CancellationToken, leave_max: Duration, logs: Logs) -> io::Result<()> {
    let events = Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _entered = events.enter();
        Signals::new()?
    };
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            events.block_on(async {
                signals.next().await;
                let first = Instant::now();
                leave.cancel();
                let another = async {
                    loop {
                        signals.next().await;
                        if ends_at_once(first, Instant::now()) {
                            return;
                        }
                    }
                };
                let code = match timeout(leave_max, another).await {
                    Ok(()) => {
                        warn!(event = "ended-at-once", "ended at once by a second signal");
                        ENDED_AT_ONCE
                    }
                    Err(_) => {
                        warn!(
                            event = "stuck",
                            "the node has not left after {leave_max:?}: it is ended"
                        );
                        STUCK
                    }
                };
                logs.flush(LOG_STALLED_MAX, LOG_FLUSH_MAX);
                std::process::exit(code);
            });
        })?;
    Ok(())
}

/// Whether a signal after the first counts as a second one.
fn ends_at_once(first: Instant, now: Instant) -> bool {
    now.saturating_duration_since(first) >= SAME_SIGNAL
}

/// The signals that tell a process to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// The terminal is gone. `None` if the process was started to ignore that.
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let hangup = SignalKind::hangup();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: if is_ignored(hangup) {
                None
            } else {
                Some(signal(hangup)?)
            },
        })
    }

    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Whether the parent process set this signal to be ignored, as `nohup` does.
fn is_ignored(signal: SignalKind) -> bool {
    // Only Linux reports it in this file; elsewhere no signal counts as ignored.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    ignored.unwrap_or(0) >> (signal.as_raw_value() - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_comes_twice_at_once_is_one() {
        let first = Instant::now();
        assert!(!ends_at_once(first, first));
        assert!(!ends_at_once(first, first + Duration::from_millis(10)));
        assert!(ends_at_once(first, first + SAME_SIGNAL));
    }

    #[test]
    fn what_is_not_ignored_is_heard() {
        assert!(!is_ignored(SignalKind::terminate()));
        // The standard library sets it to be ignored in every program.
        assert!(is_ignored(SignalKind::pipe()));
    }
}
