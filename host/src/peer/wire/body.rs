//! Reassembles bodies from their chunks.

use bytes::{Bytes, BytesMut};

use super::WireError;
use crate::message::BODY_BYTES_MAX;

/// A body that arrives in chunks.
#[derive(Debug)]
pub(in crate::peer) struct Body {
    expected: usize,
    chunks: Chunks,
}

#[derive(Debug)]
enum Chunks {
    /// All in one chunk: no copy.
    One(Bytes),
    Many(BytesMut),
}

impl Body {
    pub(super) fn new(expected: usize, first: Bytes) -> Result<Self, WireError> {
        if expected > BODY_BYTES_MAX {
            return Err(WireError::BodyBytes(expected));
        }
        if first.len() > expected {
            return Err(WireError::TooManyChunks);
        }
        let chunks = if first.len() == expected {
            Chunks::One(first)
        } else {
            Chunks::Many(BytesMut::from(first))
        };
        Ok(Self { expected, chunks })
    }

    /// The announced length of the whole body.
    pub(in crate::peer) fn bytes(&self) -> usize {
        self.expected
    }

    /// Adds the next chunk.
    pub(in crate::peer) fn push(&mut self, chunk: &Bytes) -> Result<(), WireError> {
        match &mut self.chunks {
            Chunks::Many(bytes) if bytes.len() + chunk.len() <= self.expected => {
                bytes.extend_from_slice(chunk);
                Ok(())
            }
            _ => Err(WireError::TooManyChunks),
        }
    }

    pub(in crate::peer) fn is_complete(&self) -> bool {
        match &self.chunks {
            Chunks::One(_) => true,
            Chunks::Many(bytes) => bytes.len() == self.expected,
        }
    }

    /// The whole body, once it is complete.
    pub(in crate::peer) fn into_bytes(self) -> Bytes {
        match self.chunks {
            Chunks::One(bytes) => bytes,
            Chunks::Many(bytes) => bytes.freeze(),
        }
    }
}
