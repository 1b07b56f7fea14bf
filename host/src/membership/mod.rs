//! Membership: which nodes are alive, and what each offers. The only code that uses chitchat.

mod advert;
mod claims;
mod contacts;
mod driver;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod gossip;
mod parts;
mod seed;
mod seed_problems;
mod seeds;
mod strangers;
mod transport;
mod view;

pub use gossip::{Gossip, GossipConfig, GossipError};
pub use view::{Node, NodeState, View};
