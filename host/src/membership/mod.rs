//! Membership: which nodes live, and what each offers. The only user of chitchat.

mod advert;
mod gossip;
mod parts;
mod seeds;
mod transport;
mod view;

pub use gossip::{Gossip, GossipConfig, GossipError};
pub use view::{Node, NodeState, View};
