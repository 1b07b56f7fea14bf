//! The peer path: messages between nodes, as frames multiplexed on long-lived TCP connections.
//! The server runs what it gets or refuses it; nothing here can pass a message on to a third node.

mod breaker;
mod client;
mod connection;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod handshake;
mod liveness;
mod outbox;
mod server;
mod session;
mod siblings;
mod socket;
mod wire;

pub use breaker::BreakerState;
pub use client::{Peer, Peers};
pub use connection::{Called, Request};
pub use server::{Answers, Server};
pub use socket::TlsNow;
pub use wire::{Hello, Question};
