//! Watching: the events of the directory, as long as the system brings them. It asks the file
//! system, which may hang: only for threads that may wait.

use std::path::Path;
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tracing::warn;

use super::scan::identity;

/// A watch that follows a path wherever it leads.
pub(super) struct DirectoryWatch {
    changed: Arc<Notify>,
    /// The directory that is watched. It ends with its directory.
    watched: Option<((u64, u64), RecommendedWatcher)>,
    has_complained: bool,
}

impl DirectoryWatch {
    /// `changed` is notified of whatever happens in the directory.
    pub(super) fn new(changed: Arc<Notify>) -> Self {
        Self {
            changed,
            watched: None,
            has_complained: false,
        }
    }

    /// Watches the directory that the path leads to now.
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
        // Reading is no change, and the reconciler reads; all else, errors too, is worth a look.
        let is_reading = matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(access)
            if access != AccessKind::Close(AccessMode::Write)));
        if !is_reading {
            changed.notify_one();
        }
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
