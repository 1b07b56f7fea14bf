//! Plugins: keeps what this node offers as the source of its plugins is.

mod admission;
mod catalog;
mod debounce;
mod directory;
mod jobs;
mod load;
mod reconciler;
mod source;
mod withdrawals;

pub use admission::{Admission, Place};
pub use catalog::{Catalog, Failed, Offers, Plugin, PluginState};
pub use directory::{Directory, Scan, Stray, read_files};
pub use load::Loader;
pub use reconciler::{Reconciler, SourceError};
pub use source::{ReadError, Source};
