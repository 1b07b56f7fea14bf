//! Splits messages that are larger than a datagram into parts, and joins them again. Pure.
//!
//! A part begins with the number of its message (4 bytes, big-endian), its own index (1), and the
//! number of parts (1). Parts that arrive out of order are dropped and lost ones are not sent
//! again: later gossip repeats their content.

use std::collections::HashMap;
use std::net::SocketAddr;

pub(super) const HEAD_BYTES: usize = 6;

/// Most parts of one message; a message that needs more is not sent.
const PARTS_MAX: usize = 4;

/// Most senders with an incomplete message. When one more would begin, all of these are dropped.
const PENDING_MAX: usize = 64;

/// The parts of a message, each with its header and at most `bytes_max` long; `None` if there would
/// be more than `PARTS_MAX`.
pub(super) fn split(
    number: u32,
    message: &[u8],
    bytes_max: usize,
) -> Option<impl Iterator<Item = Vec<u8>>> {
    let count = message.len().div_ceil(bytes_max - HEAD_BYTES).max(1);
    if count > PARTS_MAX {
        return None;
    }
    let part_bytes = message.len().div_ceil(count).max(1);
    Some((0..count).map(move |index| {
        let start = index * part_bytes;
        let bytes = &message[start..message.len().min(start + part_bytes)];
        let mut part = Vec::with_capacity(HEAD_BYTES + bytes.len());
        part.extend_from_slice(&number.to_be_bytes());
        part.extend([index as u8, count as u8]);
        part.extend_from_slice(bytes);
        part
    }))
}

/// Whether these bytes begin with a valid header of a part.
pub(super) fn is_part(bytes: &[u8]) -> bool {
    read(bytes).is_some()
}

fn read(part: &[u8]) -> Option<(&[u8; HEAD_BYTES], &[u8])> {
    let (head, bytes) = part.split_first_chunk::<HEAD_BYTES>()?;
    let [.., index, count] = *head;
    (usize::from(count) <= PARTS_MAX && index < count).then_some((head, bytes))
}

/// Joins parts into messages; holds one incomplete message per sender.
#[derive(Default)]
pub(super) struct Joiner(HashMap<SocketAddr, Pending>);

struct Pending {
    number: [u8; 4],
    next: u8,
    bytes: Vec<u8>,
}

impl Joiner {
    /// Adds a part. Returns the message once its last part has arrived.
    pub(super) fn take(&mut self, from: SocketAddr, part: &[u8]) -> Option<Vec<u8>> {
        let (head, bytes) = read(part)?;
        let [a, b, c, d, index, count] = *head;
        if count == 1 {
            return Some(bytes.to_vec());
        }
        let number = [a, b, c, d];
        if index == 0 {
            if self.0.len() >= PENDING_MAX {
                self.0.clear();
            }
            self.0.insert(
                from,
                Pending {
                    number,
                    next: 1,
                    bytes: bytes.to_vec(),
                },
            );
            return None;
        }
        let pending = self
            .0
            .get_mut(&from)
            .filter(|pending| pending.number == number && pending.next == index)?;
        pending.bytes.extend_from_slice(bytes);
        pending.next += 1;
        if index + 1 < count {
            return None;
        }
        self.0.remove(&from).map(|pending| pending.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 100;

    fn addr(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn parts(number: u32, message: &[u8]) -> Vec<Vec<u8>> {
        split(number, message, MAX).unwrap().collect()
    }

    #[test]
    fn what_is_split_is_put_together() {
        let room = MAX - HEAD_BYTES;
        for (length, count) in [
            (0, 1),
            (1, 1),
            (room, 1),
            (room + 1, 2),
            (PARTS_MAX * room, PARTS_MAX),
        ] {
            let message: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            let parts = parts(7, &message);
            assert_eq!(parts.len(), count, "{length}");
            let mut joiner = Joiner::default();
            let mut joined: Vec<_> = parts
                .iter()
                .map(|part| joiner.take(addr(1), part))
                .collect();
            assert_eq!(joined.pop().unwrap(), Some(message));
            assert!(joined.iter().all(Option::is_none));
            assert!(parts.iter().all(|part| part.len() <= MAX));
        }
        assert!(split(7, &vec![0; PARTS_MAX * room + 1], MAX).is_none());
    }

    #[test]
    fn parts_of_different_messages_are_not_mixed() {
        let mut joiner = Joiner::default();
        let (one, other) = (parts(1, &[1; 150]), parts(2, &[2; 150]));
        assert_eq!(
            joiner.take(addr(1), &one[1]),
            None,
            "its beginning is missing"
        );
        assert_eq!(joiner.take(addr(1), &one[0]), None);
        assert_eq!(joiner.take(addr(1), &other[1]), None, "another message's");
        assert_eq!(joiner.take(addr(2), &one[1]), None, "another sender's");
        assert_eq!(joiner.take(addr(1), &one[1]), Some(vec![1; 150]));
        assert_eq!(joiner.take(addr(1), &one[1]), None, "once");
    }

    #[test]
    fn junk_is_nothing_and_little_is_kept() {
        let mut joiner = Joiner::default();
        for junk in [
            &b""[..],
            b"short",
            &[0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 3, 2, 9],
            &[0, 0, 0, 0, 0, 9, 9],
        ] {
            assert_eq!(joiner.take(addr(1), junk), None, "{junk:?}");
        }
        for port in 0..1_000 {
            joiner.take(addr(port), &parts(1, &[1; 150])[0]);
            assert!(joiner.0.len() <= PENDING_MAX);
        }
    }
}
