//! The keeper: keeps the catalog as the plugins directory is, whatever happens to the directory. What
//! cannot be loaded leaves what ran before.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, error, info, warn};

use super::catalog::Catalog;
use super::load::{Loaded, Loader};
use super::scan::{identity, scan};
use super::settle::{Next, Settling, Step};
use super::withdrawals::Withdrawal;

/// How often the directory is looked at without any event: network and container file systems lose
/// them, and what a link leads to changes elsewhere.
const RESCAN_INTERVAL: Duration = Duration::from_millis(500);

/// How long a removed plugin still runs what arrives: until the other nodes know, five rounds of gossip.
const REMOVAL_NOTICE: Duration = Duration::from_secs(1);

/// When what failed for want of something (room, time, a file system that answers) is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Plugins that are read and compiled at once; each may take up the largest component's size. The
/// compiler has its own bound.
const LOADS_MAX: usize = 4;

#[derive(Debug, thiserror::Error)]
#[error("the plugins directory {} cannot be read", .directory.display())]
pub struct DirectoryError {
    directory: PathBuf,
    source: io::Error,
}

pub struct Keeper {
    directory: PathBuf,
    loader: Loader,
    catalog: Arc<Catalog>,
    settling: Settling,
    jobs: JoinSet<Done>,
    loads: Arc<Semaphore>,
    watch: Watch,
    is_readable: bool,
}

/// What happens to the keeper.
enum Event {
    /// It is time to look at the directory.
    Look,
    /// The system says that something has happened there.
    Changed,
    Done(Done),
}

/// A job that has come to its end.
enum Done {
    Load {
        name: String,
        loaded: Loaded,
    },
    /// The others have had the time to learn that a plugin is withdrawn.
    Notice(Withdrawal),
}

impl Keeper {
    pub fn new(directory: PathBuf, loader: Loader, catalog: Arc<Catalog>) -> Self {
        Self {
            directory,
            loader,
            catalog,
            settling: Settling::default(),
            jobs: JoinSet::new(),
            loads: Arc::new(Semaphore::new(LOADS_MAX)),
            watch: Watch::default(),
            is_readable: true,
        }
    }

    /// Loads everything that is in the directory, so that the catalog has it, or why not.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub async fn load_all(&mut self) -> Result<(), DirectoryError> {
        // Watched first: what changes from here on is seen.
        self.watch.follow(&self.directory);
        let directory = self.directory.clone();
        let found = blocking(move || scan(&directory)).await;
        let found = found.map_err(|source| DirectoryError { directory: self.directory.clone(), source })?;
        for step in self.settling.begin(Instant::now(), &found) {
            self.take(step);
        }
        while let Some(done) = self.jobs.join_next().await {
            self.finish(done.ok());
        }
        Ok(())
    }

    /// Keeps the catalog as the directory is, for ever.
    pub async fn keep(mut self) {
        let mut rescans = interval(RESCAN_INTERVAL);
        rescans.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // What is due needs a directory to look at; while there is none, the next rescan is soon enough.
            let due = self.settling.due().filter(|_| self.is_readable).map(tokio::time::Instant::from_std);
            let event = tokio::select! {
                _ = rescans.tick() => Event::Look,
                () = self.watch.changed.notified() => Event::Changed,
                () = sleep_until(due.unwrap_or_else(tokio::time::Instant::now)), if due.is_some() => Event::Look,
                Some(done) = self.jobs.join_next() => match done {
                    Ok(done) => Event::Done(done),
                    Err(_) => continue,
                },
            };
            match event {
                Event::Look => self.look().await,
                Event::Changed => {
                    debug!("the plugins directory has changed");
                    self.look().await;
                }
                Event::Done(done) => self.finish(Some(done)),
            }
        }
    }

    async fn look(&mut self) {
        self.watch.follow(&self.directory);
        let directory = self.directory.clone();
        match blocking(move || scan(&directory)).await {
            Ok(found) => {
                if !std::mem::replace(&mut self.is_readable, true) {
                    info!(directory = %self.directory.display(), "the plugins directory can be read again");
                    self.settling.look_anew(Instant::now());
                }
                for step in self.settling.observe(Instant::now(), &found) {
                    self.take(step);
                }
            }
            // A directory that is gone says nothing of its plugins: they stay until it is back.
            Err(error) if std::mem::replace(&mut self.is_readable, false) => {
                warn!(directory = %self.directory.display(), %error, "the plugins directory cannot be read; its plugins stay");
            }
            Err(error) => debug!(%error, "the plugins directory still cannot be read"),
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Load { name, file, stamp } => {
                let (loader, loads) = (self.loader.clone(), self.loads.clone());
                let current = self.catalog.plugin(&name);
                self.jobs.spawn(async move {
                    // The semaphore is never closed.
                    let _place = loads.acquire_owned().await;
                    let loaded = loader.reload(file, stamp, current).await;
                    Done::Load { name, loaded }
                });
            }
            Step::Remove { name } => {
                info!(plugin = name, "plugin removed");
                if let Some(withdrawal) = self.catalog.withdraw(&name) {
                    self.jobs.spawn(async move {
                        sleep(REMOVAL_NOTICE).await;
                        Done::Notice(withdrawal)
                    });
                }
            }
        }
    }

    fn finish(&mut self, done: Option<Done>) {
        match done {
            Some(Done::Load { name, loaded }) => {
                let next = match &loaded {
                    Loaded::Unsettled => Next::AtOnce,
                    Loaded::Failed(failed) if !failed.is_lasting => Next::After(RETRY_AFTER),
                    Loaded::Plugin(_) | Loaded::Same(_) | Loaded::Failed(_) => Next::WhenChanged,
                };
                self.settling.loaded(&name, Instant::now(), next);
                self.show(&name, loaded);
            }
            Some(Done::Notice(withdrawal)) => self.catalog.remove_withdrawn(&withdrawal),
            None => {}
        }
    }

    fn show(&self, name: &str, loaded: Loaded) {
        match loaded {
            Loaded::Plugin(plugin) => {
                info!(stream = %plugin.stream, file = %plugin.file.display(), digest = plugin.digest.as_str(), "plugin ready");
                self.catalog.offer(Arc::from(plugin));
            }
            Loaded::Failed(failed) => {
                let serving = self.catalog.plugin(name).map(|plugin| plugin.digest.as_str().to_owned());
                error!(plugin = name, error = failed.error, serving, "plugin failed");
                self.catalog.fail(failed);
            }
            Loaded::Same(plugin) => {
                self.catalog.offer(plugin.clone());
                info!(event = "plugin-unchanged", stream = %plugin.stream, "the files of a plugin are those of the version that runs");
            }
            Loaded::Unsettled => {}
        }
    }
}

/// Events of the directory, as long as the system brings them.
#[derive(Default)]
struct Watch {
    changed: Arc<Notify>,
    /// The directory that is watched. It ends with its directory.
    watched: Option<((u64, u64), RecommendedWatcher)>,
    has_complained: bool,
}

impl Watch {
    /// Watches the directory that the path leads to now.
    fn follow(&mut self, directory: &Path) {
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
                warn!(directory = %directory.display(), %error, "the plugins directory cannot be watched; it is looked at every {RESCAN_INTERVAL:?}");
            }
            Err(_) => {}
        }
    }
}

fn watch(directory: &Path, changed: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is no change, and the keeper reads; all else, errors too, is worth a look.
        let is_reading = matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(access)
            if access != AccessKind::Close(AccessMode::Write)));
        if !is_reading {
            changed.notify_one();
        }
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Runs what may block, as network file systems do.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.into()))
}
