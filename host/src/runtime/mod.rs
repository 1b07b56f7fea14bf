//! The runtime: compiles components, keeps instances, runs messages through them within limits.
//! The only user of wasmtime; knows nothing of clients, peers or placement.

mod budget;
mod clock;
mod compile;
mod compile_locks;
mod contract;
mod core_module;
mod engine;
mod entry;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod guest_log;
mod handler;
mod host;
mod instance;
mod interfaces;
mod limits;
mod load_error;
mod manifest;
mod outline;
mod pool;
mod turns;
mod visible;

pub use engine::{Engine, EngineError, INSTANCES_MAX};
pub use entry::ManifestError;
pub use handler::{CallDeadline, Handler};
pub use host::{
    CallContext, Caller, EntityCall, Grants, HostSettings, Loading, StateError, StateView,
};
pub use limits::{Instances, Limits};
pub use load_error::{COMPONENT_BYTES_MAX, LoadError};
pub use manifest::Manifest;
