//! Plugins: keeps the offers of this node in line with the source of its plugins.

mod admission;
mod catalog;
mod debounce;
mod directory;
mod jobs;
mod load;
mod reconciler;
mod run;
mod sharing;
mod source;
mod withdrawals;

pub use admission::{Admission, Place};
pub use catalog::{Catalog, Failed, Offers, Plugin, PluginState};
pub use directory::{Directory, Scan, Stray, read_files};
pub use load::{Loader, StateStore};
pub use reconciler::{Reconciler, SourceError};
pub use run::run;
pub use sharing::{Fetch, NoRevision, SharedStream, Sharing, StoreError};
pub use source::{ReadError, Source};
