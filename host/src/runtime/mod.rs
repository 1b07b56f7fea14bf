//! The runtime: compiles components, keeps instances, runs messages through them within limits.
//! The only user of wasmtime; knows nothing of HTTP, peers or placement.

mod bindings;
mod engine;
mod handler;
mod instance;
mod limits;
mod output;

pub use engine::{Engine, EngineError};
pub use handler::{Handler, LoadError};
pub use limits::Limits;
