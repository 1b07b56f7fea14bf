//! TCP connections of clients and peers: how they are accepted, and their socket options.

mod accept;
mod options;

pub(crate) use accept::{Acceptor, Permit};
pub(crate) use options::prepare;
