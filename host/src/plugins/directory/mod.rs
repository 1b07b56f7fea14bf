//! The plugins directory: the plugin of a stream is `<stream>.wasm`, with its manifest
//! `<stream>.toml` beside it if it has one.

mod read;
mod scan;
mod stamp;
mod strays;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::source::{Files, Found, ReadError, Source, SourceEvent, Version};
use stamp::Stamp;
use strays::Strays;
use watch::DirectoryWatch;

pub use read::read_files;
pub use scan::Scan;
pub use strays::Stray;

/// The directory as a source.
pub struct Directory {
    path: PathBuf,
    changed: Arc<Notify>,
    /// Held during a scan, which may hang.
    seen: Mutex<Seen>,
    /// The component of each plugin by the last scan: a file name that is not text is not what its
    /// plugin is called.
    components: ArcSwap<BTreeMap<String, PathBuf>>,
}

/// State that is kept between scans.
struct Seen {
    watch: DirectoryWatch,
    strays: Strays,
}

impl Directory {
    pub fn new(path: PathBuf) -> Self {
        let changed = Arc::new(Notify::new());
        let seen = Seen {
            watch: DirectoryWatch::new(changed.clone()),
            strays: Strays::default(),
        };
        Self {
            path,
            changed,
            seen: Mutex::new(seen),
            components: ArcSwap::default(),
        }
    }

    /// Which directory it is now: another one may be mounted in its place.
    pub(super) fn place(&self) -> io::Result<(u64, u64)> {
        scan::identity(&self.path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The component of a plugin, as found by the last scan.
    fn component(&self, name: &str) -> PathBuf {
        let found = self.components.load().get(name).cloned();
        found.unwrap_or_else(|| self.path.join(format!("{name}.wasm")))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(|poisoned| {
            let mut seen = poisoned.into_inner();
            // A panic may have left the watch half changed: the next scan makes a new one.
            seen.watch = DirectoryWatch::new(self.changed.clone());
            self.seen.clear_poison();
            seen
        })
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the plugins directory {}", self.path.display())
    }
}

impl Source for Directory {
    fn look(&self) -> io::Result<Found> {
        let mut seen = self.seen();
        // Watch first, so that no change after the scan is missed.
        seen.watch.follow(&self.path);
        let scan = Scan::of(&self.path)?;
        for stray in seen.strays.observe(Instant::now(), scan.strays) {
            let file = self.path.join(&stray.name);
            let (file, because) = (file.display(), stray.unused);
            warn!(event = "plugin-file-unused", %file, %because, "a file in the plugins directory is not used");
        }
        let plugins = scan.plugins.into_iter();
        let (components, found): (BTreeMap<_, _>, _) = plugins
            .map(|(name, (file, stamp))| ((name.clone(), file), (name, stamp.version())))
            .unzip();
        self.components.store(Arc::new(components));
        Ok(found)
    }

    fn read(&self, name: &str, signed: bool) -> (Option<Version>, Result<Files, ReadError>) {
        let component = self.component(name);
        let files = read_files(&component, signed);
        // Take the stamp after reading: it differs if the files changed meanwhile.
        let version = Stamp::of(&component).map(|stamp| stamp.version());
        (version, files)
    }

    fn origin(&self, name: &str) -> String {
        self.component(name).display().to_string()
    }

    fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }

    fn log(&self, event: SourceEvent<'_>) {
        let directory = self.path.display();
        match event {
            SourceEvent::Changed => {
                debug!(
                    event = "plugins-directory-changed",
                    "the plugins directory has changed"
                );
            }
            SourceEvent::Silent => {
                warn!(event = "plugins-directory-silent", %directory, "the plugins directory does not answer; its plugins stay");
            }
            SourceEvent::Unreadable(error) => {
                warn!(event = "plugins-directory-unreadable", %directory, %error, "the plugins directory cannot be read; its plugins stay");
            }
            SourceEvent::StillUnreadable(error) => {
                debug!(event = "plugins-directory-still-unreadable", %error, "the plugins directory still cannot be read");
            }
            SourceEvent::Readable => {
                info!(event = "plugins-directory-readable", %directory, "the plugins directory can be read again");
            }
        }
    }
}
