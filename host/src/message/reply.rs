//! The outcome of a message: a reply, or a fault.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::fault::Fault;
use super::names::NodeId;
use crate::bodies::{BodyMemory, NoRoom, ReplyReservation, Reservation};

/// Maximum size of a reply body. A reply is held in memory on the node that runs the handler and on
/// the node that received the request.
pub const REPLY_BODY_BYTES_MAX: usize = 16 << 20;

/// A handler's reply.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// It is the one that an earlier message got, of which this one is a repetition.
    pub is_replayed: bool,
    /// The memory reservation of the body on this node.
    pub reservation: Reservation,
}

impl Reply {
    /// Accounts the reply's body to the reservation that was made for it, which grows if necessary.
    ///
    /// # Errors
    /// If there is no more memory for bodies: the reply is lost.
    pub fn with_reservation(mut self, reserved: ReplyReservation, bodies: &BodyMemory) -> Outcome {
        self.reservation = reserved
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
    /// Whether the message may be sent again although it may have run.
    pub may_run_twice: bool,
}

pub type Outcome = Result<Reply, Fault>;
