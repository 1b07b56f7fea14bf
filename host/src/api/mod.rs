//! The two HTTP APIs: the public one, for messages, and the admin one, for operators.

mod activity;
mod admin;
mod answer;
mod answer_body;
mod body;
mod connections;
mod framing;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod patience;
mod problem;
mod public;
mod requests;
mod stream;
mod target;

pub use admin::{Admin, Readiness};
pub use public::{PublicApi, PublicConfig};
