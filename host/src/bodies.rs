//! The memory that a node has for bodies: of requests that arrive, of answers until they are sent,
//! and of what comes from peers and goes to them. One bound for all of them together. Pure: it
//! counts.

use std::sync::atomic::{AtomicUsize, Ordering};

/// So much, or more where single bodies may be large.
const BYTES_DEFAULT: usize = 256 << 20;
const BODIES_MIN: usize = 8;

/// A smaller body costs no more than the message around it: it is not counted.
const COUNTED_FROM: usize = 1024;

/// What may be set aside for bodies that are only expected: the rest is for those that are there,
/// however long others are waited for.
const EXPECTED_PART: usize = 2;

/// The bodies that there are now.
#[derive(Debug)]
pub struct Bodies {
    bytes_max: usize,
    bytes: AtomicUsize,
    /// Of these, what is set aside for bodies that are expected.
    expected: AtomicUsize,
}

/// There is no room now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

/// The room of one body: given back when it is dropped.
#[derive(Debug, Default)]
pub struct Room(Option<(&'static Bodies, usize)>);

/// Room that is set aside for a body which is expected: given back when it is dropped.
#[derive(Debug)]
pub struct SetAside {
    bodies: &'static Bodies,
    room: Room,
    bytes: usize,
}

/// What the next reply of a stream is expected to take: as much as the last one took, or half of
/// what was expected of that, whichever is more. So a single large reply among small ones is
/// forgotten after a dozen.
#[derive(Debug, Default)]
pub struct Expected(AtomicUsize);

impl Bodies {
    /// For bodies of at most so many bytes each. There is one for each process, so that nobody has
    /// to count who shares it.
    pub fn new(body_bytes_max: usize) -> &'static Self {
        let bytes_max = BYTES_DEFAULT.max(body_bytes_max.saturating_mul(BODIES_MIN));
        Box::leak(Box::new(Self {
            bytes_max,
            bytes: AtomicUsize::new(0),
            expected: AtomicUsize::new(0),
        }))
    }

    /// Room for a body of so many bytes.
    ///
    /// # Errors
    /// If there is none now.
    pub fn room(&'static self, bytes: usize) -> Result<Room, NoRoom> {
        let mut room = Room::default();
        room.resize(self, bytes).map(|()| room)
    }

    /// Room for a body that is expected to have so many bytes.
    ///
    /// # Errors
    /// If there is none now, or as much is set aside already as may be.
    pub fn set_aside(&'static self, bytes: usize) -> Result<SetAside, NoRoom> {
        let bytes = if bytes < COUNTED_FROM { 0 } else { bytes };
        if bytes > 0 {
            take(&self.expected, bytes, self.bytes_max / EXPECTED_PART)?;
        }
        // From here on it is given back whatever comes.
        let mut aside = SetAside {
            bodies: self,
            room: Room::default(),
            bytes,
        };
        aside.room.resize(self, bytes)?;
        Ok(aside)
    }

    /// What all of them may take together.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }
}

impl Room {
    /// Makes it the room of a body of so many bytes.
    ///
    /// # Errors
    /// If there is no room for more now: then it stays as it was.
    pub fn resize(&mut self, bodies: &'static Bodies, bytes: usize) -> Result<(), NoRoom> {
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

    /// Whether it takes any.
    pub fn is_counted(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some((bodies, bytes)) = self.0 {
            bodies.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// Adds to a count, unless it becomes more than may be.
fn take(count: &AtomicUsize, more: usize, max: usize) -> Result<(), NoRoom> {
    let fits = |now: usize| now.checked_add(more).filter(|sum| *sum <= max);
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
        .map(drop)
        .map_err(|_| NoRoom)
}

impl SetAside {
    /// The body is there, and has so many bytes.
    ///
    /// # Errors
    /// If there is no room for what it has more than was expected.
    pub fn fill(mut self, bytes: usize) -> Result<Room, NoRoom> {
        let mut room = std::mem::take(&mut self.room);
        room.resize(self.bodies, bytes).map(|()| room)
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.bodies
                .expected
                .fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

impl Expected {
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// A reply took so much. Of two at once one may go uncounted: it is a guess.
    pub fn note(&self, bytes: usize) {
        let expected = self.bytes();
        // Mostly all of them are small: then there is nothing to write, which another core would
        // have to fetch.
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
        let bodies = Bodies::new(1 << 20);
        let fits = |bytes| bodies.room(bytes).is_ok();
        let (mut one, mut other) = (
            bodies.room(BYTES_DEFAULT / 2).unwrap(),
            bodies.room(BYTES_DEFAULT / 4).unwrap(),
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
        drop(bodies.room(BYTES_DEFAULT).unwrap());
        assert!(fits(BYTES_DEFAULT));
    }

    #[test]
    fn what_is_expected_leaves_room_for_what_is_there() {
        let bodies = Bodies::new(1 << 20);
        let quarter = BYTES_DEFAULT / 4;
        let (one, other) = (
            bodies.set_aside(quarter).unwrap(),
            bodies.set_aside(quarter).unwrap(),
        );
        assert!(
            bodies.set_aside(COUNTED_FROM).is_err(),
            "as much is set aside as may be"
        );
        assert!(bodies.set_aside(0).is_ok(), "nothing always may");
        let there = bodies.room(2 * quarter).unwrap();
        assert!(bodies.room(COUNTED_FROM).is_err());
        let smaller = one.fill(COUNTED_FROM).unwrap();
        assert!(bodies.set_aside(quarter - COUNTED_FROM).is_ok());
        drop(there);
        let larger = other.fill(3 * quarter).unwrap();
        assert!(bodies.set_aside(quarter).is_err());
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
        assert_eq!(Bodies::new(1 << 20).bytes_max(), 256 << 20);
        assert_eq!(Bodies::new(64 << 20).bytes_max(), 512 << 20);
    }

    #[test]
    fn what_is_expected_follows_the_replies() {
        let (expected, large) = (Expected::default(), 16 << 20);
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
