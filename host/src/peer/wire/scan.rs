//! Calls in a buffer of whole frames that has not been written yet.

use super::{CallId, kind};

/// The calls that begin in a buffer of whole frames.
pub(in crate::peer) fn calls_in(mut buffer: &[u8]) -> Vec<CallId> {
    let mut calls = Vec::new();
    while let Some((length, rest)) = buffer.split_first_chunk::<4>() {
        let (frame, next) = rest
            .split_at_checked(u32::from_be_bytes(*length) as usize)
            .unwrap_or((rest, &[]));
        if let Some((&[kind::CALL, a, b, c, d], _)) = frame.split_first_chunk::<5>() {
            calls.push(CallId::from_be_bytes([a, b, c, d]));
        }
        buffer = next;
    }
    calls
}

/// Turns a call in a buffer of whole frames into a void frame, which the peer skips. Returns
/// whether the call was there. `void` is the length of the prefix without calls: the search begins
/// behind it, and extends it. Most calls end in the order in which they came, and so are found at
/// once.
pub(in crate::peer) fn void_call(buffer: &mut [u8], void: &mut usize, id: CallId) -> bool {
    let mut start = *void;
    while let Some((length, frame)) = buffer[start..].split_first_chunk_mut::<4>() {
        let next = start + 4 + u32::from_be_bytes(*length) as usize;
        let is_found = match frame.first_chunk_mut::<5>() {
            Some([kind @ kind::CALL, a, b, c, d])
                if CallId::from_be_bytes([*a, *b, *c, *d]) == id =>
            {
                *kind = kind::VOID;
                true
            }
            _ => false,
        };
        if start == *void && frame.first() != Some(&kind::CALL) {
            *void = next;
        }
        if is_found {
            return true;
        }
        start = next;
    }
    false
}
