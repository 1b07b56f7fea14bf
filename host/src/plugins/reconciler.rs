//! The reconciler: keeps the catalog in line with the source, whatever happens to the source. If a
//! new version cannot be loaded, the old one keeps running. It accesses the source only on blocking
//! threads.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, error, info};

use super::catalog::Catalog;
use super::debounce::{Debounce, LoadOutcome, Step};
use super::jobs::Jobs;
use super::load::{Loaded, Loader};
use super::source::{Found, ReadError, SignedVersions, Source, SourceEvent, Version};
use super::withdrawals::Withdrawal;

/// How often the source is scanned without an event: network and container file systems lose
/// events, and a symlink's target may change outside the directory.
const RESCAN_INTERVAL: Duration = Duration::from_millis(500);

/// After how long the log says that a scan hangs: no healthy file system takes so long.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How long a removed plugin still runs messages that arrive: five gossip rounds, in which the
/// other nodes learn of the removal.
const REMOVAL_NOTICE: Duration = Duration::from_secs(1);

/// Delay before a load is retried that failed for a temporary reason (no instance or memory, a
/// timeout, a file system that does not respond).
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Plugins that are read and compiled at once; each may need as much memory as the largest
/// component. The compiler has its own bound.
const LOADS_MAX: usize = 4;

/// The source could not be read at the start.
#[derive(Debug, thiserror::Error)]
#[error("{place} cannot be read")]
pub struct SourceError {
    place: String,
    source: io::Error,
}

pub struct Reconciler {
    source: Arc<dyn Source>,
    loader: Loader,
    catalog: Arc<Catalog>,
    debounce: Debounce,
    jobs: Jobs<Done>,
    loads: Arc<Semaphore>,
    changed: Arc<Notify>,
    /// Start of the running scan. There is at most one.
    looking_since: Option<Instant>,
    /// Whether the last scan succeeded, and none hangs.
    is_readable: bool,
}

/// What wakes the reconciler.
enum Wake {
    /// A scan is due.
    Look,
    /// The source has reported a change.
    Changed,
    /// A scan hangs.
    Unanswered,
    Done(Done),
}

/// A job that has ended.
enum Done {
    Look(io::Result<Found>),
    Load {
        name: String,
        version: Version,
        /// `None`: the bytes changed while they were read, so there is no result.
        loaded: Option<Loaded>,
    },
    /// The other nodes have had time to learn of a withdrawal.
    Notice(Withdrawal),
}

impl Reconciler {
    pub fn new(source: Arc<dyn Source>, loader: Loader, catalog: Arc<Catalog>) -> Self {
        Self {
            changed: source.changed(),
            source,
            loader,
            catalog,
            debounce: Debounce::default(),
            jobs: Jobs::new(),
            loads: Arc::new(Semaphore::new(LOADS_MAX)),
            looking_since: None,
            is_readable: true,
        }
    }

    /// Loads every plugin of the source: each ends up in the catalog, as a plugin or as a failure.
    ///
    /// # Errors
    /// If the source cannot be read.
    pub async fn load_all(&mut self) -> Result<(), SourceError> {
        self.look();
        loop {
            let unanswered = self.unanswered();
            let done = tokio::select! {
                done = self.jobs.next() => done,
                () = at(unanswered) => {
                    self.log_silent();
                    continue;
                }
            };
            let Some(done) = done else { return Ok(()) };
            match done {
                Done::Look(found) => {
                    self.looking_since = None;
                    let found = found.map_err(|source| SourceError {
                        place: self.source.to_string(),
                        source,
                    })?;
                    self.is_readable = true;
                    for step in self.debounce.begin(Instant::now(), &found) {
                        self.take(step);
                    }
                }
                done => self.finish(done),
            }
            for step in self.debounce.begun(Instant::now()) {
                self.take(step);
            }
        }
    }

    /// Keeps the catalog in line with the source; never returns.
    pub async fn run(mut self) {
        let mut rescans = interval(RESCAN_INTERVAL);
        rescans.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_looking = self.looking_since.is_some();
            // A due step needs a fresh scan first; while the source is unreadable, the next rescan
            // is soon enough.
            let due = self
                .debounce
                .due()
                .filter(|_| self.is_readable && !is_looking);
            let unanswered = self.unanswered();
            let wake = tokio::select! {
                _ = rescans.tick(), if !is_looking => Wake::Look,
                // A change during a scan is kept for the next one.
                () = self.changed.notified(), if !is_looking => Wake::Changed,
                () = at(due) => Wake::Look,
                () = at(unanswered) => Wake::Unanswered,
                Some(done) = self.jobs.next() => Wake::Done(done),
            };
            match wake {
                Wake::Look => self.look(),
                Wake::Changed => {
                    self.source.log(SourceEvent::Changed);
                    self.look();
                }
                Wake::Unanswered => self.log_silent(),
                Wake::Done(done) => self.finish(done),
            }
        }
    }

    /// When the running scan counts as hanging; `None` once that has been logged.
    fn unanswered(&self) -> Option<Instant> {
        let since = self.looking_since.filter(|_| self.is_readable);
        since.map(|since| since + ANSWER_MAX)
    }

    fn log_silent(&mut self) {
        self.is_readable = false;
        self.source.log(SourceEvent::Silent);
    }

    /// Starts a scan of the source, unless one is running.
    fn look(&mut self) {
        if self.looking_since.is_some() {
            return;
        }
        self.looking_since = Some(Instant::now());
        let source = self.source.clone();
        let panicked = |panic: String| Done::Look(Err(io::Error::other(panic)));
        self.jobs
            .start_blocking(move || Done::Look(source.look()), panicked);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Load { name, version } => self.load(name, version),
            Step::Remove { name } => self.remove(&name),
            Step::LogFailure { name, error } => {
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

    fn load(&mut self, name: String, version: Version) {
        let (source, loader, loads) =
            (self.source.clone(), self.loader.clone(), self.loads.clone());
        let (current, admission) = (self.catalog.plugin(&name), self.catalog.admission(&name));
        let origin = source.origin(&name);
        let (lost_name, lost_origin) = (name.clone(), origin.clone());
        let load = async move {
            // The semaphore is never closed.
            let _permit = loads.acquire_owned().await;
            let (read_name, signed) = (name.clone(), loader.needs_signatures());
            let reading = spawn_blocking(move || source.read(&read_name, signed));
            let (read, files) = reading.await.unwrap_or_else(|error| {
                let error = io::Error::from(error);
                let text = format!("{origin} cannot be read: {error}");
                let is_lasting = false;
                (Some(version), Err(ReadError { text, is_lasting }))
            });
            if read != Some(version) {
                return Done::Load {
                    name,
                    version,
                    loaded: None,
                };
            }
            let loaded = loader
                .reload(&name, &origin, files, current, admission)
                .await;
            let loaded = Some(loaded);
            Done::Load {
                name,
                version,
                loaded,
            }
        };
        let panicked = move |panic: String| Done::Load {
            loaded: Some(Loaded::panicked(&lost_name, lost_origin, panic)),
            name: lost_name,
            version,
        };
        self.jobs.start(load, panicked);
    }

    fn remove(&mut self, name: &str) {
        info!(event = "plugin-removed", plugin = name, "plugin removed");
        if let Some(withdrawal) = self.catalog.withdraw(name) {
            let ended = withdrawal.clone();
            let notice = async move {
                sleep(REMOVAL_NOTICE).await;
                Done::Notice(withdrawal)
            };
            self.jobs.start(notice, |_| Done::Notice(ended));
        }
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Look(found) => {
                self.looking_since = None;
                self.see(found);
            }
            Done::Load {
                name,
                version,
                loaded,
            } => {
                let ended = match &loaded {
                    Some(Loaded::Plugin(..) | Loaded::Same(..)) => LoadOutcome::Loaded,
                    None => LoadOutcome::ChangedMeanwhile,
                    Some(Loaded::Failed(failed)) => LoadOutcome::Failed {
                        error: failed.error.clone(),
                        retry_after: (!failed.is_lasting).then_some(RETRY_AFTER),
                    },
                };
                self.debounce.loaded(&name, Instant::now(), ended);
                if let Some(loaded) = loaded {
                    let signed = self.offer(loaded);
                    self.source.loaded(
                        &name,
                        version,
                        signed.as_ref().copied().map_err(String::as_str),
                    );
                }
            }
            Done::Notice(withdrawal) => self.catalog.remove_withdrawn(&withdrawal),
        }
    }

    /// Handles the result of a scan.
    fn see(&mut self, found: io::Result<Found>) {
        let now = Instant::now();
        match found {
            Ok(found) => {
                if !std::mem::replace(&mut self.is_readable, true) {
                    self.source.log(SourceEvent::Readable);
                    self.debounce.look_anew(now);
                }
                for step in self.debounce.observe(now, &found) {
                    self.take(step);
                }
            }
            // An unreadable source says nothing about its plugins: they stay until it is back.
            Err(error) if std::mem::replace(&mut self.is_readable, false) => {
                self.source.log(SourceEvent::Unreadable(&error));
            }
            Err(error) => self.source.log(SourceEvent::StillUnreadable(&error)),
        }
    }

    /// Puts the result of a load into the catalog. Returns what its signatures say, or why it failed.
    fn offer(&self, loaded: Loaded) -> Result<Option<SignedVersions>, String> {
        match loaded {
            Loaded::Plugin(plugin, signed) => {
                info!(
                    event = "plugin-ready",
                    stream = %plugin.stream,
                    file = %plugin.origin,
                    digest = plugin.digest.as_str(),
                    "plugin ready"
                );
                self.catalog.offer(Arc::from(plugin));
                Ok(signed)
            }
            Loaded::Failed(failed) => {
                debug!(
                    event = "plugin-load-failed",
                    plugin = failed.name,
                    error = failed.error,
                    "a plugin could not be loaded"
                );
                let error = failed.error.clone();
                self.catalog.fail(failed);
                Err(error)
            }
            Loaded::Same(plugin, signed) => {
                self.catalog.offer(plugin.clone());
                info!(event = "plugin-unchanged", stream = %plugin.stream, "the files of a plugin are those of the version that runs");
                Ok(signed)
            }
        }
    }
}

/// Waits until `time`; for ever if it is `None`.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => pending().await,
    }
}
