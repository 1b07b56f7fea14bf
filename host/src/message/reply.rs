//! What comes back: a reply, or the fault for which there is none.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::fault::Fault;
use super::names::NodeId;
use crate::bodies::{BodyMemory, NoRoom, ReplyReservation, Reservation};

/// The largest body of a reply. A reply is held in memory on the node that runs the handler and on
/// the one that was asked.
pub const REPLY_BODY_BYTES_MAX: usize = 16 << 20;

/// What a handler answered.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// That of the body on this node.
    pub room: Reservation,
}

impl Reply {
    /// The reply with its body in the room that was set aside for it, which grows if it must.
    ///
    /// # Errors
    /// If there is no more: the reply is lost.
    pub fn in_room(mut self, aside: ReplyReservation, bodies: &BodyMemory) -> Outcome {
        self.room = aside
            .fill(self.body.len())
            .map_err(|NoRoom| Fault::no_room(bodies))?;
        Ok(self)
    }
}

/// How one message ended, and on which node.
#[derive(Debug)]
pub struct Answer {
    pub node: NodeId,
    pub outcome: Outcome,
    /// Whether the message may be sent again, though it may have run.
    pub may_run_twice: bool,
}

pub type Outcome = Result<Reply, Fault>;
