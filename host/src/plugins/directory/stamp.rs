//! Stamps: by which a file that was written or replaced is told from what it was before. Asks the
//! file system, which may hang.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::plugins::source::Version;

/// The state of a plugin's two files, and of their signatures. When a file is written or replaced,
/// however, its stamp differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    component: FileStamp,
    manifest: Option<FileStamp>,
    signatures: [Option<FileStamp>; 2],
}

/// A hash of what the system says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileStamp(u64);

impl Stamp {
    /// The stamp of a component and of the manifest beside it; `None` if there is no such file.
    /// Links are followed.
    pub(super) fn of(component: &Path) -> Option<Self> {
        let manifest = component.with_extension("toml");
        let signatures = [component, &manifest].map(|file| FileStamp::of(&signature_of(file)));
        // A directory by that name is no manifest, but loading says so.
        Some(Self {
            component: FileStamp::of(component)?,
            manifest: FileStamp::of_any(&manifest),
            signatures,
        })
    }

    /// What it is outside of the directory.
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
        }
    }
}

impl FileStamp {
    /// What cannot be looked at is there all the same: to load it fails, and says why.
    const UNREADABLE: Self = Self(0);

    fn of(file: &Path) -> Option<Self> {
        match fs::metadata(file) {
            Ok(metadata) if metadata.is_dir() => None,
            metadata => Self::made_of(metadata),
        }
    }

    /// That of a file, or of a directory that has its name.
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

    /// The stamp of what is there by this name itself, be it a link or a directory.
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

/// Where the signature of a file is, as minisign has it: beside it, with `.minisig` behind its
/// name.
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
