//! Signs of life of the other side of a connection, as its caller counts them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::BytesMut;

use super::wire;

/// What is known of the other side. Each message asks; nobody waits.
#[derive(Default)]
pub(super) struct Pulse {
    /// Pings that were written, and pongs that came: the answers come in the order of the questions.
    pings: AtomicU64,
    pongs: AtomicU64,
    /// So many pongs end the doubt.
    pongs_wanted: AtomicU64,
    is_silent: AtomicBool,
}

impl Pulse {
    /// Puts a ping into what will be written, in this order.
    pub(super) fn ping(&self, buffer: &mut BytesMut) {
        wire::put_ping(buffer);
        self.pings.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts a ping as above; until it is answered the other side is in doubt.
    pub(super) fn doubt(&self, buffer: &mut BytesMut) {
        self.ping(buffer);
        self.pongs_wanted.store(self.pings.load(Ordering::Relaxed), Ordering::Release);
    }

    /// A pong has come. Returns whether it ends the doubt.
    pub(super) fn pong(&self) -> bool {
        self.pongs.fetch_add(1, Ordering::AcqRel) + 1 == self.pongs_wanted.load(Ordering::Acquire)
    }

    /// Something has come. Returns whether it ends a silence.
    pub(super) fn heard(&self) -> bool {
        self.is_silent() && self.is_silent.swap(false, Ordering::Relaxed)
    }

    /// Pings were left unanswered.
    pub(super) fn missed(&self) {
        self.is_silent.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.pongs.load(Ordering::Acquire) < self.pongs_wanted.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_a_later_ping_ends_the_doubt() {
        let (pulse, mut buffer) = (Pulse::default(), BytesMut::new());
        pulse.ping(&mut buffer);
        pulse.doubt(&mut buffer);
        assert!(pulse.is_doubted());
        assert!(!pulse.heard() && !pulse.pong(), "the answer to the ping before it");
        assert!(pulse.is_doubted());
        assert!(pulse.pong() && !pulse.is_doubted());
        // Doubted anew before the answer has come.
        pulse.doubt(&mut buffer);
        pulse.doubt(&mut buffer);
        assert!(!pulse.pong() && pulse.is_doubted());
        assert!(pulse.pong() && !pulse.is_doubted());
    }

    #[test]
    fn whatever_comes_ends_a_silence() {
        let pulse = Pulse::default();
        assert!(!pulse.heard());
        pulse.missed();
        assert!(pulse.is_silent());
        assert!(pulse.heard() && !pulse.is_silent());
    }
}
