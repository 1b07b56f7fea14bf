//! What hyper leaves to its users, for both APIs: clients that leave connections idle, stall or
//! disconnect, requests that could be parsed in two ways, and limits for bodies.

mod activity;
mod answer_body;
mod body;
mod connection;
mod framing;
mod head_timer;
mod socket;

pub(super) use activity::Activity;
pub(super) use answer_body::{AnswerBody, Tracked};
pub(super) use body::{BodyError, collect, discard};
pub(super) use connection::{OnRuntime, Patience, serve};
pub(super) use framing::problem as framing_problem;
pub(super) use socket::Observed;
