//! What a peer is asked besides running messages. Each question has a frame of its own, which is sent if both sides name its
//! feature; the answer is a reply.

use bytes::{Buf, BufMut, BytesMut};

use super::WireError;
use crate::message::ReleaseId;

const RELEASE_BYTES: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// What does the node say of itself?
    Report,
    /// The bytes of a release from an offset on: as many as the callee likes, and none at the end.
    Release { release: ReleaseId, from: u64 },
}

/// The features of all questions.
pub(super) const FEATURES: [&str; 2] = [REPORT, RELEASES];
const REPORT: &str = "report";
const RELEASES: &str = "releases";

impl Question {
    /// What a peer must support to be asked.
    pub(in crate::peer) fn feature(self) -> &'static str {
        match self {
            Self::Report => REPORT,
            Self::Release { .. } => RELEASES,
        }
    }

    pub(super) fn put(self, buffer: &mut BytesMut) {
        match self {
            Self::Report => {}
            Self::Release { release, from } => {
                buffer.put_slice(&release.0);
                buffer.put_u64(from);
            }
        }
    }

    /// Reads what [`Self::put`] has written; what follows is of later versions.
    pub(super) fn take_release(frame: &mut impl Buf) -> Result<Self, WireError> {
        if frame.remaining() < RELEASE_BYTES + size_of::<u64>() {
            return Err(WireError::Short);
        }
        let mut release = [0; RELEASE_BYTES];
        frame.copy_to_slice(&mut release);
        Ok(Self::Release {
            release: ReleaseId(release),
            from: frame.get_u64(),
        })
    }
}
