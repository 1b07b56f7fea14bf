//! The two HTTP APIs: the public one, for messages, and the admin one, for operators.

mod access;
mod admin;
mod answer;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod http;
mod message_headers;
mod problem;
mod public;
mod requests;
mod target;

pub use admin::{Admin, Readiness};
pub use public::PublicApi;
pub use requests::PublicConfig;
