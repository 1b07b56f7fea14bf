//! Watching: file system events of the directory, as far as the system delivers them. The file
//! system may hang, so this is only for blocking threads.

use std::path::Path;
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tracing::warn;

use super::scan::identity;

/// A watch that follows a path, even when it leads to another directory later.
pub(super) struct DirectoryWatch {
    changed: Arc<Notify>,
    /// The identity of the watched directory, and its watcher, which ends when the directory is
    /// gone.
    watched: Option<((u64, u64), RecommendedWatcher)>,
    has_complained: bool,
}

impl DirectoryWatch {
    /// `changed` is notified of every change in the directory.
    pub(super) fn new(changed: Arc<Notify>) -> Self {
        Self {
            changed,
            watched: None,
            has_complained: false,
        }
    }

    /// Watches the directory that the path currently leads to.
    pub(super) fn follow(&mut self, directory: &Path) {
        let identity = identity(directory);
        if self.watched.as_ref().map(|(watched, _)| *watched) == identity {
            return;
        }
        self.watched = None;
        let Some(identity) = identity else { return };
        match watch(directory, self.changed.clone()) {
            Ok(watcher) => {
                self.watched = Some((identity, watcher));
                self.has_complained = false;
            }
            Err(error) if !self.has_complained => {
                self.has_complained = true;
                warn!(
                    event = "plugins-directory-unwatched",
                    directory = %directory.display(),
                    %error,
                    "the plugins directory cannot be watched; it is looked at again and again all the same"
                );
            }
            Err(_) => {}
        }
    }
}

fn watch(directory: &Path, changed: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Ignore reads, which the reconciler itself causes; any other event, even an error,
        // triggers a scan.
        let is_reading = matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(access)
            if access != AccessKind::Close(AccessMode::Write)));
        if !is_reading {
            changed.notify_one();
        }
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
