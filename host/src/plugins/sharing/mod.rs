//! Plugins that the whole mesh shares: what is dropped into the directory of one node runs on all of them.
//!
//! A *release* is a plugin's bytes, and a *revision* of a stream says which release is to run. The highest revision wins
//! everywhere. To the reconciler all this is one more source of plugins.

mod fetch;
mod records;
mod release;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::directory::Directory;
use super::source::{
    Files, Found, ReadError, SignedTerms, SignedVersions, Source, SourceEvent, Version,
};
use crate::membership::NodeState;
use crate::membership::View;
use crate::message::{NodeId, ReleaseId, Revision, SharedReleases, StreamName};
use records::{Records, Runs};
use store::Store;

pub use fetch::Fetch;
pub use records::NoRevision;
pub use store::StoreError;

/// The directory of this node, and the releases of the mesh.
pub struct Sharing {
    directory: Directory,
    store: Store,
    state: Mutex<State>,
    /// Wakes the reconciler: another release is to run.
    changed: Arc<Notify>,
    /// Wakes what fetches and what saves.
    wake: Notify,
    announced: watch::Sender<SharedReleases>,
}

struct State {
    records: Records,
    /// The releases that are in the store.
    here: BTreeSet<ReleaseId>,
    /// What the last look found: a release that is still on its way takes away nothing.
    last: Found,
    /// The directory of the last look.
    place: Option<(u64, u64)>,
    /// What the file of a stream was when it was read.
    packed: BTreeMap<StreamName, (Version, ReleaseId)>,
    /// Whether nobody in the mesh knows better what is to run. `None`: the node has begun.
    begins_alone: Option<bool>,
    /// Why a release could not be fetched.
    problems: BTreeMap<ReleaseId, String>,
    is_unsaved: bool,
}

/// What this node knows of a stream, for operators.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedStream {
    pub stream: StreamName,
    /// The current one first.
    pub revisions: Vec<KnownRevision>,
    /// Its file was removed from this node's directory, so that it does not run here.
    pub removed_here: bool,
    /// Why the file in this node's directory does not run.
    pub shadowed: Option<String>,
    /// Why the current release is not here.
    pub problem: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownRevision {
    #[serde(flatten)]
    pub revision: Revision,
    /// Whether this node has the release.
    pub is_here: bool,
}

impl Sharing {
    /// # Errors
    /// What is wrong with the data directory.
    pub fn open(
        directory: Directory,
        data_dir: &Path,
        cluster_id: &str,
        node_id: &NodeId,
    ) -> Result<Arc<Self>, StoreError> {
        let (store, kept) = Store::open(data_dir, cluster_id, node_id)?;
        let records = Records::of(kept);
        store.sweep(&records.kept());
        let here: BTreeSet<_> = records.named().filter(|it| store.has(*it)).collect();
        let announced = records.announcement(|release| here.contains(&release));
        Ok(Arc::new(Self {
            changed: directory.changed(),
            directory,
            store,
            state: Mutex::new(State {
                records,
                here,
                last: Found::new(),
                place: None,
                packed: BTreeMap::new(),
                begins_alone: Some(true),
                problems: BTreeMap::new(),
                is_unsaved: false,
            }),
            wake: Notify::new(),
            announced: watch::Sender::new(announced),
        }))
    }

    /// What to tell the mesh, now and whenever it changes.
    pub fn announced(&self) -> watch::Receiver<SharedReleases> {
        self.announced.subscribe()
    }

    /// Takes the mesh's word before the first look.
    pub fn join(&self, view: &View) {
        let knows =
            |releases: &SharedReleases, state| state == NodeState::Ready || !releases.is_empty();
        let is_alone = !view.others().any(|node| {
            let releases = node.releases.as_ref();
            releases.is_some_and(|releases| knows(releases, node.state))
        });
        self.change(|state| state.begins_alone = Some(is_alone));
        self.hear(view);
    }

    /// Takes what other nodes know.
    fn hear(&self, view: &View) {
        self.change(|state| {
            for (stream, shared) in view
                .others()
                .flat_map(|node| node.releases.iter().flatten())
            {
                if state.records.hear(stream, shared.revision) {
                    state.is_unsaved = true;
                }
            }
        });
    }

    /// Whether every release that is to run is here, or has no node that has it.
    pub fn has_caught_up(&self) -> bool {
        self.missing().is_empty()
    }

    fn missing(&self) -> Vec<ReleaseId> {
        let state = self.lock();
        let wanted = state.records.wanted().into_iter();
        wanted.filter(|it| !state.here.contains(it)).collect()
    }

    /// What this node knows of each stream.
    pub fn streams(&self) -> Vec<SharedStream> {
        let state = self.lock();
        let records = &state.records;
        let described = records.streams().map(|stream| {
            let revisions = records.revisions(stream);
            let known = revisions.iter().map(|revision| KnownRevision {
                revision: *revision,
                is_here: revision.release.is_some_and(|it| state.here.contains(&it)),
            });
            let current = revisions.first().and_then(|current| current.release);
            SharedStream {
                stream: stream.clone(),
                revisions: known.collect(),
                removed_here: records.is_removed_here(stream),
                shadowed: records.shadowed(stream).map(|why| why.to_string()),
                problem: current.and_then(|it| state.problems.get(&it).cloned()),
            }
        });
        let is_known = |it: &SharedStream| !it.revisions.is_empty() || it.shadowed.is_some();
        described.filter(is_known).collect()
    }

    /// Has the mesh run the release of an earlier revision again, which makes a new one.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn use_again(&self, stream: &StreamName, number: u64) -> Result<Revision, NoRevision> {
        self.change(|state| {
            let here = &state.here;
            let revision = state
                .records
                .use_again(stream, number, |release| here.contains(&release))?;
            state.is_unsaved = true;
            info!(event = "plugin-used-again", %stream, revision = revision.number, was = number, "the mesh goes back to an earlier release of a plugin");
            Ok(revision)
        })
    }

    /// Removes a stream from every node.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn remove(&self, stream: &StreamName) -> Result<Revision, NoRevision> {
        self.change(|state| {
            let revision = state.records.remove(stream)?;
            state.is_unsaved = true;
            info!(event = "plugin-removed-everywhere", %stream, revision = revision.number, "a plugin is removed from the mesh");
            Ok(revision)
        })
    }

    /// The bytes of a release from an offset on, for a peer. It may block.
    pub fn part(&self, release: ReleaseId, from: u64) -> Option<Bytes> {
        if !self.lock().here.contains(&release) {
            return None;
        }
        self.store.part(release, from).ok()
    }

    /// Changes what is known, and tells everybody whom that concerns.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let changed = change(&mut state);
        let announced = {
            let here = &state.here;
            state
                .records
                .announcement(|release| here.contains(&release))
        };
        let is_unsaved = state.is_unsaved;
        drop(state);
        let is_news = self.announced.send_if_modified(|known| {
            let is_news = *known != announced;
            *known = announced;
            is_news
        });
        if is_news {
            self.changed.notify_one();
        }
        if is_news || is_unsaved {
            self.wake.notify_one();
        }
        changed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The release that the file of a stream is. It reads the file.
    fn name_of_file(&self, stream: &StreamName) -> Option<ReleaseId> {
        let (_, files) = self.directory.read(stream.as_str(), true);
        release::pack(&files.ok()?).map(|(release, _)| release)
    }

    /// Reads the file of a stream, and keeps the release that it is.
    fn read_file(
        &self,
        stream: &StreamName,
        version: Version,
        signed: SignedTerms,
    ) -> (Option<Version>, Result<Files, ReadError>) {
        let (read, files) = self.directory.read(stream.as_str(), true);
        let mut files = match files {
            Ok(files) => files,
            Err(error) => return (read, Err(error)),
        };
        files.signed = signed;
        if read == Some(version)
            && let Some((release, bytes)) = release::pack(&files)
        {
            if let Err(error) = self.store.put(release, &bytes) {
                let text = format!("it cannot be kept for the mesh: {error}");
                let is_lasting = false;
                return (read, Err(ReadError { text, is_lasting }));
            }
            let mut state = self.lock();
            state.here.insert(release);
            state.packed.insert(stream.clone(), (version, release));
        }
        (read, Ok(files))
    }

    fn read_release(
        &self,
        revision: Revision,
        release: ReleaseId,
        signed: SignedTerms,
    ) -> Result<Files, ReadError> {
        let bytes = self.store.get(release).map_err(|error| {
            self.change(|state| state.here.remove(&release));
            ReadError {
                text: format!("{} cannot be read: {error}", origin(revision, release)),
                is_lasting: false,
            }
        })?;
        let mut files = release::unpack(&bytes, &origin(revision, release))?;
        files.signed = signed;
        Ok(files)
    }
}

/// What a release is called in texts.
fn origin(revision: Revision, release: ReleaseId) -> String {
    let name = release.to_string();
    format!("release {} (revision {})", &name[..12], revision.number)
}

/// The version of a release: it never changes.
fn version_of(release: ReleaseId) -> Version {
    let (id, _) = release.0.split_first_chunk().expect("32 bytes");
    Version {
        id: u64::from_ne_bytes(*id),
        has_manifest: false,
        is_whole: true,
    }
}

impl fmt::Display for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.directory.fmt(f)
    }
}

impl Source for Sharing {
    fn look(&self) -> io::Result<Found> {
        let place = self.directory.place()?;
        let found = self.directory.look()?;
        let mut streams = BTreeMap::new();
        let mut others = Found::new();
        for (name, version) in found {
            match StreamName::try_from(name.as_str()) {
                Ok(stream) => {
                    streams.insert(stream, version);
                }
                // That is told when it is loaded.
                Err(_) => {
                    others.insert(name, version);
                }
            }
        }
        // Files are read without the lock: a file system may hang.
        let (to_name, begins_alone, is_same_place) = {
            let state = self.lock();
            let is_same_place = state.place == Some(place);
            let begins_alone = state.begins_alone;
            let to_name = match begins_alone {
                Some(_) => streams.keys().cloned().collect(),
                None => state.records.to_name(&streams, is_same_place),
            };
            (to_name, begins_alone, is_same_place)
        };
        let names: BTreeMap<StreamName, ReleaseId> = to_name
            .into_iter()
            .filter_map(|stream| Some((stream.clone(), self.name_of_file(&stream)?)))
            .collect();
        let name = |stream: &StreamName| names.get(stream).copied();
        Ok(self.change(|state| {
            match begins_alone {
                Some(is_alone) => state.records.begin(&streams, is_alone, name),
                None => state.records.observe(&streams, is_same_place, name),
            }
            (state.begins_alone, state.place) = (None, Some(place));
            state.found(others)
        }))
    }

    fn read(&self, name: &str, signed: bool) -> (Option<Version>, Result<Files, ReadError>) {
        let Ok(stream) = StreamName::try_from(name) else {
            return self.directory.read(name, signed);
        };
        let (runs, last) = {
            let state = self.lock();
            (state.records.runs(&stream), state.records.signed(&stream))
        };
        let at_least = SignedTerms::AtLeast(last.unwrap_or_default());
        match runs {
            Runs::File(version) => self.read_file(&stream, version, at_least),
            Runs::Release(revision, release) => {
                // Who asks for an old one on purpose may have it.
                let signed = match revision.is_rollback {
                    true => SignedTerms::AtLeast(SignedVersions::default()),
                    false => at_least,
                };
                let files = self.read_release(revision, release, signed);
                (Some(version_of(release)), files)
            }
            Runs::Nothing => {
                let text = format!("the stream {name} does not run here any more");
                let is_lasting = false;
                (None, Err(ReadError { text, is_lasting }))
            }
        }
    }

    fn origin(&self, name: &str) -> String {
        let runs = StreamName::try_from(name)
            .map_or(Runs::Nothing, |stream| self.lock().records.runs(&stream));
        match runs {
            Runs::Release(revision, release) => origin(revision, release),
            Runs::File(_) | Runs::Nothing => self.directory.origin(name),
        }
    }

    fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }

    fn loaded(&self, name: &str, version: Version, result: Result<Option<SignedVersions>, &str>) {
        let Ok(stream) = StreamName::try_from(name) else {
            return;
        };
        self.change(|state| {
            let Ok(signed) = result else {
                state.records.failed(&stream, version);
                return;
            };
            let before = state.records.kept_of(&stream);
            state.records.ran(&stream, signed);
            if let Some((packed, release)) = state.packed.get(&stream)
                && *packed == version
                && let Some(revision) = state.records.loaded(&stream, version, *release)
            {
                info!(event = "plugin-released", %stream, revision = revision.number, %release, "the mesh gets this plugin");
            }
            state.is_unsaved |= before != state.records.kept_of(&stream);
        });
    }

    fn log(&self, event: SourceEvent<'_>) {
        self.directory.log(event);
    }
}

impl State {
    /// What is to run, for the reconciler.
    fn found(&mut self, mut found: Found) -> Found {
        for stream in self.records.streams() {
            let name = stream.as_str();
            let version = match self.records.runs(stream) {
                Runs::File(version) => Some(version),
                Runs::Release(_, release) if self.here.contains(&release) => {
                    Some(version_of(release))
                }
                Runs::Release(..) => self.last.get(name).copied(),
                Runs::Nothing => None,
            };
            found.extend(version.map(|version| (name.to_owned(), version)));
        }
        self.last.clone_from(&found);
        found
    }
}

/// Logs what keeps the records from being saved, once.
fn log_unsaved(error: &StoreError) {
    warn!(event = "plugins-not-saved", %error, "what the mesh shares cannot be kept here; it is tried again");
}
