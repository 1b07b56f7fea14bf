//! The releases that this node has, as files in its data directory, which other nodes of the same host may use, too; and
//! what it knows of them, in a file of its own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use tracing::debug;

use super::records::{Kept, KeptRecord};
use super::release::name;
use crate::background::{read_to_end, steps};
use crate::message::{NodeId, RELEASE_PART_BYTES, ReleaseId};

/// A file that nobody names any more is deleted after this time: another node may be about to name it.
const KEPT_UNNAMED: Duration = Duration::from_secs(3600);

const RELEASE: &str = "release";
const RECORDS: &str = "json";
/// Files that are being written.
const UNFINISHED: &str = "unfinished";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{}: {} (what the mesh shares is kept there: --data-dir)", .0.display(), .1)]
    Io(PathBuf, io::Error),
    #[error("{} is not what this version of meshage writes: {}; remove it, and the node takes what the mesh says", .0.display(), .1)]
    Records(PathBuf, serde_json::Error),
}

pub(super) struct Store {
    folder: PathBuf,
    records: PathBuf,
}

/// The file of what a node knows.
#[derive(Serialize, Deserialize)]
struct RecordsFile<K> {
    streams: K,
}

impl Store {
    /// Opens the folder of a mesh, which is made if it is missing.
    pub(super) fn open(
        data_dir: &Path,
        cluster_id: &str,
        node_id: &NodeId,
    ) -> Result<(Self, Kept), StoreError> {
        // Ids of meshes may be any text.
        let mesh = name(cluster_id.as_bytes()).to_string();
        let folder = data_dir.join("shared-plugins").join(&mesh[..16]);
        fs::create_dir_all(&folder).map_err(|error| StoreError::Io(folder.clone(), error))?;
        let store = Self {
            records: folder.join(format!("{node_id}.{RECORDS}")),
            folder,
        };
        let kept = store.read_records(&store.records)?;
        Ok((store, kept))
    }

    fn read_records(&self, file: &Path) -> Result<Kept, StoreError> {
        match fs::read(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Kept::new()),
            Err(error) => Err(StoreError::Io(file.to_owned(), error)),
            Ok(bytes) => serde_json::from_slice::<RecordsFile<Kept>>(&bytes)
                .map(|file| file.streams)
                .map_err(|error| StoreError::Records(file.to_owned(), error)),
        }
    }

    /// Keeps what the node knows.
    pub(super) fn save(&self, streams: &Kept) -> Result<(), StoreError> {
        let json = serde_json::to_vec_pretty(&RecordsFile { streams })
            .expect("it is plain data, with names as keys");
        self.write(&self.records, &[json])
    }

    /// Keeps a release.
    pub(super) fn put(
        &self,
        release: ReleaseId,
        parts: &[impl AsRef<[u8]>],
    ) -> Result<(), StoreError> {
        let file = self.file(release);
        // A file of that name and length has that content: nothing else is ever written there.
        let length: usize = parts.iter().map(|part| part.as_ref().len()).sum();
        let is_there = fs::metadata(&file).is_ok_and(|it| it.len() == length as u64);
        if is_there {
            // A sweep by another node must not take it for one that nobody needs.
            let touch = File::open(&file).and_then(|it| it.set_modified(SystemTime::now()));
            return touch.map_err(|error| StoreError::Io(file, error));
        }
        self.write(&file, parts)
    }

    /// Writes a file so that it is there whole, or not at all, whatever dies.
    fn write(&self, file: &Path, parts: &[impl AsRef<[u8]>]) -> Result<(), StoreError> {
        let write = || -> io::Result<()> {
            // Somebody may have cleaned up.
            fs::create_dir_all(&self.folder)?;
            let mut unfinished = self.unfinished()?;
            let content = unfinished.as_file_mut();
            for step in parts.iter().flat_map(|part| steps(part.as_ref())) {
                content.write_all(step)?;
            }
            self.finish(unfinished, file)
        };
        write().map_err(|error| StoreError::Io(file.to_owned(), error))
    }

    fn unfinished(&self) -> io::Result<NamedTempFile> {
        let unfinished = tempfile::Builder::new()
            .suffix(&format!(".{UNFINISHED}"))
            .tempfile_in(&self.folder);
        // Its text has a name that is another one each time.
        unfinished.map_err(|error| error.kind().into())
    }

    fn finish(&self, unfinished: NamedTempFile, file: &Path) -> io::Result<()> {
        unfinished.as_file().sync_all()?;
        unfinished.persist(file)?;
        File::open(&self.folder)?.sync_all()
    }

    /// Whether a release is here.
    pub(super) fn has(&self, release: ReleaseId) -> bool {
        self.file(release).is_file()
    }

    /// The bytes of a release, if they are here and right; wrong ones are removed.
    pub(super) fn get(&self, release: ReleaseId) -> io::Result<Bytes> {
        let file = self.file(release);
        let content = File::open(&file)?;
        let length = content.metadata()?.len();
        let bytes = Bytes::from(read_to_end(content, length as usize)?);
        if name(&bytes) == release {
            return Ok(bytes);
        }
        fs::remove_file(&file)?;
        let text = format!("{} was damaged; it is fetched again", file.display());
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }

    /// A part of a release from an offset on.
    pub(super) fn part(&self, release: ReleaseId, from: u64) -> io::Result<Bytes> {
        let mut file = File::open(self.file(release))?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(RELEASE_PART_BYTES as u64)
            .read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }

    /// Deletes releases that no node of this host names, and what was never finished.
    pub(super) fn sweep(&self, own: &Kept) {
        if let Err(error) = self.try_sweep(own) {
            debug!(event = "releases-not-swept", %error, "releases that nobody needs stay");
        }
    }

    fn try_sweep(&self, own: &Kept) -> Result<(), StoreError> {
        let io_error = |error| StoreError::Io(self.folder.clone(), error);
        let files: Vec<PathBuf> = fs::read_dir(&self.folder)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .map_err(io_error)?;
        let has_suffix =
            |file: &&PathBuf, suffix: &str| file.extension().is_some_and(|it| it == suffix);
        let mut named: BTreeSet<ReleaseId> = names_in(own).collect();
        for records in files.iter().filter(|file| has_suffix(file, RECORDS)) {
            named.extend(names_in(&self.read_records(records)?));
        }
        let named: BTreeSet<PathBuf> = named.into_iter().map(|it| self.file(it)).collect();
        let is_old = |file: &Path| {
            let written = fs::metadata(file).and_then(|metadata| metadata.modified());
            let age = written.map(|written| SystemTime::now().duration_since(written));
            age.is_ok_and(|age| age.is_ok_and(|age| age > KEPT_UNNAMED))
        };
        for file in &files {
            let may_go = has_suffix(&file, UNFINISHED)
                || has_suffix(&file, RELEASE) && !named.contains(file);
            if may_go && is_old(file) {
                // Another node may have done it.
                let _ = fs::remove_file(file);
            }
        }
        Ok(())
    }

    fn file(&self, release: ReleaseId) -> PathBuf {
        self.folder.join(format!("{release}.{RELEASE}"))
    }
}

fn names_in(kept: &Kept) -> impl Iterator<Item = ReleaseId> + '_ {
    kept.values().flat_map(KeptRecord::named)
}
