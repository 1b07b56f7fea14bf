//! The runtime: compiles components, keeps instances, runs messages through them within limits.
//! The only user of wasmtime; knows nothing of HTTP, peers or placement.

mod bindings;
mod budget;
mod clock;
mod compile;
mod compile_turns;
mod engine;
mod guest_log;
mod handler;
mod instance;
mod limits;
mod outbound;
mod outbound_tls;
mod pool;
mod turns;

pub use compile::{COMPONENT_BYTES_MAX, LoadError};
pub use engine::{Engine, EngineError};
pub use handler::{CallDeadline, Handler};
pub use limits::{Instances, Limits};
pub use outbound::AllowedHost;
