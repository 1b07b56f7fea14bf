//! The keeper: keeps the catalog as the plugins directory is, whatever happens to the directory.
//! What cannot be loaded leaves what ran before. It asks no file system itself: jobs do, and may
//! wait for it.

use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, error, info, warn};

use super::catalog::Catalog;
use super::jobs::Jobs;
use super::load::{Loaded, Loader};
use super::scan::Scan;
use super::settle::{Ended, Settling, Step};
use super::strays::Strays;
use super::watch::Watch;
use super::withdrawals::Withdrawal;

/// How often the directory is looked at without any event: network and container file systems lose
/// them, and what a link leads to changes elsewhere.
const RESCAN_INTERVAL: Duration = Duration::from_millis(500);

/// When an operator is told that a look at the directory hangs: no healthy file system takes so
/// long.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How long a removed plugin still runs what arrives: until the other nodes know, five rounds of
/// gossip.
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
    strays: Strays,
    jobs: Jobs<Done>,
    loads: Arc<Semaphore>,
    changed: Arc<Notify>,
    /// `None` while there is a look at the directory, which has it: so there is one at a time.
    watch: Option<Watch>,
    look_began: Instant,
    /// The last look at the directory was answered, and well.
    is_readable: bool,
}

/// What happens to the keeper.
enum Event {
    /// It is time to look at the directory.
    Look,
    /// The system says that something has happened there.
    Changed,
    /// A look hangs.
    Unanswered,
    Done(Done),
}

/// A job that has come to its end.
enum Done {
    Look {
        scan: io::Result<Scan>,
        watch: Watch,
    },
    Load {
        name: String,
        loaded: Loaded,
    },
    /// The others have had the time to learn that a plugin is withdrawn.
    Notice(Withdrawal),
}

impl Keeper {
    pub fn new(directory: PathBuf, loader: Loader, catalog: Arc<Catalog>) -> Self {
        let changed = Arc::new(Notify::new());
        Self {
            directory,
            loader,
            catalog,
            settling: Settling::default(),
            strays: Strays::default(),
            jobs: Jobs::new(),
            loads: Arc::new(Semaphore::new(LOADS_MAX)),
            watch: Some(Watch::new(changed.clone())),
            changed,
            look_began: Instant::now(),
            is_readable: true,
        }
    }

    /// Loads everything that is in the directory, so that the catalog has it, or why not.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub async fn load_all(&mut self) -> Result<(), DirectoryError> {
        self.look();
        loop {
            let unanswered = self.unanswered();
            let done = tokio::select! {
                done = self.jobs.next() => done,
                () = at(unanswered) => {
                    self.tell_silent();
                    continue;
                }
            };
            let Some(done) = done else { return Ok(()) };
            match done {
                Done::Look { scan, watch } => {
                    self.watch = Some(watch);
                    let scan = scan.map_err(|source| DirectoryError {
                        directory: self.directory.clone(),
                        source,
                    })?;
                    self.is_readable = true;
                    for step in self.settling.begin(Instant::now(), &scan.plugins) {
                        self.take(step);
                    }
                }
                done => self.finish(done),
            }
            for step in self.settling.begun(Instant::now()) {
                self.take(step);
            }
        }
    }

    /// Keeps the catalog as the directory is, for ever.
    pub async fn keep(mut self) {
        let mut rescans = interval(RESCAN_INTERVAL);
        rescans.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_looking = self.watch.is_none();
            // What is due needs a directory to look at; while there is none, the next rescan is
            // soon enough.
            let due = self
                .settling
                .due()
                .filter(|_| self.is_readable && !is_looking);
            let unanswered = self.unanswered();
            let event = tokio::select! {
                _ = rescans.tick(), if !is_looking => Event::Look,
                // What happens during a look is kept for the next.
                () = self.changed.notified(), if !is_looking => Event::Changed,
                () = at(due) => Event::Look,
                () = at(unanswered) => Event::Unanswered,
                Some(done) = self.jobs.next() => Event::Done(done),
            };
            match event {
                Event::Look => self.look(),
                Event::Changed => {
                    debug!(
                        event = "plugins-directory-changed",
                        "the plugins directory has changed"
                    );
                    self.look();
                }
                Event::Unanswered => self.tell_silent(),
                Event::Done(done) => self.finish(done),
            }
        }
    }

    /// When a look has taken too long, if there is one, and it has not been told.
    fn unanswered(&self) -> Option<Instant> {
        (self.is_readable && self.watch.is_none()).then(|| self.look_began + ANSWER_MAX)
    }

    fn tell_silent(&mut self) {
        self.is_readable = false;
        let directory = self.directory.display();
        warn!(event = "plugins-directory-silent", %directory, "the plugins directory does not answer; its plugins stay");
    }

    /// Begins to look at the directory, unless there is a look already.
    fn look(&mut self) {
        let Some(mut watch) = self.watch.take() else {
            return;
        };
        self.look_began = Instant::now();
        let (directory, changed) = (self.directory.clone(), self.changed.clone());
        let look = move || {
            // Watched first: what changes from here on is seen.
            watch.follow(&directory);
            Done::Look {
                scan: Scan::of(&directory),
                watch,
            }
        };
        let panicked = |panic: String| Done::Look {
            scan: Err(io::Error::other(panic)),
            watch: Watch::new(changed),
        };
        self.jobs.start_blocking(look, panicked);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Load { name, file, stamp } => {
                let (loader, loads) = (self.loader.clone(), self.loads.clone());
                let current = self.catalog.plugin(&name);
                let admission = self.catalog.admission(&name);
                let (lost_name, lost_file) = (name.clone(), file.clone());
                let load = async move {
                    // The semaphore is never closed.
                    let _place = loads.acquire_owned().await;
                    let loaded = loader.reload(file, stamp, current, admission).await;
                    Done::Load { name, loaded }
                };
                let panicked = |panic: String| Done::Load {
                    name: lost_name,
                    loaded: Loaded::panicked(lost_file, panic),
                };
                self.jobs.start(load, panicked);
            }
            Step::Remove { name } => {
                info!(event = "plugin-removed", plugin = name, "plugin removed");
                if let Some(withdrawal) = self.catalog.withdraw(&name) {
                    let ended = withdrawal.clone();
                    let notice = async move {
                        sleep(REMOVAL_NOTICE).await;
                        Done::Notice(withdrawal)
                    };
                    self.jobs.start(notice, |_| Done::Notice(ended));
                }
            }
            Step::Tell { name, error } => {
                let serving = self
                    .catalog
                    .plugin(&name)
                    .map(|plugin| plugin.digest.as_str().to_owned());
                error!(
                    event = "plugin-failed",
                    plugin = name,
                    error,
                    serving,
                    "plugin failed"
                );
            }
        }
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Look { scan, watch } => {
                self.watch = Some(watch);
                self.see(scan);
            }
            Done::Load { name, loaded } => {
                let ended = match &loaded {
                    Loaded::Plugin(_) | Loaded::Same(_) => Ended::Well,
                    Loaded::Unsettled => Ended::Unsettled,
                    Loaded::Failed(failed) => Ended::Failed {
                        error: failed.error.clone(),
                        retry_after: (!failed.is_lasting).then_some(RETRY_AFTER),
                    },
                };
                self.settling.loaded(&name, Instant::now(), ended);
                self.show(loaded);
            }
            Done::Notice(withdrawal) => self.catalog.remove_withdrawn(&withdrawal),
        }
    }

    /// Takes what a look has found.
    fn see(&mut self, scan: io::Result<Scan>) {
        let now = Instant::now();
        let directory = self.directory.display();
        match scan {
            Ok(scan) => {
                if !std::mem::replace(&mut self.is_readable, true) {
                    info!(event = "plugins-directory-readable", %directory, "the plugins directory can be read again");
                    self.settling.look_anew(now);
                }
                for step in self.settling.observe(now, &scan.plugins) {
                    self.take(step);
                }
                for stray in self.strays.observe(now, scan.strays) {
                    let file = self.directory.join(&stray.name);
                    let (file, because) = (file.display(), stray.unused);
                    warn!(event = "plugin-file-unused", %file, %because, "a file in the plugins directory is not used");
                }
            }
            // A directory that is gone says nothing of its plugins: they stay until it is back.
            Err(error) if std::mem::replace(&mut self.is_readable, false) => {
                warn!(event = "plugins-directory-unreadable", %directory, %error, "the plugins directory cannot be read; its plugins stay");
            }
            Err(error) => {
                debug!(event = "plugins-directory-still-unreadable", %error, "the plugins directory still cannot be read");
            }
        }
    }

    fn show(&self, loaded: Loaded) {
        match loaded {
            Loaded::Plugin(plugin) => {
                info!(
                    event = "plugin-ready",
                    stream = %plugin.stream,
                    file = %plugin.file.display(),
                    digest = plugin.digest.as_str(),
                    "plugin ready"
                );
                self.catalog.offer(Arc::from(plugin));
            }
            Loaded::Failed(failed) => {
                debug!(
                    event = "plugin-load-failed",
                    plugin = failed.name,
                    error = failed.error,
                    "a plugin could not be loaded"
                );
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

/// Waits for that time; for ever if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => pending().await,
    }
}
