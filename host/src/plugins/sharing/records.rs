//! Which release of each stream is to run here: what the mesh knows, and what lies in the directory, in; decisions out. No
//! I/O and no clock.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::message::{ReleaseId, Revision, SharedRelease, SharedReleases, StreamName};
use crate::plugins::source::{SignedTerms, SignedVersions, Version};

/// Revisions that are kept of a stream: the current one, and those that can be used again.
const REVISIONS_MAX: usize = 4;

/// No mesh comes so far; it is what a JSON number can hold. A node that says more is not believed.
const NUMBER_MAX: u64 = 1 << 53;

/// Streams that are taken from other nodes.
const STREAMS_MAX: usize = 4096;

/// What a release is called by its beginning must be so long, or it is the number of a revision.
const NAME_LENGTH_MIN: usize = 8;

/// What is known of every stream.
#[derive(Default)]
pub(super) struct Records(BTreeMap<StreamName, Record>);

/// What outlives the process.
pub(super) type Kept = BTreeMap<StreamName, KeptRecord>;

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct KeptRecord {
    /// The current one, then those in whose place it came.
    pub(super) revisions: Vec<Revision>,
    /// The file of this node, as it last was.
    file: Option<FileName>,
    /// The revision whose file was removed here: the stream does not run on this node until there is a later one.
    removed_at: Option<u64>,
    /// The release that ran last.
    pub(super) ran: Option<ReleaseId>,
    /// What its signatures say.
    signed: Option<SignedVersions>,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileName {
    pub(super) release: ReleaseId,
    /// The SHA-256 of the component and its signature, without the manifest.
    pub(super) component: ReleaseId,
}

#[derive(Default)]
struct Record {
    kept: KeptRecord,
    file: Option<FoundFile>,
    /// The file could not be read as the node joined: it is not what somebody has put there since.
    is_unread: bool,
    /// Somebody has asked for the file, whatever it was before: it is tried until that says something.
    is_asked_for: bool,
    /// The release that runs, of those that have run since the node started.
    running: Option<ReleaseId>,
    /// The last revision whose release did not load.
    failed: Option<u64>,
    /// What ran last does not load, either.
    has_no_way_back: bool,
}

#[derive(Clone, Copy)]
struct FoundFile {
    version: Version,
    state: FileState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileState {
    /// Somebody has put it here: it runs, and becomes a revision if it is good.
    Dropped,
    /// It does not load; this revision was the current one then.
    Failed { at: u64 },
    /// It runs if it is what the current revision names.
    Known(FileName),
    /// It is no plugin, and the mesh knows better.
    Aside,
}

/// What a look finds a file to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Release(FileName),
    /// It cannot be read now.
    Unreadable,
    /// It can never be one: whoever loads it says why.
    Nothing,
}

/// What is to run here of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    File(Version),
    /// The release of a revision.
    Release(u64, ReleaseId),
    Nothing,
}

/// Why the file of a stream does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Shadowed {
    #[error("the mesh runs revision {0}")]
    Superseded(u64),
    #[error("the stream was removed from the mesh (revision {0})")]
    Removed(u64),
    #[error("the mesh did not know it when this node joined")]
    Unknown,
    #[error("it is no plugin, as `meshage-host check` says")]
    NoPlugin,
}

/// Why a revision cannot be used, or removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRevision {
    #[error("the mesh knows no stream {0}")]
    Stream(StreamName),
    #[error(
        "this node knows no revision or release {wanted:?} of the stream {stream}, but {known}; one that has run others may know them"
    )]
    Which {
        stream: StreamName,
        wanted: String,
        known: String,
    },
    #[error("this node has no file of the stream {0} that does not run already")]
    File(StreamName),
    #[error("this node does not have that release; a node has it that has run it")]
    NotHere,
    #[error("it is what the mesh runs (revision {0})")]
    Current(u64),
    #[error(
        "revision {0} is made, and cannot be kept on this node's disk, as its log says; it is tried again"
    )]
    NotKept(u64),
    #[error("the stream {0} is removed already")]
    Removed(StreamName),
    #[error("the stream {0} has as many revisions as can be counted")]
    Full(StreamName),
}

impl Records {
    pub(super) fn of(kept: Kept) -> Self {
        let record = |mut kept: KeptRecord| {
            kept.revisions.retain(|it| it.number <= NUMBER_MAX);
            Record {
                kept,
                ..Record::default()
            }
        };
        let records = kept
            .into_iter()
            .map(|(stream, kept)| (stream, record(kept)));
        Self(records.collect())
    }

    pub(super) fn kept(&self) -> Kept {
        let kept = self.0.iter();
        kept.map(|(stream, record)| (stream.clone(), record.kept.clone()))
            .collect()
    }

    /// The files whose names [`Self::begin`] and [`Self::observe`] need.
    pub(super) fn to_name(&self, files: &BTreeMap<StreamName, Version>) -> Vec<StreamName> {
        let is_new = |(stream, version): &(&StreamName, &Version)| {
            let file = self.0.get(*stream).and_then(|record| record.file);
            file.is_none_or(|file| file.version != **version)
        };
        let new = files.iter().filter(is_new);
        new.map(|(stream, _)| stream.clone()).collect()
    }

    /// Takes what lies in the directory as the node starts. `is_alone`: no other node knows better.
    pub(super) fn begin(
        &mut self,
        files: &BTreeMap<StreamName, Version>,
        is_alone: bool,
        name: impl Fn(&StreamName) -> Named,
    ) {
        for (stream, version) in files {
            let record = self.0.entry(stream.clone()).or_default();
            let has_run = record.current().is_some();
            let state = match name(stream) {
                Named::Release(name) if record.knows(name) || !is_alone => FileState::Known(name),
                Named::Nothing if has_run || !is_alone => FileState::Aside,
                Named::Nothing => FileState::Dropped,
                // What ran before runs first: the file may be broken. The next look finds it.
                Named::Release(_) if has_run => continue,
                Named::Release(_) => FileState::Dropped,
                Named::Unreadable => {
                    record.is_unread = !is_alone;
                    continue;
                }
            };
            record.found(*version, state);
        }
    }

    /// Takes what lies in the directory now. `is_same_place`: it is the same directory as at the last look, so that what
    /// is missing was removed.
    pub(super) fn observe(
        &mut self,
        files: &BTreeMap<StreamName, Version>,
        is_same_place: bool,
        name: impl Fn(&StreamName) -> Named,
    ) {
        for (stream, record) in &mut self.0 {
            if !files.contains_key(stream)
                && let Some(file) = record.file.take()
                && is_same_place
                && let (FileState::Known(name), Some(current)) = (file.state, record.current())
                && current.release == Some(name.release)
            {
                record.kept.removed_at = Some(current.number);
            }
        }
        for (stream, version) in files {
            let record = self.0.entry(stream.clone()).or_default();
            if record.file.is_some_and(|file| file.version == *version) {
                continue;
            }
            record.kept.removed_at = None;
            let state = match name(stream) {
                // It was touched, or is back from somewhere.
                Named::Release(_) if record.is_asked_for => FileState::Dropped,
                Named::Release(name) if record.knows(name) || record.is_unread => {
                    FileState::Known(name)
                }
                Named::Release(_) | Named::Nothing => FileState::Dropped,
                // The next look asks again.
                Named::Unreadable => continue,
            };
            record.is_unread = false;
            record.found(*version, state);
        }
    }

    /// What is to run of a stream.
    pub(super) fn runs(&self, stream: &StreamName, is_here: impl Fn(ReleaseId) -> bool) -> Runs {
        let Some(record) = self.0.get(stream) else {
            return Runs::Nothing;
        };
        let current = record.current();
        let number = current.map_or(0, |current| current.number);
        if let Some(file) = record.file {
            let is_meant = match file.state {
                FileState::Dropped => true,
                FileState::Failed { at } => at == number,
                FileState::Known(name) => {
                    current.is_some_and(|current| current.release == Some(name.release))
                }
                FileState::Aside => false,
            };
            if is_meant {
                return Runs::File(file.version);
            }
        }
        let is_removed = record.kept.removed_at.is_some_and(|at| at >= number);
        let Some(release) = current.and_then(|current| current.release) else {
            return Runs::Nothing;
        };
        if is_removed {
            return Runs::Nothing;
        }
        // After a start what ran last is better than nothing.
        let is_bad = record.failed == Some(number) || !is_here(release);
        match record.kept.ran.filter(|ran| is_here(*ran)) {
            Some(ran) if is_bad && record.running.is_none() && !record.has_no_way_back => {
                Runs::Release(number, ran)
            }
            _ => Runs::Release(number, release),
        }
    }

    /// What signatures must say of what is to run now.
    pub(super) fn signed_terms(
        &self,
        stream: &StreamName,
        release: Option<ReleaseId>,
    ) -> SignedTerms {
        let record = self.0.get(stream);
        let ran = record.and_then(|record| record.kept.ran);
        let last = record.and_then(|record| record.kept.signed);
        let is_asked_for = record.and_then(Record::current).is_some_and(|current| {
            current.is_rollback && release.is_some() && current.release == release
        });
        // Who asks for an old one on purpose may have it, and what ran is no older than itself.
        let may_be_any = is_asked_for || (release.is_some() && ran == release);
        SignedTerms::AtLeast(match last {
            Some(last) if !may_be_any => last,
            _ => SignedVersions::default(),
        })
    }

    pub(super) fn streams(&self) -> impl Iterator<Item = &StreamName> {
        self.0.keys()
    }

    /// Every release that may be asked for.
    pub(super) fn named(&self) -> impl Iterator<Item = ReleaseId> {
        self.0.values().flat_map(|record| record.kept.named())
    }

    /// The release that the file in this version is, if it is known.
    pub(super) fn file_of(&self, stream: &StreamName, version: Version) -> Option<ReleaseId> {
        let file = self.0.get(stream)?.file?;
        match file.state {
            FileState::Known(name) if file.version == version => Some(name.release),
            _ => None,
        }
    }

    /// The streams whose file is this release.
    pub(super) fn files_that_are(&self, release: ReleaseId) -> Vec<StreamName> {
        let is_it = |record: &Record| {
            let state = record.file.map(|file| file.state);
            matches!(state, Some(FileState::Known(name)) if name.release == release)
        };
        let streams = self.0.iter().filter(|(_, record)| is_it(record));
        streams.map(|(stream, _)| stream.clone()).collect()
    }

    /// A release runs: the file in this version, of this component, or what was fetched. Returns the revision that a file has become, if it is a
    /// new one.
    pub(super) fn loaded(
        &mut self,
        stream: &StreamName,
        file: Option<(Version, ReleaseId)>,
        release: ReleaseId,
        signed: Option<SignedVersions>,
    ) -> Option<Revision> {
        let record = self.0.get_mut(stream)?;
        record.running = Some(release);
        record.kept.ran = Some(release);
        record.kept.signed = signed.map(|signed| SignedVersions {
            // Leaving the manifest out makes older ones no newer.
            manifest: match (signed.manifest, record.kept.signed) {
                (0, Some(last)) => last.manifest,
                (manifest, _) => manifest,
            },
            ..signed
        });
        let (version, component) = file?;
        record.is_asked_for = false;
        let name = FileName { release, component };
        let mut was_known = false;
        // It may have gone, or another one may have come: this one has run, all the same.
        if let Some(file) = record.file.as_mut().filter(|it| it.version == version) {
            was_known = matches!(file.state, FileState::Known(_));
            file.state = FileState::Known(name);
        }
        record.kept.file = Some(name);
        let current = record.current();
        if was_known || current.is_some_and(|current| current.release == Some(release)) {
            return None;
        }
        record.next(Some(release), false)
    }

    /// The file in this version, or the release of this revision, does not load.
    pub(super) fn failed(&mut self, stream: &StreamName, what: Runs) {
        let Some(record) = self.0.get_mut(stream) else {
            return;
        };
        match what {
            Runs::File(version) => {
                record.is_asked_for = false;
                let at = record.current().map_or(0, |current| current.number);
                let file = record.file.as_mut();
                if let Some(file) = file.filter(|file| file.version == version)
                    && file.state == FileState::Dropped
                {
                    file.state = FileState::Failed { at };
                } else {
                    record.failed = Some(at);
                }
            }
            Runs::Release(number, release) => {
                let current = record.current();
                if current.is_some_and(|current| current.release == Some(release)) {
                    record.failed = Some(number);
                } else {
                    record.has_no_way_back = true;
                }
            }
            Runs::Nothing => {}
        }
    }

    /// Another node knows this revision.
    pub(super) fn hear(&mut self, stream: &StreamName, revision: Revision) {
        let is_known = self.0.contains_key(stream);
        if revision.number <= NUMBER_MAX && (is_known || self.0.len() < STREAMS_MAX) {
            self.0.entry(stream.clone()).or_default().insert(revision);
        }
    }

    /// The release of a kept revision, by its number or the beginning of the release's name.
    pub(super) fn find(&self, stream: &StreamName, wanted: &str) -> Result<ReleaseId, NoRevision> {
        let record = self.0.get(stream);
        let record = record.filter(|record| record.current().is_some());
        let record = record.ok_or_else(|| NoRevision::Stream(stream.clone()))?;
        let kept = || {
            let revisions = record.kept.revisions.iter();
            revisions.filter_map(|it| Some((it.number.to_string(), it.release?)))
        };
        let is_name = wanted.len() >= NAME_LENGTH_MIN;
        let found = kept().find(|(number, release)| {
            number == wanted || is_name && release.to_string().starts_with(wanted)
        });
        found.map(|(_, release)| release).ok_or_else(|| {
            let known = kept().map(|(number, release)| {
                let name = release.to_string();
                format!("{number} ({})", &name[..12])
            });
            NoRevision::Which {
                stream: stream.clone(),
                wanted: wanted.to_owned(),
                known: known.collect::<Vec<_>>().join(", "),
            }
        })
    }

    /// Makes a revision of a release that ran before, on purpose.
    pub(super) fn use_again(
        &mut self,
        stream: &StreamName,
        release: ReleaseId,
    ) -> Result<Revision, NoRevision> {
        let record = self.known(stream)?;
        let current = record.current();
        if let Some(current) = current.filter(|it| it.release == Some(release)) {
            return Err(NoRevision::Current(current.number));
        }
        record.kept.removed_at = None;
        let next = record.next(Some(release), true);
        next.ok_or_else(|| NoRevision::Full(stream.clone()))
    }

    /// Takes the file that lies here and does not run as one that was just dropped.
    pub(super) fn use_file(&mut self, stream: &StreamName) -> Result<(), NoRevision> {
        let none = || NoRevision::File(stream.clone());
        if self.shadowed(stream).is_none() {
            return Err(none());
        }
        let record = self.0.get_mut(stream).ok_or_else(none)?;
        let file = record.file.as_mut().ok_or_else(none)?;
        file.state = FileState::Dropped;
        record.is_asked_for = true;
        Ok(())
    }

    /// Removes a stream from the mesh.
    pub(super) fn remove(&mut self, stream: &StreamName) -> Result<Revision, NoRevision> {
        let record = self.known(stream)?;
        if record.current().is_some_and(|it| it.release.is_none()) {
            return Err(NoRevision::Removed(stream.clone()));
        }
        let next = record.next(None, false);
        next.ok_or_else(|| NoRevision::Full(stream.clone()))
    }

    fn known(&mut self, stream: &StreamName) -> Result<&mut Record, NoRevision> {
        let record = self.0.get_mut(stream);
        record
            .filter(|record| record.current().is_some())
            .ok_or_else(|| NoRevision::Stream(stream.clone()))
    }

    /// What to tell the mesh.
    pub(super) fn announcement(&self, is_here: impl Fn(ReleaseId) -> bool) -> SharedReleases {
        let shared = self.0.iter().filter_map(|(stream, record)| {
            let revision = record.current()?;
            let is_here = revision.release.is_some_and(&is_here);
            let runs = revision.release.is_some() && record.running == revision.release;
            let shared = SharedRelease {
                revision,
                is_here,
                runs: runs && !self.is_removed_here(stream),
            };
            Some((stream.clone(), shared))
        });
        shared.collect()
    }

    /// The current release of every stream that has one.
    pub(super) fn wanted(&self) -> BTreeSet<ReleaseId> {
        let current = self.0.values().filter_map(Record::current);
        current.filter_map(|current| current.release).collect()
    }

    pub(super) fn revisions(&self, stream: &StreamName) -> &[Revision] {
        self.0
            .get(stream)
            .map_or(&[], |record| &record.kept.revisions)
    }

    /// Whether the stream does not run here because its file was removed.
    pub(super) fn is_removed_here(&self, stream: &StreamName) -> bool {
        let record = self.0.get(stream);
        record.is_some_and(|record| {
            let number = record.current().map_or(0, |current| current.number);
            record.kept.removed_at.is_some_and(|at| at >= number)
        })
    }

    /// Why the file of a stream does not run, if there is one that does not.
    pub(super) fn shadowed(&self, stream: &StreamName) -> Option<Shadowed> {
        let record = self.0.get(stream)?;
        let release = match record.file?.state {
            FileState::Known(name) => name.release,
            FileState::Aside => return Some(Shadowed::NoPlugin),
            FileState::Dropped | FileState::Failed { .. } => return None,
        };
        let Some(current) = record.current() else {
            return Some(Shadowed::Unknown);
        };
        match current.release {
            Some(runs) if runs == release => None,
            None => Some(Shadowed::Removed(current.number)),
            Some(_) => Some(Shadowed::Superseded(current.number)),
        }
    }
}

impl KeptRecord {
    /// Every release that may be asked for.
    pub(super) fn named(&self) -> impl Iterator<Item = ReleaseId> {
        let revisions = self.revisions.iter();
        revisions
            .filter_map(|revision| revision.release)
            .chain(self.ran)
    }
}

impl Record {
    fn current(&self) -> Option<Revision> {
        self.kept.revisions.first().copied()
    }

    /// Whether a file is what runs, or what lay here before; a manifest that changes beside a component that does not run
    /// brings it to nobody.
    fn knows(&self, name: FileName) -> bool {
        let current = self.current().and_then(|current| current.release);
        let before = self.kept.file;
        let is_aside = before.is_some_and(|before| current != Some(before.release));
        current == Some(name.release)
            || before == Some(name)
            || is_aside && before.is_some_and(|before| before.component == name.component)
    }

    fn found(&mut self, version: Version, state: FileState) {
        self.file = Some(FoundFile { version, state });
        if let FileState::Known(name) = state {
            self.kept.file = Some(name);
        }
    }

    /// `None`: there is no higher number.
    fn next(&mut self, release: Option<ReleaseId>, is_rollback: bool) -> Option<Revision> {
        let number = self.current().map_or(0, |current| current.number) + 1;
        let revision = Revision {
            number,
            release,
            is_rollback,
        };
        (number <= NUMBER_MAX).then(|| {
            self.insert(revision);
            revision
        })
    }

    fn insert(&mut self, revision: Revision) {
        let revisions = &mut self.kept.revisions;
        let place = revisions.partition_point(|it| *it > revision);
        if place < REVISIONS_MAX && revisions.get(place) != Some(&revision) {
            revisions.insert(place, revision);
            revisions.truncate(REVISIONS_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ReleaseId = ReleaseId([0xa; 32]);
    const B: ReleaseId = ReleaseId([0xb; 32]);
    const C: ReleaseId = ReleaseId([0xc; 32]);

    fn echo() -> StreamName {
        "echo".try_into().unwrap()
    }

    fn version(id: u64) -> Version {
        Version {
            id,
            has_manifest: false,
            is_whole: false,
        }
    }

    fn file(id: u64) -> BTreeMap<StreamName, Version> {
        [(echo(), version(id))].into()
    }

    fn none() -> BTreeMap<StreamName, Version> {
        BTreeMap::new()
    }

    /// A file without a manifest.
    fn plain(release: ReleaseId) -> Named {
        let component = release;
        Named::Release(FileName { release, component })
    }

    fn is(release: ReleaseId) -> impl Fn(&StreamName) -> Named {
        move |_| plain(release)
    }

    fn nobody_asks(_: &StreamName) -> Named {
        panic!("the file need not be read")
    }

    fn revision(number: u64, release: ReleaseId) -> Revision {
        Revision {
            number,
            release: Some(release),
            is_rollback: false,
        }
    }

    /// What is to run, if every release is here.
    fn runs(records: &Records) -> Runs {
        records.runs(&echo(), |_| true)
    }

    fn load_file(records: &mut Records, id: u64, release: ReleaseId) -> Option<Revision> {
        records.loaded(&echo(), Some((version(id), release)), release, None)
    }

    /// A node whose file has become the first revision.
    fn with_a_file() -> Records {
        let mut records = Records::default();
        records.begin(&file(1), true, is(A));
        assert_eq!(runs(&records), Runs::File(version(1)));
        assert_eq!(load_file(&mut records, 1, A), Some(revision(1, A)));
        records
    }

    fn restarted(records: &Records) -> Records {
        let json = serde_json::to_string(&records.kept()).unwrap();
        Records::of(serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn a_good_file_is_the_next_revision_and_a_bad_one_none() {
        let mut records = with_a_file();
        records.observe(&file(2), true, |_| Named::Nothing);
        assert_eq!(runs(&records), Runs::File(version(2)));
        records.failed(&echo(), Runs::File(version(2)));
        // It is shown as failed, until somebody else has a better one.
        assert_eq!(runs(&records), Runs::File(version(2)));
        records.hear(&echo(), revision(2, B));
        assert_eq!(runs(&records), Runs::Release(2, B));
        records.observe(&file(3), true, is(C));
        assert_eq!(load_file(&mut records, 3, C), Some(revision(3, C)));
        // What was loaded in between is no news.
        assert_eq!(load_file(&mut records, 3, C), None);
    }

    #[test]
    fn what_has_run_is_a_revision_although_its_file_has_gone() {
        let mut records = with_a_file();
        records.observe(&file(2), true, is(B));
        records.observe(&none(), false, nobody_asks);
        assert_eq!(load_file(&mut records, 2, B), Some(revision(2, B)));
        assert_eq!(runs(&records), Runs::Release(2, B));
        // When it is back, it is known.
        records.observe(&file(2), false, is(B));
        assert_eq!(runs(&records), Runs::File(version(2)));
        assert_eq!(load_file(&mut records, 2, B), None);
    }

    #[test]
    fn a_file_that_is_only_touched_is_no_news() {
        let mut records = with_a_file();
        records.hear(&echo(), revision(2, B));
        for place_is_same in [true, false] {
            records.observe(&none(), place_is_same, nobody_asks);
            records.observe(&file(3), place_is_same, is(A));
            assert_eq!(runs(&records), Runs::Release(2, B));
            assert_eq!(records.shadowed(&echo()), Some(Shadowed::Superseded(2)));
        }
        // Nor is a manifest beside it.
        let component = A;
        let with_manifest = FileName {
            release: C,
            component,
        };
        records.observe(&file(4), true, |_| Named::Release(with_manifest));
        assert_eq!(runs(&records), Runs::Release(2, B));
        records.observe(&file(3), true, is(A));
        // But by somebody's word.
        records.use_file(&echo()).unwrap();
        assert_eq!(runs(&records), Runs::File(version(3)));
        records.observe(&file(5), true, is(A));
        assert_eq!(load_file(&mut records, 5, A), Some(revision(3, A)));
        let none = Err(NoRevision::File(echo()));
        assert_eq!(records.use_file(&echo()), none);
    }

    #[test]
    fn the_highest_revision_wins_in_whatever_order_they_come() {
        let all = [
            revision(1, C),
            revision(2, A),
            revision(2, B),
            revision(3, A),
        ];
        let mut orders = vec![all.to_vec(), all.iter().rev().copied().collect()];
        orders.push(vec![all[2], all[0], all[3], all[1]]);
        for order in orders {
            let mut records = Records::default();
            for revision in order.iter().chain(&order) {
                records.hear(&echo(), *revision);
            }
            let known = [all[3], all[2], all[1], all[0]];
            assert_eq!(records.revisions(&echo()), known);
            assert_eq!(runs(&records), Runs::Release(3, A));
            // Those that nobody can use any more are forgotten, and what nobody can have reached is not believed.
            records.hear(&echo(), revision(0, B));
            records.hear(&echo(), revision(u64::MAX, B));
            assert_eq!(records.revisions(&echo()), known);
            assert_eq!(records.named().collect::<BTreeSet<_>>().len(), 3);
        }
    }

    #[test]
    fn there_is_an_end_to_numbers_and_to_streams() {
        let mut records = Records::default();
        records.hear(&echo(), revision(NUMBER_MAX, A));
        assert_eq!(records.remove(&echo()), Err(NoRevision::Full(echo())));
        for number in 0..STREAMS_MAX {
            let stream = format!("s{number}").try_into().unwrap();
            records.hear(&stream, revision(1, A));
        }
        assert_eq!(records.streams().count(), STREAMS_MAX);
        records.hear(&echo(), revision(NUMBER_MAX, B));
        assert_eq!(runs(&records), Runs::Release(NUMBER_MAX, B));
    }

    #[test]
    fn who_joins_takes_the_meshs_word() {
        let mut records = Records::default();
        records.hear(&echo(), revision(7, B));
        let [other, bad, slow] = ["other", "bad", "slow"].map(|it| it.try_into().unwrap());
        let mut files = file(1);
        files.extend([&other, &bad, &slow].map(|it: &StreamName| (it.clone(), version(2))));
        let name = |stream: &StreamName| match stream.as_str() {
            "bad" => Named::Nothing,
            "slow" => Named::Unreadable,
            "other" => plain(C),
            _ => plain(A),
        };
        records.begin(&files, false, name);
        assert_eq!(records.to_name(&files), std::slice::from_ref(&slow));
        records.observe(&files, true, is(C));
        let shadowed = [
            (echo(), Shadowed::Superseded(7)),
            (other.clone(), Shadowed::Unknown),
            (bad, Shadowed::NoPlugin),
            (slow, Shadowed::Unknown),
        ];
        for (stream, why) in shadowed {
            assert_eq!(records.shadowed(&stream), Some(why), "{stream}");
        }
        assert_eq!(runs(&records), Runs::Release(7, B));
        assert_eq!(records.runs(&other, |_| true), Runs::Nothing);
        // Another one is meant for the mesh.
        files.insert(other.clone(), version(3));
        records.observe(&files, true, is(B));
        assert_eq!(records.runs(&other, |_| true), Runs::File(version(3)));
        let made = records.loaded(&other, Some((version(3), B)), B, None);
        assert_eq!(made, Some(revision(1, B)));
    }

    #[test]
    fn a_node_that_is_alone_runs_what_it_knows_and_then_what_is_new() {
        let mut records = restarted(&with_a_file());
        assert_eq!(runs(&records), Runs::Release(1, A));
        records.begin(&file(9), true, is(A));
        assert_eq!(runs(&records), Runs::File(version(9)));
        // Replaced while it was down.
        let mut records = restarted(&records);
        records.begin(&file(10), true, is(B));
        assert_eq!(runs(&records), Runs::Release(1, A));
        records.observe(&file(10), true, is(B));
        assert_eq!(runs(&records), Runs::File(version(10)));
        // Superseded while it was down: the file is the old one.
        let mut records = restarted(&with_a_file());
        records.hear(&echo(), revision(2, B));
        records.begin(&file(9), true, is(A));
        assert_eq!(runs(&records), Runs::Release(2, B));
        assert_eq!(records.shadowed(&echo()), Some(Shadowed::Superseded(2)));
    }

    #[test]
    fn after_a_start_what_ran_last_is_better_than_nothing() {
        let mut records = with_a_file();
        records.hear(&echo(), revision(2, B));
        let mut records = restarted(&records);
        records.begin(&none(), true, nobody_asks);
        let without_b = |records: &Records| records.runs(&echo(), |it| it != B);
        assert_eq!(without_b(&records), Runs::Release(2, A));
        assert_eq!(runs(&records), Runs::Release(2, B));
        records.failed(&echo(), Runs::Release(2, B));
        assert_eq!(runs(&records), Runs::Release(2, A));
        // It runs on while the newer one is tried, and shown as failed.
        records.loaded(&echo(), None, A, None);
        assert_eq!(runs(&records), Runs::Release(2, B));
        // What does not load any more is no way back, and no fault of a newer one.
        let mut records = restarted(&records);
        assert_eq!(without_b(&records), Runs::Release(2, A));
        records.failed(&echo(), Runs::Release(2, A));
        assert_eq!(without_b(&records), Runs::Release(2, B));
        assert_eq!(runs(&records), Runs::Release(2, B));
        records.failed(&echo(), Runs::Release(2, B));
        assert_eq!(runs(&records), Runs::Release(2, B));
    }

    #[test]
    fn a_file_that_is_removed_goes_from_this_node_alone() {
        let mut records = with_a_file();
        records.observe(&none(), true, nobody_asks);
        assert_eq!(runs(&records), Runs::Nothing);
        assert!(records.is_removed_here(&echo()));
        assert_eq!(records.revisions(&echo()), [revision(1, A)]);
        // For as long as the mesh has no other; over a restart, too.
        let mut records = restarted(&records);
        assert_eq!(runs(&records), Runs::Nothing);
        records.hear(&echo(), revision(2, B));
        assert_eq!(runs(&records), Runs::Release(2, B));
        // One that does not run anyway takes nothing along.
        records.observe(&file(3), true, is(A));
        records.observe(&none(), true, nobody_asks);
        assert_eq!(runs(&records), Runs::Release(2, B));
        // Nor does one that was broken, in place of one that ran.
        let mut records = with_a_file();
        records.observe(&none(), true, nobody_asks);
        records.observe(&file(2), true, |_| Named::Nothing);
        records.failed(&echo(), Runs::File(version(2)));
        records.observe(&none(), true, nobody_asks);
        assert_eq!(runs(&records), Runs::Release(1, A));
    }

    #[test]
    fn a_directory_that_is_away_removes_nothing_and_brings_nothing_back() {
        let mut records = with_a_file();
        records.observe(&none(), false, nobody_asks);
        assert_eq!(runs(&records), Runs::Release(1, A));
        records.hear(&echo(), revision(2, B));
        // It cannot be read at once.
        records.observe(&file(5), false, |_| Named::Unreadable);
        assert_eq!(records.to_name(&file(5)), [echo()]);
        records.observe(&file(5), true, is(A));
        assert_eq!(runs(&records), Runs::Release(2, B));
        // Another file has come with it.
        records.observe(&none(), false, nobody_asks);
        records.observe(&file(6), false, is(C));
        assert_eq!(runs(&records), Runs::File(version(6)));
    }

    #[test]
    fn an_earlier_release_is_used_again_and_a_stream_removed_on_purpose() {
        let mut records = with_a_file();
        let unknown: StreamName = "other".try_into().unwrap();
        let no_stream = Err(NoRevision::Stream(unknown.clone()));
        assert_eq!(records.remove(&unknown), no_stream);
        records.hear(&echo(), revision(2, B));
        let again = |records: &mut Records, wanted: &str| {
            let release = records.find(&echo(), wanted)?;
            records.use_again(&echo(), release)
        };
        assert_eq!(again(&mut records, "2"), Err(NoRevision::Current(2)));
        for wanted in ["5", "0", "0a0a", "", "a"] {
            let error = again(&mut records, wanted).unwrap_err().to_string();
            assert!(error.contains("2 (0b0b0b0b0b0b), 1 (0a0a"), "{error}");
        }
        let made = again(&mut records, "0a0a0a0a").unwrap();
        let expected = Revision {
            is_rollback: true,
            ..revision(3, A)
        };
        assert_eq!(made, expected);
        // The file of this node is that release.
        assert_eq!(runs(&records), Runs::File(version(1)));
        let made = records.remove(&echo()).unwrap();
        assert_eq!((made.number, made.release), (4, None));
        assert_eq!(runs(&records), Runs::Nothing);
        assert_eq!(records.shadowed(&echo()), Some(Shadowed::Removed(4)));
        assert_eq!(records.remove(&echo()), Err(NoRevision::Removed(echo())));
        records.use_file(&echo()).unwrap();
        assert_eq!(load_file(&mut records, 1, A), Some(revision(5, A)));
    }

    #[test]
    fn what_was_signed_earlier_runs_only_on_purpose() {
        let signed = |component, manifest| SignedVersions {
            component,
            manifest,
        };
        let terms = |records: &Records, release| match records.signed_terms(&echo(), release) {
            SignedTerms::AtLeast(least) => (least.component, least.manifest),
            SignedTerms::Any => panic!("they are asked for"),
        };
        let mut records = with_a_file();
        records.hear(&echo(), revision(2, B));
        records.loaded(&echo(), None, B, Some(signed(7, 5)));
        assert_eq!(terms(&records, None), (7, 5));
        assert_eq!(terms(&records, Some(A)), (7, 5));
        assert_eq!(terms(&records, Some(B)), (0, 0));
        // Without a manifest, the last one counts.
        records.loaded(&echo(), None, C, Some(signed(8, 0)));
        assert_eq!(terms(&records, None), (8, 5));
        records.use_again(&echo(), A).unwrap();
        assert_eq!(terms(&records, Some(A)), (0, 0));
        assert_eq!(terms(&records, Some(B)), (8, 5));
        records.loaded(&echo(), Some((version(1), A)), A, Some(signed(1, 1)));
        assert_eq!(terms(&records, None), (1, 1));
        assert_eq!(terms(&restarted(&records), None), (1, 1));
    }
}
