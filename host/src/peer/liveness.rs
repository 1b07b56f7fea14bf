//! Health of one connection, as seen from its calling end. Every message checks it, so it is kept
//! in atomics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::BytesMut;
use tokio::sync::{Notify, watch};

use super::wire;

/// The health of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// New messages may go over it.
    Answering,
    /// Another connection to the peer was lost, and this one has not answered a ping since.
    Suspect,
    /// The peer has left pings unanswered. It may be slow, or gone.
    Silent,
    /// The peer has sent `leaving`: it answers the calls that it has, and must get no new ones.
    Leaving,
    Ended,
}

pub(super) struct Liveness {
    /// Pings and pongs so far. Pongs come in the order of the pings, so their number tells which
    /// ping was answered last.
    pings: AtomicU64,
    pongs: AtomicU64,
    /// The connection is suspect until this many pongs have come.
    pongs_wanted: AtomicU64,
    is_silent: AtomicBool,
    is_leaving: AtomicBool,
    has_ended: AtomicBool,
    /// The health as last published, for the reconnector of the link.
    shown: watch::Sender<Health>,
    /// Notified of each change of the health.
    changed: Arc<Notify>,
}

impl Liveness {
    pub(super) fn new(changed: Arc<Notify>) -> Self {
        Self {
            pings: AtomicU64::new(0),
            pongs: AtomicU64::new(0),
            pongs_wanted: AtomicU64::new(0),
            is_silent: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            shown: watch::Sender::new(Health::Answering),
            changed,
        }
    }

    pub(super) fn health(&self) -> Health {
        if self.is_leaving() {
            Health::Leaving
        } else if self.has_ended() {
            Health::Ended
        } else if self.is_silent.load(Ordering::Relaxed) {
            Health::Silent
        } else if self.pongs.load(Ordering::Acquire) < self.pongs_wanted.load(Ordering::Acquire) {
            Health::Suspect
        } else {
            Health::Answering
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Health> {
        self.shown.subscribe()
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    /// Encodes a ping into `buffer`, which must be that of the locked outbox: pings are counted in
    /// the order in which they are written.
    pub(super) fn ping(&self, buffer: &mut BytesMut) {
        wire::put_ping(buffer);
        self.pings.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends a ping that must be answered before new messages go over the connection. Other frames
    /// prove nothing: the peer may have sent them before whatever raised the suspicion.
    pub(super) fn suspect(&self, buffer: &mut BytesMut) {
        self.ping(buffer);
        self.pongs_wanted
            .store(self.pings.load(Ordering::Relaxed), Ordering::Release);
        self.show();
    }

    /// Counts a pong; the one that was waited for ends the suspicion.
    pub(super) fn pong(&self) {
        if self.pongs.fetch_add(1, Ordering::AcqRel) + 1
            == self.pongs_wanted.load(Ordering::Acquire)
        {
            self.show();
        }
    }

    /// Records that a frame has come, which ends a silence.
    pub(super) fn heard(&self) {
        if self.is_silent.load(Ordering::Relaxed) {
            self.is_silent.store(false, Ordering::Relaxed);
            self.show();
        }
    }

    /// Records that pings were left unanswered.
    pub(super) fn missed(&self) {
        self.is_silent.store(true, Ordering::Relaxed);
        self.show();
    }

    pub(super) fn said_goodbye(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
        self.show();
    }

    pub(super) fn end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
        self.show();
    }

    fn show(&self) {
        let is_news = self.shown.send_if_modified(|shown| {
            // Read under the lock of the watch channel, so that of concurrent updates the last one
            // publishes the latest health.
            let health = self.health();
            std::mem::replace(shown, health) != health
        });
        if is_news {
            self.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_a_later_ping_ends_the_suspicion() {
        let (liveness, mut buffer) = (Liveness::new(Arc::default()), BytesMut::new());
        liveness.ping(&mut buffer);
        liveness.suspect(&mut buffer);
        assert_eq!(liveness.health(), Health::Suspect);
        liveness.heard();
        liveness.pong();
        assert_eq!(
            liveness.health(),
            Health::Suspect,
            "that was the answer to the ping before"
        );
        liveness.pong();
        assert_eq!(liveness.health(), Health::Answering);
        // Suspected again before the pong has come.
        liveness.suspect(&mut buffer);
        liveness.suspect(&mut buffer);
        liveness.pong();
        assert_eq!(liveness.health(), Health::Suspect);
        liveness.pong();
        assert_eq!(liveness.health(), Health::Answering);
    }

    #[test]
    fn whatever_comes_ends_a_silence() {
        let (liveness, mut buffer) = (Liveness::new(Arc::default()), BytesMut::new());
        let shown = liveness.watch();
        liveness.suspect(&mut buffer);
        liveness.missed();
        assert_eq!(
            (liveness.health(), *shown.borrow()),
            (Health::Silent, Health::Silent)
        );
        liveness.heard();
        assert_eq!(
            (liveness.health(), *shown.borrow()),
            (Health::Suspect, Health::Suspect)
        );
        liveness.pong();
        assert_eq!(
            (liveness.health(), *shown.borrow()),
            (Health::Answering, Health::Answering)
        );
    }

    #[test]
    fn who_has_said_goodbye_has_not_been_lost() {
        let liveness = Liveness::new(Arc::default());
        liveness.said_goodbye();
        liveness.end();
        assert_eq!(liveness.health(), Health::Leaving);
    }
}
