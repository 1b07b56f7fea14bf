//! meshage-host: a node of the mesh. `ARCHITECTURE.md` has the map.

#![forbid(unsafe_code)]

pub mod api;
mod background;
pub mod bodies;
pub mod calls;
pub mod cli;
pub mod config;
pub mod dispatch;
pub mod entities;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod lanes;
pub mod local;
pub mod membership;
pub mod message;
pub mod node;
pub mod peer;
pub mod placement;
pub mod plugins;
pub mod project;
pub mod runtime;
pub mod security;
mod setting_file;
pub mod state;
mod tcp;
pub mod telemetry;
