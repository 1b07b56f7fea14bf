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
#[derive(Default)]
pub(super) struct Held(Option<(Arc<Bodies>, usize)>);

impl Bodies {
    /// For bodies of at most so many bytes each.
    pub(super) fn new(body_bytes_max: usize) -> Arc<Self> {
        let bytes_max = BYTES_DEFAULT.max(body_bytes_max.saturating_mul(BODIES_MIN));
        Arc::new(Self { bytes_max, bytes: AtomicUsize::new(0) })
    }
}

impl Held {
    /// Makes room for a request's body that has become this large.
    pub(super) fn make_room(&mut self, bodies: &Arc<Bodies>, bytes: usize) -> Result<(), NoRoom> {
        self.set(bodies, bytes);
        if self.0.is_none() || bodies.bytes.load(Ordering::Relaxed) <= bodies.bytes_max {
            return Ok(());
        }
        *self = Self::default();
        Err(NoRoom)
    }

    /// Whether it takes any room.
    pub(super) fn is_counted(&self) -> bool {
        self.0.is_some()
    }

    /// The request is done, and this is its answer: it is there, so it is counted, whether there is room or not.
    pub(super) fn answer(&mut self, bodies: &Arc<Bodies>, bytes: usize) {
        self.set(bodies, bytes);
    }

    fn set(&mut self, bodies: &Arc<Bodies>, bytes: usize) {
        if bytes < COUNTED_FROM {
            *self = Self::default();
            return;
        }
        let (_, held) = self.0.get_or_insert_with(|| (bodies.clone(), 0));
        if bytes >= *held {
            bodies.bytes.fetch_add(bytes - *held, Ordering::Relaxed);
        } else {
            bodies.bytes.fetch_sub(*held - bytes, Ordering::Relaxed);
        }
        *held = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((bodies, bytes)) = &self.0 {
            bodies.bytes.fetch_sub(*bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_given_back() {
        let bodies = Bodies::new(1 << 20);
        let fits = |bytes| Held::default().make_room(&bodies, bytes).is_ok();
        let (mut one, mut other, mut answer) = (Held::default(), Held::default(), Held::default());
        assert!(one.make_room(&bodies, BYTES_DEFAULT / 2).is_ok());
        assert!(other.make_room(&bodies, BYTES_DEFAULT / 2).is_ok());
        assert!(other.make_room(&bodies, BYTES_DEFAULT / 2 + 1).is_err(), "it would be too much");
        assert!(other.make_room(&bodies, BYTES_DEFAULT / 2).is_ok(), "what was refused is given back");
        assert!(!fits(COUNTED_FROM));
        assert!(fits(COUNTED_FROM - 1), "small ones always may");
        answer.answer(&bodies, COUNTED_FROM);
        drop(other);
        assert!(!fits(BYTES_DEFAULT / 2), "an answer takes its room");
        drop(answer);
        assert!(fits(BYTES_DEFAULT / 2));
        one.answer(&bodies, 0);
        assert_eq!(bodies.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn large_bodies_have_more_room() {
        assert_eq!(Bodies::new(1 << 20).bytes_max, 256 << 20);
        assert_eq!(Bodies::new(64 << 20).bytes_max, 512 << 20);
    }
}
