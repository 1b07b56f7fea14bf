//! Which release of each stream is to run here: what the mesh knows, and what lies in the directory, in; decisions out. No
//! I/O and no clock.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::message::{ReleaseId, Revision, SharedRelease, SharedReleases, StreamName};
use crate::plugins::source::{SignedVersions, Version};

/// Revisions that are kept of a stream: the current one, and those that can be used again.
const REVISIONS_MAX: usize = 4;

/// No mesh comes so far; it is what a JSON number can hold. A node that says more is not believed.
const NUMBER_MAX: u64 = 1 << 53;

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
    file: Option<ReleaseId>,
    /// The revision whose file was removed here: the stream does not run on this node until there is a later one.
    removed_at: Option<u64>,
    /// What the signatures say of the release that ran last.
    signed: Option<SignedVersions>,
}

#[derive(Default)]
struct Record {
    kept: KeptRecord,
    file: Option<FoundFile>,
    /// The file is not here now, but nobody has removed it: its place is away, or this node has not looked yet.
    is_away: bool,
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
    Known(ReleaseId),
}

/// What is to run here of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    File(Version),
    Release(Revision, ReleaseId),
    Nothing,
}

/// Why the file of a stream does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Shadowed {
    #[error("the mesh runs revision {0}: copy the file again to make it the next one")]
    Superseded(u64),
    #[error(
        "the stream was removed from the mesh (revision {0}): copy the file again to bring it back"
    )]
    Removed(u64),
    #[error(
        "the mesh did not know this file when the node joined, and takes it from nobody who joins: copy it again to make it the mesh's"
    )]
    Unknown,
}

/// Why a revision cannot be used, or removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRevision {
    #[error("the mesh knows no stream {0}")]
    Stream(StreamName),
    #[error("the stream {0} has no revision {1} that is kept; there are {2}")]
    Number(StreamName, u64, String),
    #[error("this node does not have that release; a node has it that has run it")]
    NotHere,
    #[error("revision {0} is what the mesh runs")]
    Current(u64),
    #[error("the stream {0} is removed already")]
    Removed(StreamName),
}

impl Records {
    pub(super) fn of(kept: Kept) -> Self {
        let record = |kept| Record {
            kept,
            file: None,
            is_away: true,
        };
        Self(
            kept.into_iter()
                .map(|(stream, kept)| (stream, record(kept)))
                .collect(),
        )
    }

    pub(super) fn kept(&self) -> Kept {
        self.0
            .iter()
            .map(|(stream, record)| (stream.clone(), record.kept.clone()))
            .collect()
    }

    /// Takes what lies in the directory as the node starts. `is_alone`: no other node knows better.
    pub(super) fn begin(
        &mut self,
        files: &BTreeMap<StreamName, Version>,
        is_alone: bool,
        name: impl Fn(&StreamName) -> Option<ReleaseId>,
    ) {
        for (stream, version) in files {
            let record = self.0.entry(stream.clone()).or_default();
            record.is_away = false;
            let has_run = record.current().is_some();
            let state = match name(stream) {
                Some(release) if record.knows(release) || !is_alone => FileState::Known(release),
                // What ran before runs first: the file may be broken.
                Some(_) if has_run => continue,
                _ => FileState::Dropped,
            };
            record.file = Some(FoundFile {
                version: *version,
                state,
            });
            if let FileState::Known(release) = state {
                record.kept.file = Some(release);
            }
        }
    }

    /// Takes what lies in the directory now. `is_same_place`: it is the same directory as at the last look, so that what
    /// is missing was removed.
    pub(super) fn observe(
        &mut self,
        files: &BTreeMap<StreamName, Version>,
        is_same_place: bool,
        name: impl Fn(&StreamName) -> Option<ReleaseId>,
    ) {
        for (stream, record) in &mut self.0 {
            if !files.contains_key(stream)
                && let Some(file) = record.file.take()
            {
                record.is_away = !is_same_place;
                let current = record.current();
                if is_same_place
                    && let (FileState::Known(release), Some(current)) = (file.state, current)
                    && current.release == Some(release)
                {
                    record.kept.removed_at = Some(current.number);
                }
            }
        }
        for (stream, version) in files {
            let record = self.0.entry(stream.clone()).or_default();
            if record.file.is_some_and(|file| file.version == *version) {
                continue;
            }
            let is_back = std::mem::take(&mut record.is_away) || !is_same_place;
            let known = is_back.then(|| name(stream)).flatten();
            let state = match known.filter(|release| record.knows(*release)) {
                Some(release) => FileState::Known(release),
                None => FileState::Dropped,
            };
            record.file = Some(FoundFile {
                version: *version,
                state,
            });
        }
    }

    /// The files that [`Self::observe`] needs to know by name.
    pub(super) fn to_name(
        &self,
        files: &BTreeMap<StreamName, Version>,
        is_same_place: bool,
    ) -> Vec<StreamName> {
        let is_new = |stream: &StreamName, version: &Version| {
            let record = self.0.get(stream);
            let is_away = record.is_some_and(|record| record.is_away);
            let is_known = record
                .and_then(|record| record.file)
                .is_some_and(|file| file.version == *version);
            !is_known && (is_away || !is_same_place)
        };
        let new = files
            .iter()
            .filter(|(stream, version)| is_new(stream, version));
        new.map(|(stream, _)| stream.clone()).collect()
    }

    /// What is to run of a stream.
    pub(super) fn runs(&self, stream: &StreamName) -> Runs {
        let Some(record) = self.0.get(stream) else {
            return Runs::Nothing;
        };
        let current = record.current();
        let number = current.map_or(0, |current| current.number);
        if let Some(file) = record.file {
            let is_meant = match file.state {
                FileState::Dropped => true,
                FileState::Failed { at } => at == number,
                FileState::Known(release) => {
                    current.is_some_and(|current| current.release == Some(release))
                }
            };
            if is_meant {
                return Runs::File(file.version);
            }
        }
        let is_removed = record.kept.removed_at.is_some_and(|at| at >= number);
        match current {
            Some(revision) if !is_removed => match revision.release {
                Some(release) => Runs::Release(revision, release),
                None => Runs::Nothing,
            },
            _ => Runs::Nothing,
        }
    }

    /// Every release that a revision names.
    pub(super) fn named(&self) -> impl Iterator<Item = ReleaseId> {
        let revisions = self.0.values().flat_map(|record| &record.kept.revisions);
        revisions.filter_map(|revision| revision.release)
    }

    pub(super) fn kept_of(&self, stream: &StreamName) -> Option<KeptRecord> {
        self.0.get(stream).map(|record| record.kept.clone())
    }

    pub(super) fn streams(&self) -> impl Iterator<Item = &StreamName> {
        self.0.keys()
    }

    /// The file in this version has loaded, and is this release. Returns the revision that it has become, if it is a new one.
    pub(super) fn loaded(
        &mut self,
        stream: &StreamName,
        version: Version,
        release: ReleaseId,
    ) -> Option<Revision> {
        let record = self.0.get_mut(stream)?;
        let file = record
            .file
            .as_mut()
            .filter(|file| file.version == version)?;
        let was_dropped = !matches!(file.state, FileState::Known(_));
        file.state = FileState::Known(release);
        record.kept.file = Some(release);
        record.kept.removed_at = None;
        let current = record.current();
        if !was_dropped || current.is_some_and(|current| current.release == Some(release)) {
            return None;
        }
        Some(record.next(Some(release), false))
    }

    /// The file in this version does not load.
    pub(super) fn failed(&mut self, stream: &StreamName, version: Version) {
        if let Some(record) = self.0.get_mut(stream) {
            let at = record.current().map_or(0, |current| current.number);
            let file = record.file.as_mut();
            if let Some(file) = file.filter(|file| file.version == version)
                && file.state == FileState::Dropped
            {
                file.state = FileState::Failed { at };
            }
        }
    }

    /// What the signatures of a release say, once it runs.
    pub(super) fn ran(&mut self, stream: &StreamName, signed: Option<SignedVersions>) {
        if let Some(record) = self.0.get_mut(stream) {
            record.kept.signed = signed;
        }
    }

    /// What the signatures say of the release that ran last.
    pub(super) fn signed(&self, stream: &StreamName) -> Option<SignedVersions> {
        self.0.get(stream)?.kept.signed
    }

    /// Another node knows this revision. Returns whether that changes what is known here.
    pub(super) fn hear(&mut self, stream: &StreamName, revision: Revision) -> bool {
        revision.number <= NUMBER_MAX && self.0.entry(stream.clone()).or_default().insert(revision)
    }

    /// Makes a revision of a kept one, on purpose.
    pub(super) fn use_again(
        &mut self,
        stream: &StreamName,
        number: u64,
        is_here: impl Fn(ReleaseId) -> bool,
    ) -> Result<Revision, NoRevision> {
        let record = self.known(stream)?;
        let revisions = &record.kept.revisions;
        let wanted = revisions.iter().find(|it| it.number == number);
        let Some(release) = wanted.and_then(|it| it.release) else {
            let kept = revisions.iter().filter(|it| it.release.is_some());
            let kept: Vec<String> = kept.map(|it| it.number.to_string()).collect();
            return Err(NoRevision::Number(stream.clone(), number, kept.join(", ")));
        };
        let current = record.current();
        if let Some(current) = current.filter(|it| it.release == Some(release)) {
            return Err(NoRevision::Current(current.number));
        }
        if !is_here(release) {
            return Err(NoRevision::NotHere);
        }
        record.kept.removed_at = None;
        Ok(record.next(Some(release), true))
    }

    /// Removes a stream from the mesh.
    pub(super) fn remove(&mut self, stream: &StreamName) -> Result<Revision, NoRevision> {
        let record = self.known(stream)?;
        if record.current().is_some_and(|it| it.release.is_none()) {
            return Err(NoRevision::Removed(stream.clone()));
        }
        Ok(record.next(None, false))
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
            Some((stream.clone(), SharedRelease { revision, is_here }))
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
        let FileState::Known(release) = record.file?.state else {
            return None;
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

impl Record {
    fn current(&self) -> Option<Revision> {
        self.kept.revisions.first().copied()
    }

    /// Whether a file is what ran, or lay here, before.
    fn knows(&self, release: ReleaseId) -> bool {
        let current = self.current().and_then(|current| current.release);
        current == Some(release) || self.kept.file == Some(release)
    }

    fn next(&mut self, release: Option<ReleaseId>, is_rollback: bool) -> Revision {
        let number = self.current().map_or(0, |current| current.number) + 1;
        let revision = Revision {
            number,
            release,
            is_rollback,
        };
        self.insert(revision);
        revision
    }

    /// Returns whether it is news.
    fn insert(&mut self, revision: Revision) -> bool {
        let revisions = &mut self.kept.revisions;
        let place = revisions.partition_point(|it| *it > revision);
        if place >= REVISIONS_MAX || revisions.get(place) == Some(&revision) {
            return false;
        }
        revisions.insert(place, revision);
        revisions.truncate(REVISIONS_MAX);
        true
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

    fn revision(number: u64, release: ReleaseId) -> Revision {
        Revision {
            number,
            release: Some(release),
            is_rollback: false,
        }
    }

    fn runs(records: &Records) -> Runs {
        records.runs(&echo())
    }

    fn nobody_asks(_: &StreamName) -> Option<ReleaseId> {
        panic!("the file need not be read")
    }

    /// A node whose file has become the first revision.
    fn with_a_file() -> Records {
        let mut records = Records::default();
        records.begin(&file(1), true, |_| Some(A));
        assert_eq!(runs(&records), Runs::File(version(1)));
        let made = records.loaded(&echo(), version(1), A);
        assert_eq!(made, Some(revision(1, A)));
        records
    }

    fn restarted(records: &Records) -> Records {
        let json = serde_json::to_string(&records.kept()).unwrap();
        Records::of(serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn a_good_file_is_the_next_revision_and_a_bad_one_none() {
        let mut records = with_a_file();
        records.observe(&file(2), true, nobody_asks);
        assert_eq!(runs(&records), Runs::File(version(2)));
        records.failed(&echo(), version(2));
        // It is shown as failed, until somebody else has a better one.
        assert_eq!(runs(&records), Runs::File(version(2)));
        assert!(records.hear(&echo(), revision(2, B)));
        assert_eq!(runs(&records), Runs::Release(revision(2, B), B));
        records.observe(&file(3), true, nobody_asks);
        assert_eq!(records.loaded(&echo(), version(2), C), None);
        let made = records.loaded(&echo(), version(3), C);
        assert_eq!(made, Some(revision(3, C)));
        // What was loaded in between is no news.
        assert_eq!(records.loaded(&echo(), version(3), C), None);
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
            for revision in order {
                assert!(records.hear(&echo(), revision));
                assert!(!records.hear(&echo(), revision));
            }
            assert_eq!(records.revisions(&echo()), [all[3], all[2], all[1], all[0]]);
            assert_eq!(runs(&records), Runs::Release(all[3], A));
            // Those that nobody can use any more are forgotten.
            assert!(!records.hear(&echo(), revision(0, B)));
            assert!(!records.hear(&echo(), revision(u64::MAX, B)));
            assert_eq!(records.named().collect::<BTreeSet<_>>().len(), 3);
        }
    }

    #[test]
    fn who_joins_takes_the_meshs_word() {
        let mut records = Records::default();
        records.hear(&echo(), revision(7, B));
        let other: StreamName = "other".try_into().unwrap();
        let mut files = file(1);
        files.insert(other.clone(), version(2));
        records.begin(&files, false, |stream| {
            Some(if *stream == other { C } else { A })
        });
        assert_eq!(runs(&records), Runs::Release(revision(7, B), B));
        assert_eq!(records.runs(&other), Runs::Nothing);
        let shadowed = |stream| records.shadowed(stream);
        assert_eq!(shadowed(&echo()), Some(Shadowed::Superseded(7)));
        assert_eq!(shadowed(&other), Some(Shadowed::Unknown));
        // Copied again, it is the mesh's.
        files.insert(other.clone(), version(3));
        records.observe(&files, true, nobody_asks);
        assert_eq!(records.runs(&other), Runs::File(version(3)));
        let made = records.loaded(&other, version(3), C);
        assert_eq!(made, Some(revision(1, C)));
    }

    #[test]
    fn a_node_that_is_alone_runs_what_it_knows_and_then_what_is_new() {
        let mut records = restarted(&with_a_file());
        assert_eq!(runs(&records), Runs::Release(revision(1, A), A));
        records.begin(&file(9), true, |_| Some(A));
        assert_eq!(runs(&records), Runs::File(version(9)));
        // Replaced while it was down.
        let mut records = restarted(&records);
        records.begin(&file(10), true, |_| Some(B));
        assert_eq!(runs(&records), Runs::Release(revision(1, A), A));
        records.observe(&file(10), true, nobody_asks);
        assert_eq!(runs(&records), Runs::File(version(10)));
        // Superseded while it was down: the file is the old one.
        let mut records = restarted(&with_a_file());
        records.hear(&echo(), revision(2, B));
        records.begin(&file(9), true, |_| Some(A));
        assert_eq!(runs(&records), Runs::Release(revision(2, B), B));
        assert_eq!(records.shadowed(&echo()), Some(Shadowed::Superseded(2)));
    }

    #[test]
    fn a_file_that_is_removed_goes_from_this_node_alone() {
        let mut records = with_a_file();
        records.observe(&BTreeMap::new(), true, nobody_asks);
        assert_eq!(runs(&records), Runs::Nothing);
        assert!(records.is_removed_here(&echo()));
        assert_eq!(records.revisions(&echo()), [revision(1, A)]);
        // For as long as the mesh has no other; over a restart, too.
        let mut records = restarted(&records);
        assert_eq!(runs(&records), Runs::Nothing);
        records.hear(&echo(), revision(2, B));
        assert_eq!(runs(&records), Runs::Release(revision(2, B), B));
        // One that does not run anyway takes nothing along.
        records.observe(&file(3), true, |_| Some(A));
        records.observe(&BTreeMap::new(), true, nobody_asks);
        assert_eq!(runs(&records), Runs::Release(revision(2, B), B));
    }

    #[test]
    fn a_directory_that_is_away_removes_nothing_and_brings_nothing_back() {
        let mut records = with_a_file();
        records.observe(&BTreeMap::new(), false, nobody_asks);
        assert_eq!(runs(&records), Runs::Release(revision(1, A), A));
        records.hear(&echo(), revision(2, B));
        assert_eq!(records.to_name(&file(5), false), [echo()]);
        records.observe(&file(5), false, |_| Some(A));
        assert_eq!(runs(&records), Runs::Release(revision(2, B), B));
        // Another file has come with it.
        records.observe(&BTreeMap::new(), false, nobody_asks);
        records.observe(&file(6), false, |_| Some(C));
        assert_eq!(runs(&records), Runs::File(version(6)));
    }

    #[test]
    fn an_earlier_release_is_used_again_and_a_stream_removed_on_purpose() {
        let mut records = with_a_file();
        let unknown = "other".try_into().unwrap();
        assert!(matches!(
            records.remove(&unknown),
            Err(NoRevision::Stream(_))
        ));
        records.hear(&echo(), revision(2, B));
        let again = |records: &mut Records, number, is_here| {
            records.use_again(&echo(), number, |_| is_here)
        };
        assert_eq!(again(&mut records, 2, true), Err(NoRevision::Current(2)));
        assert_eq!(again(&mut records, 1, false), Err(NoRevision::NotHere));
        assert!(matches!(
            again(&mut records, 5, true),
            Err(NoRevision::Number(_, 5, kept)) if kept == "2, 1"
        ));
        let made = again(&mut records, 1, true).unwrap();
        assert_eq!(
            (made.number, made.release, made.is_rollback),
            (3, Some(A), true)
        );
        // The file of this node is that release.
        assert_eq!(runs(&records), Runs::File(version(1)));
        let made = records.remove(&echo()).unwrap();
        assert_eq!((made.number, made.release), (4, None));
        assert_eq!(runs(&records), Runs::Nothing);
        assert_eq!(records.shadowed(&echo()), Some(Shadowed::Removed(4)));
        assert!(matches!(
            records.remove(&echo()),
            Err(NoRevision::Removed(_))
        ));
        // Copied again, it is back.
        records.observe(&file(2), true, nobody_asks);
        let made = records.loaded(&echo(), version(2), A);
        assert_eq!(made, Some(revision(5, A)));
    }
}
