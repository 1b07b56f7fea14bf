//! Plugins: what is in the plugins directory, and what of it can run.

mod catalog;
mod load;
mod manifest;

pub use catalog::{Catalog, Plugin, PluginState};
pub use load::{DirectoryError, load_directory};
pub use manifest::{Manifest, ManifestError};
