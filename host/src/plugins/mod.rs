//! Plugins: what is in the plugins directory, and what of it can run.

mod admission;
mod catalog;
mod jobs;
mod keeper;
mod load;
mod scan;
mod settle;
mod strays;
mod watch;
mod withdrawals;

pub use admission::{Admission, Place};
pub use catalog::{Catalog, Failed, Offers, Plugin, PluginState};
pub use keeper::{DirectoryError, Keeper};
pub use load::Loader;
pub use scan::Scan;
pub use strays::{Stray, Unused};
