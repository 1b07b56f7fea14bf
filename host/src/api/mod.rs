//! The two HTTP APIs: the public one, for messages, and the admin one, for operators.

mod admin;
mod admin_site;
mod answer;
mod body;
mod framing;
mod lanes;
mod problem;
mod public;
mod stream;
mod target;

pub use admin::{Admin, Readiness};
pub use public::{PublicApi, PublicConfig};
