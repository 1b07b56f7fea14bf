//! Stamps: detect that a file was written or replaced. Reads metadata from the file system, which
//! may hang.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::plugins::source::Version;

/// The state of a plugin's two files and of their signatures. It differs after any write or
/// replacement of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    component: FileStamp,
    manifest: Option<FileStamp>,
    signatures: [Option<FileStamp>; 2],
}

/// A hash of a file's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileStamp(u64);

impl Stamp {
    /// The stamp of a component and of the manifest beside it; `None` if there is no such file.
    /// Links are followed.
    pub(super) fn of(component: &Path) -> Option<Self> {
        let manifest = component.with_extension("toml");
        let signatures = [component, &manifest].map(|file| FileStamp::of(&signature_of(file)));
        // A directory with that name is not a manifest, but counts here, so that loading reports
        // it.
        Some(Self {
            component: FileStamp::of(component)?,
            manifest: FileStamp::of_any(&manifest),
            signatures,
        })
    }

    /// The stamp as a version, the form in which other modules see it.
    pub(super) fn version(&self) -> Version {
        let stamp =
            |stamp: Option<FileStamp>| [u64::from(stamp.is_some()), stamp.map_or(0, |it| it.0)];
        let [of_component, of_manifest] = self.signatures.map(stamp);
        let component = [1, self.component.0];
        let parts = [component, stamp(self.manifest), of_component, of_manifest];
        let bytes: Vec<u8> = parts
            .into_iter()
            .flatten()
            .flat_map(u64::to_ne_bytes)
            .collect();
        Version {
            id: xxh3_64(&bytes),
            has_manifest: self.manifest.is_some(),
            is_whole: false,
        }
    }
}

impl FileStamp {
    /// A file whose metadata cannot be read still exists: loading it fails with the reason.
    const UNREADABLE: Self = Self(0);

    fn of(file: &Path) -> Option<Self> {
        match fs::metadata(file) {
            Ok(metadata) if metadata.is_dir() => None,
            metadata => Self::made_of(metadata),
        }
    }

    /// The stamp of a file, or of a directory with its name.
    fn of_any(file: &Path) -> Option<Self> {
        Self::made_of(fs::metadata(file))
    }

    fn made_of(metadata: io::Result<fs::Metadata>) -> Option<Self> {
        match metadata {
            Ok(metadata) => Some(Self::hash(&metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(_) => Some(Self::UNREADABLE),
        }
    }

    /// The stamp of the entry with this name itself: links are not followed.
    pub(super) fn of_name(name: &Path) -> Option<Self> {
        fs::symlink_metadata(name)
            .ok()
            .map(|metadata| Self::hash(&metadata))
    }

    fn hash(metadata: &fs::Metadata) -> Self {
        let times = [
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        ];
        let numbers = [metadata.dev(), metadata.ino(), metadata.len()].map(u64::to_ne_bytes);
        let bytes = [numbers.concat(), times.map(i64::to_ne_bytes).concat()].concat();
        Self(xxh3_64(&bytes))
    }
}

/// The path of a file's signature, by minisign's convention: the file's name with `.minisig`
/// appended.
pub(super) fn signature_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

#[cfg(test)]
impl FileStamp {
    pub(super) fn test(bytes: u64) -> Self {
        Self(bytes)
    }
}
