//! The room that a node has for the bodies of requests that arrive and of answers that are sent: a bound for all of them
//! together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So much, or more where single bodies may be large.
const BYTES_DEFAULT: usize = 256 << 20;
const BODIES_MIN: usize = 8;

/// A smaller body costs no more than the request around it: it is not counted.
const COUNTED_FROM: usize = 1024;

/// The bodies that there are now.
pub(super) struct Bodies {
    bytes_max: usize,
    bytes: AtomicUsize,
}

/// There is no room now.
#[derive(Debug)]
pub(super) struct NoRoom;

/// The room of one request: given back when it is dropped.
pub(super) struct Held {
    bodies: Arc<Bodies>,
    bytes: usize,
}

impl Bodies {
    /// For bodies of at most so many bytes each.
    pub(super) fn new(body_bytes_max: usize) -> Arc<Self> {
        let bytes_max = BYTES_DEFAULT.max(body_bytes_max.saturating_mul(BODIES_MIN));
        Arc::new(Self { bytes_max, bytes: AtomicUsize::new(0) })
    }
}

impl Held {
    pub(super) fn new(bodies: Arc<Bodies>) -> Self {
        Self { bodies, bytes: 0 }
    }

    /// Makes room for a request's body that has become this large.
    pub(super) fn make_room(&mut self, bytes: usize) -> Result<(), NoRoom> {
        self.set(bytes);
        if self.bodies.bytes.load(Ordering::Relaxed) <= self.bodies.bytes_max || self.bytes == 0 {
            return Ok(());
        }
        self.set(0);
        Err(NoRoom)
    }

    /// The request is done, and this is its answer: it is there, so it is counted, whether there is room or not.
    pub(super) fn answer(&mut self, bytes: usize) {
        self.set(bytes);
    }

    fn set(&mut self, bytes: usize) {
        let bytes = if bytes < COUNTED_FROM { 0 } else { bytes };
        if bytes > self.bytes {
            self.bodies.bytes.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else if bytes < self.bytes {
            self.bodies.bytes.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_given_back() {
        let bodies = Bodies::new(1 << 20);
        let held = || Held::new(bodies.clone());
        let (mut one, mut other, mut answer) = (held(), held(), held());
        assert!(one.make_room(BYTES_DEFAULT / 2).is_ok());
        assert!(other.make_room(BYTES_DEFAULT / 2).is_ok());
        assert!(other.make_room(BYTES_DEFAULT / 2 + 1).is_err(), "it would be too much");
        assert!(other.make_room(BYTES_DEFAULT / 2).is_ok(), "what was refused is given back");
        assert!(held().make_room(COUNTED_FROM).is_err());
        assert!(held().make_room(COUNTED_FROM - 1).is_ok(), "small ones always may");
        answer.answer(COUNTED_FROM);
        drop(other);
        assert!(held().make_room(BYTES_DEFAULT / 2).is_err(), "an answer takes its room");
        drop(answer);
        assert!(held().make_room(BYTES_DEFAULT / 2).is_ok());
        one.answer(0);
        assert_eq!(bodies.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn large_bodies_have_more_room() {
        assert_eq!(Bodies::new(1 << 20).bytes_max, 256 << 20);
        assert_eq!(Bodies::new(64 << 20).bytes_max, 512 << 20);
    }
}
