//! The memory account for all bodies on a node: of requests as they arrive, of replies until they
//! are sent, and of calls and replies on their way from and to peers. One limit covers all of them.
//! Pure: it only counts.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Memory for all bodies together. The limit is higher if a single body may be so large that fewer
/// than `BODIES_MIN` of them would fit.
const BYTES_DEFAULT: usize = 256 << 20;
const BODIES_MIN: usize = 8;

/// Smaller bodies cost no more than the message around them, so they are not counted.
const COUNTED_FROM: usize = 1024;

/// Expected bodies may reserve `1 / EXPECTED_PART` of the memory. The rest stays free for bodies
/// that have arrived, however long the expected ones take.
const EXPECTED_PART: usize = 2;

/// The account of all bodies in memory.
#[derive(Debug)]
pub struct BodyMemory {
    bytes_max: usize,
    bytes: AtomicUsize,
    /// The part of `bytes` that is reserved for expected bodies, which have not arrived yet.
    expected: AtomicUsize,
}

/// There is not enough free memory for a body now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

/// Memory reserved for one body; released on drop.
#[derive(Debug, Default)]
pub struct Reservation(Option<(&'static BodyMemory, usize)>);

/// Memory reserved for an expected body; released on drop. [`ReplyReservation::fill`] turns it into
/// a [`Reservation`] once the body has arrived.
#[derive(Debug)]
pub struct ReplyReservation {
    bodies: &'static BodyMemory,
    reservation: Reservation,
    bytes: usize,
}

/// Estimate of the body size of the next reply of a stream: the size of the last one or half of the
/// previous estimate, whichever is larger. So a single large reply among small ones is forgotten
/// after a dozen.
#[derive(Debug, Default)]
pub struct ReplySize(AtomicUsize);

impl BodyMemory {
    /// `body_bytes_max` is the limit on a single body. The account is leaked: a process has one,
    /// and a `&'static` needs no reference count.
    pub fn new(body_bytes_max: usize) -> &'static Self {
        let bytes_max = BYTES_DEFAULT.max(body_bytes_max.saturating_mul(BODIES_MIN));
        Box::leak(Box::new(Self {
            bytes_max,
            bytes: AtomicUsize::new(0),
            expected: AtomicUsize::new(0),
        }))
    }

    /// Reserves memory for a body of `bytes` bytes.
    ///
    /// # Errors
    /// If too little is free now.
    pub fn reserve(&'static self, bytes: usize) -> Result<Reservation, NoRoom> {
        let mut reservation = Reservation::default();
        reservation.resize(self, bytes).map(|()| reservation)
    }

    /// Reserves memory for a body that is expected to have `bytes` bytes.
    ///
    /// # Errors
    /// If too little is free now, or expected bodies have reserved their whole share.
    pub fn reserve_reply(&'static self, bytes: usize) -> Result<ReplyReservation, NoRoom> {
        let bytes = if bytes < COUNTED_FROM { 0 } else { bytes };
        if bytes > 0 {
            take(&self.expected, bytes, self.bytes_max / EXPECTED_PART)?;
        }
        // From here on `Drop` releases `expected`, also if the next step fails.
        let mut reserved = ReplyReservation {
            bodies: self,
            reservation: Reservation::default(),
            bytes,
        };
        reserved.reservation.resize(self, bytes)?;
        Ok(reserved)
    }

    /// The memory that bodies take now.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The limit on all bodies together.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }
}

impl Reservation {
    /// Changes the reservation to `bytes` bytes, up or down.
    ///
    /// # Errors
    /// If the increase does not fit now; the reservation then stays as it was.
    pub fn resize(&mut self, bodies: &'static BodyMemory, bytes: usize) -> Result<(), NoRoom> {
        if bytes < COUNTED_FROM {
            *self = Self::default();
            return Ok(());
        }
        let held = self.0.map_or(0, |(_, held)| held);
        if bytes > held {
            take(&bodies.bytes, bytes - held, bodies.bytes_max)?;
        } else {
            bodies.bytes.fetch_sub(held - bytes, Ordering::Relaxed);
        }
        self.0 = Some((bodies, bytes));
        Ok(())
    }

    /// Whether any memory is reserved: none is for bodies below `COUNTED_FROM`.
    pub fn is_counted(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some((bodies, bytes)) = self.0 {
            bodies.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// Adds `more` to the count, unless the sum would exceed `max`.
fn take(count: &AtomicUsize, more: usize, max: usize) -> Result<(), NoRoom> {
    let fits = |now: usize| now.checked_add(more).filter(|sum| *sum <= max);
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
        .map(drop)
        .map_err(|_| NoRoom)
}

impl ReplyReservation {
    /// Turns the reservation into that of the body, which has arrived with `bytes` bytes.
    ///
    /// # Errors
    /// If it is larger than expected and the difference does not fit now.
    pub fn fill(mut self, bytes: usize) -> Result<Reservation, NoRoom> {
        let mut reservation = std::mem::take(&mut self.reservation);
        reservation.resize(self.bodies, bytes).map(|()| reservation)
    }
}

impl Drop for ReplyReservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.bodies
                .expected
                .fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

impl ReplySize {
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Updates the estimate by the size of a reply. Of two concurrent updates one may be lost,
    /// which an estimate can afford.
    pub fn note(&self, bytes: usize) {
        let expected = self.bytes();
        // Usually all replies are small. Then nothing is written, which spares other cores from
        // fetching the cache line again.
        if expected >= COUNTED_FROM || bytes >= COUNTED_FROM {
            self.0.store(bytes.max(expected / 2), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_given_back() {
        let bodies = BodyMemory::new(1 << 20);
        let fits = |bytes| bodies.reserve(bytes).is_ok();
        let (mut one, mut other) = (
            bodies.reserve(BYTES_DEFAULT / 2).unwrap(),
            bodies.reserve(BYTES_DEFAULT / 4).unwrap(),
        );
        other.resize(bodies, BYTES_DEFAULT / 2).unwrap();
        assert!(!fits(COUNTED_FROM));
        assert!(fits(COUNTED_FROM - 1), "small ones always may");
        one.resize(bodies, BYTES_DEFAULT / 4).unwrap();
        assert_eq!(other.resize(bodies, BYTES_DEFAULT), Err(NoRoom));
        assert!(
            fits(BYTES_DEFAULT / 4) && !fits(BYTES_DEFAULT / 2),
            "what found no room stays as it was"
        );
        one.resize(bodies, 0).unwrap();
        drop(other);
        assert_eq!(bodies.bytes.load(Ordering::Relaxed), 0);
        drop(bodies.reserve(BYTES_DEFAULT).unwrap());
        assert!(fits(BYTES_DEFAULT));
    }

    #[test]
    fn what_is_expected_leaves_room_for_what_is_there() {
        let bodies = BodyMemory::new(1 << 20);
        let quarter = BYTES_DEFAULT / 4;
        let (one, other) = (
            bodies.reserve_reply(quarter).unwrap(),
            bodies.reserve_reply(quarter).unwrap(),
        );
        assert!(
            bodies.reserve_reply(COUNTED_FROM).is_err(),
            "as much is reserved as may be"
        );
        assert!(bodies.reserve_reply(0).is_ok(), "nothing always may");
        let there = bodies.reserve(2 * quarter).unwrap();
        assert!(bodies.reserve(COUNTED_FROM).is_err());
        let smaller = one.fill(COUNTED_FROM).unwrap();
        assert!(bodies.reserve_reply(quarter - COUNTED_FROM).is_ok());
        drop(there);
        let larger = other.fill(3 * quarter).unwrap();
        assert!(bodies.reserve_reply(quarter).is_err());
        drop((smaller, larger));
        assert_eq!(
            (
                bodies.bytes.load(Ordering::Relaxed),
                bodies.expected.load(Ordering::Relaxed)
            ),
            (0, 0)
        );
    }

    #[test]
    fn large_bodies_have_more_room() {
        assert_eq!(BodyMemory::new(1 << 20).bytes_max(), 256 << 20);
        assert_eq!(BodyMemory::new(64 << 20).bytes_max(), 512 << 20);
    }

    #[test]
    fn what_is_expected_follows_the_replies() {
        let (expected, large) = (ReplySize::default(), 16 << 20);
        expected.note(500);
        assert_eq!(expected.bytes(), 0);
        expected.note(large);
        assert_eq!(expected.bytes(), large);
        expected.note(10);
        assert_eq!(expected.bytes(), large / 2);
        (0..14).for_each(|_| expected.note(10));
        assert!(expected.bytes() < COUNTED_FROM, "{}", expected.bytes());
    }
}
