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
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::directory::Directory;
use super::source::{Files, Found, ReadError, SignedVersions, Source, SourceEvent, Version};
use crate::membership::{NodeState, View};
use crate::message::{NodeId, ReleaseId, Revision, SharedReleases, StreamName};
use records::{FileName, Named, Records, Runs};
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
    /// Held while what is known is saved: an older state must not come after a newer one.
    saving: tokio::sync::Mutex<()>,
}

struct State {
    records: Records,
    /// The releases that are in the store.
    here: BTreeSet<ReleaseId>,
    /// What the last look found, and what that is: a release that is still on its way takes away nothing.
    shown: BTreeMap<StreamName, (Version, Runs)>,
    /// The directory of the last look.
    place: Option<(u64, u64)>,
    /// What the file of a stream was when it was read: it is kept once it has loaded.
    packed: BTreeMap<StreamName, Packed>,
    /// Files that have loaded, and are to be kept.
    to_keep: BTreeMap<StreamName, (Packed, Option<SignedVersions>)>,
    stage: Stage,
    /// Why a release could not be fetched.
    problems: BTreeMap<ReleaseId, String>,
    is_unsaved: bool,
}

/// The file of a stream, in one version, as a release.
#[derive(Clone)]
struct Packed {
    version: Version,
    name: FileName,
    parts: Vec<Bytes>,
}

/// Before the first look a node takes the mesh's word, if there is one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begins { is_alone: bool },
    Follows,
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
                shown: BTreeMap::new(),
                place: None,
                packed: BTreeMap::new(),
                to_keep: BTreeMap::new(),
                stage: Stage::Begins { is_alone: true },
                problems: BTreeMap::new(),
                is_unsaved: false,
            }),
            wake: Notify::new(),
            announced: watch::Sender::new(announced),
            saving: tokio::sync::Mutex::default(),
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
        self.change(|state| state.stage = Stage::Begins { is_alone });
        self.hear(view);
    }

    /// Takes what other nodes know.
    fn hear(&self, view: &View) {
        self.change(|state| {
            for (stream, shared) in view
                .others()
                .flat_map(|node| node.releases.iter().flatten())
            {
                state.records.hear(stream, shared.revision);
            }
        });
    }

    /// Whether every release that is to run, and that any live node has, is here.
    pub fn has_caught_up(&self, view: &View) -> bool {
        let missing = self.missing();
        missing
            .iter()
            .all(|it| fetch::holders(view, *it).is_empty())
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
                problem: current
                    .filter(|it| !state.here.contains(it))
                    .and_then(|it| state.problems.get(&it).cloned()),
            }
        });
        let is_known = |it: &SharedStream| !it.revisions.is_empty() || it.shadowed.is_some();
        described.filter(is_known).collect()
    }

    /// Has the mesh run the release of an earlier revision again, which makes a new one. `wanted` is the number of that
    /// revision, or the beginning of the release's name.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn use_again(
        self: &Arc<Self>,
        stream: &StreamName,
        wanted: &str,
    ) -> Result<Revision, NoRevision> {
        let release = self.lock().records.find(stream, wanted)?;
        let sharing = self.clone();
        // Others will ask for it: it has to be here, and right.
        let is_here = spawn_blocking(move || match sharing.store.get(release) {
            Ok(_) => true,
            Err(error) => {
                sharing.lost(release, &error);
                false
            }
        });
        if !is_here.await.unwrap_or_default() {
            return Err(NoRevision::NotHere);
        }
        let revision = self.change(|state| {
            state.here.insert(release);
            state.records.use_again(stream, release)
        })?;
        self.acknowledge(revision).await?;
        info!(event = "plugin-used-again", %stream, revision = revision.number, %release, "the mesh goes back to an earlier release of a plugin");
        Ok(revision)
    }

    /// Has the mesh run the file in this node's directory that does not run, as if it had just been put there.
    ///
    /// # Errors
    /// If there is none.
    pub fn use_file(&self, stream: &StreamName) -> Result<(), NoRevision> {
        self.change(|state| state.records.use_file(stream))?;
        self.changed.notify_one();
        Ok(())
    }

    /// Removes a stream from every node.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn remove(self: &Arc<Self>, stream: &StreamName) -> Result<Revision, NoRevision> {
        let revision = self.change(|state| state.records.remove(stream))?;
        self.acknowledge(revision).await?;
        info!(event = "plugin-removed-everywhere", %stream, revision = revision.number, "a plugin is removed from the mesh");
        Ok(revision)
    }

    /// Waits until what somebody has asked for is on disk, so that it is there whatever dies.
    async fn acknowledge(self: &Arc<Self>, revision: Revision) -> Result<(), NoRevision> {
        match self.save(&mut String::new()).await {
            true => Ok(()),
            false => Err(NoRevision::NotKept(revision.number)),
        }
    }

    /// The bytes of a release from an offset on, for a peer. It may block.
    pub fn part(&self, release: ReleaseId, from: u64) -> Option<Bytes> {
        if !self.lock().here.contains(&release) {
            return None;
        }
        match self.store.part(release, from) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.lost(release, &error);
                None
            }
        }
    }

    /// A release that is thought to be here cannot be read: if its file is gone, it is fetched again.
    fn lost(&self, release: ReleaseId, error: &io::Error) {
        if matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::InvalidData
        ) {
            self.change(|state| state.here.remove(&release));
        }
    }

    /// Changes what is known, and tells everybody whom that concerns.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let before = state.records.kept();
        let changed = change(&mut state);
        let is_changed = before != state.records.kept();
        state.is_unsaved |= is_changed;
        drop(state);
        // Made under the channel's lock, so that the last one is of the last change.
        let is_news = self.announced.send_if_modified(|known| {
            let state = self.lock();
            let here = &state.here;
            let announced = state.records.announcement(|it| here.contains(&it));
            drop(state);
            let is_news = *known != announced;
            *known = announced;
            is_news
        });
        if is_news {
            self.changed.notify_one();
        }
        if is_news || is_changed {
            self.wake.notify_one();
        }
        changed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the file of a stream is. It reads the file.
    fn name_of_file(&self, stream: &StreamName) -> Named {
        let (_, files) = self.directory.read(stream.as_str(), true);
        let named = match files {
            Ok(files) => release::pack(&files).map_err(|error| error.is_lasting),
            Err(error) => Err(error.is_lasting),
        };
        match named {
            Ok((name, _)) => Named::Release(name),
            Err(true) => Named::Nothing,
            Err(false) => Named::Unreadable,
        }
    }

    /// Reads the file of a stream, and remembers the release that it is.
    fn read_file(
        &self,
        stream: &StreamName,
        version: Version,
    ) -> (Option<Version>, Result<Files, ReadError>) {
        let (read, files) = self.directory.read(stream.as_str(), true);
        let files = files.map(|mut files| {
            // What is wrong with a manifest is told by whoever loads it.
            let packed = release::pack(&files).ok();
            let packed = packed.filter(|_| read == Some(version));
            let release = packed.as_ref().map(|(name, _)| name.release);
            let mut state = self.lock();
            if let Some((name, parts)) = packed {
                let packed = Packed {
                    version,
                    name,
                    parts,
                };
                state.packed.insert(stream.clone(), packed);
            }
            // A file that is dropped is not what the mesh was asked to go back to.
            let known = state.records.file_of(stream, version);
            let known = known.filter(|known| Some(*known) == release);
            files.signed = state.records.signed_terms(stream, known);
            files
        });
        (read, files)
    }

    fn read_release(
        &self,
        stream: &StreamName,
        number: u64,
        release: ReleaseId,
    ) -> Result<Files, ReadError> {
        let origin = origin(number, release);
        let bytes = self.store.get(release).map_err(|error| {
            self.lost(release, &error);
            ReadError {
                text: format!("{origin} cannot be read: {error}"),
                is_lasting: false,
            }
        })?;
        let mut files = release::unpack(&bytes, &origin)?;
        files.signed = self.lock().records.signed_terms(stream, Some(release));
        Ok(files)
    }

    /// Puts a release into the store again, if a file of this node is it, or finds it there. It may block.
    fn restore(&self, release: ReleaseId) -> bool {
        let streams = self.lock().records.files_that_are(release);
        let is_here = self.store.has(release)
            || streams.iter().any(|stream| {
                let (_, files) = self.directory.read(stream.as_str(), true);
                let packed = files.ok().and_then(|files| release::pack(&files).ok());
                packed.is_some_and(|(name, parts)| {
                    name.release == release && self.store.put(release, &parts).is_ok()
                })
            });
        if is_here {
            self.change(|state| state.here.insert(release));
        }
        is_here
    }
}

/// What a release is called in texts.
fn origin(number: u64, release: ReleaseId) -> String {
    let name = release.to_string();
    format!("release {} (revision {number})", &name[..12])
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
        let before = self.directory.place()?;
        let found = self.directory.look()?;
        let place = self.directory.place()?;
        let (mut streams, mut others) = (BTreeMap::new(), Found::new());
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
        let (to_name, stage, is_same_place) = {
            let state = self.lock();
            let is_same_place = state.place == Some(place) && before == place;
            (state.records.to_name(&streams), state.stage, is_same_place)
        };
        // Files are read without the lock: a file system may hang.
        let name = |stream: StreamName| (stream.clone(), self.name_of_file(&stream));
        let names: BTreeMap<StreamName, Named> = to_name.into_iter().map(name).collect();
        let name = |stream: &StreamName| names.get(stream).copied().unwrap_or(Named::Unreadable);
        let found = self.change(|state| {
            match stage {
                Stage::Begins { is_alone } => state.records.begin(&streams, is_alone, name),
                Stage::Follows => state.records.observe(&streams, is_same_place, name),
            }
            (state.stage, state.place) = (Stage::Follows, Some(place));
            state.found(others)
        });
        let state = self.lock();
        for stream in names.keys() {
            if let Some(because) = state.records.shadowed(stream) {
                let file = self.directory.origin(stream.as_str());
                warn!(event = "plugin-file-unused", %file, %because, "a file in the plugins directory does not run; `meshage-host plugins use` has the mesh run it");
            }
        }
        Ok(found)
    }

    fn read(&self, name: &str, signed: bool) -> (Option<Version>, Result<Files, ReadError>) {
        let Ok(stream) = StreamName::try_from(name) else {
            return self.directory.read(name, signed);
        };
        let shown = self.lock().shown.get(&stream).copied();
        match shown {
            Some((version, Runs::Release(number, release))) => {
                let files = self.read_release(&stream, number, release);
                (Some(version), files)
            }
            Some((version, Runs::File(_))) => self.read_file(&stream, version),
            Some((_, Runs::Nothing)) | None => {
                let text = format!("the stream {name} does not run here any more");
                let is_lasting = false;
                (None, Err(ReadError { text, is_lasting }))
            }
        }
    }

    fn origin(&self, name: &str) -> String {
        let shown = StreamName::try_from(name).ok();
        let shown = shown.and_then(|stream| self.lock().shown.get(&stream).copied());
        match shown {
            Some((_, Runs::Release(number, release))) => origin(number, release),
            _ => self.directory.origin(name),
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
            let packed = state.packed.remove(&stream);
            // It may have been replaced since.
            let shown = state.shown.get(&stream).copied();
            let Some((_, what)) = shown.filter(|it| it.0 == version) else {
                return;
            };
            match (result, what) {
                (Err(_), _) => state.records.failed(&stream, what),
                (Ok(signed), Runs::File(version)) => {
                    let Some(packed) = packed.filter(|packed| packed.version == version) else {
                        return;
                    };
                    let FileName { release, component } = packed.name;
                    if state.records.file_of(&stream, version) == Some(release) {
                        let file = Some((version, component));
                        state.records.loaded(&stream, file, release, signed);
                    } else {
                        // Before it is the mesh's, it is kept.
                        state.to_keep.insert(stream, (packed, signed));
                    }
                }
                (Ok(signed), Runs::Release(_, release)) => {
                    state.records.loaded(&stream, None, release, signed);
                }
                (Ok(_), Runs::Nothing) => {}
            }
        });
        // What is to run may be another one now, and what has loaded is to be kept.
        self.changed.notify_one();
        self.wake.notify_one();
    }

    fn log(&self, event: SourceEvent<'_>) {
        self.directory.log(event);
    }
}

impl State {
    /// What is to run, for the reconciler.
    fn found(&mut self, mut found: Found) -> Found {
        let here = &self.here;
        let is_here = |release: ReleaseId| here.contains(&release);
        let mut shown = BTreeMap::new();
        for stream in self.records.streams() {
            let what = self.records.runs(stream, is_here);
            let now = match what {
                Runs::File(version) => Some((version, what)),
                Runs::Release(_, release) if is_here(release) => Some((version_of(release), what)),
                Runs::Release(..) => self.shown.get(stream).copied(),
                Runs::Nothing => None,
            };
            if let Some(now) = now {
                found.insert(stream.as_str().to_owned(), now.0);
                shown.insert(stream.clone(), now);
            }
        }
        self.shown = shown;
        found
    }
}
