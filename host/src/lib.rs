//! meshage-host: a node of the mesh. `ARCHITECTURE.md` has the map.

pub mod membership;
pub mod message;
pub mod placement;
pub mod plugins;
pub mod runtime;
