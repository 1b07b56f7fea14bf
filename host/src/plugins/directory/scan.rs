//! Scanning: which plugins there are in the directory, by what their files can be told from what
//! they were before, and what else has been meant for them. It asks the file system, which may
//! hang: only for threads that may wait.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::strays::{self, Entries, Stray, Target};
use crate::plugins::source::Version;

/// What a directory holds. What is hidden is not looked at: Kubernetes keeps its mounts there, and
/// tools what they have not finished.
pub struct Scan {
    /// The component of each, with its stamp, by the file's name without `.wasm`.
    pub(super) plugins: BTreeMap<String, (PathBuf, Stamp)>,
    /// By name.
    pub strays: Vec<Stray>,
}

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

impl Scan {
    /// Looks at a directory.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let (mut plugins, mut entries) = (BTreeMap::new(), Entries::new());
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !strays::is_meant(&name) {
                continue;
            }
            let target = Target::of(&entry);
            if target == Target::File
                && let Some(stem) = name.strip_suffix(".wasm")
                && let Some(stamp) = Stamp::of(&entry.path())
            {
                plugins.insert(stem.to_owned(), (entry.path(), stamp));
            }
            entries.insert(name, target);
        }
        let strays = strays::find(&entries)
            .into_iter()
            .filter_map(|(name, unused)| {
                let stamp = FileStamp::of_name(&directory.join(&name))?;
                Some(Stray {
                    name,
                    unused,
                    stamp,
                })
            });
        Ok(Self {
            plugins,
            strays: strays.collect(),
        })
    }

    /// The components, by name.
    pub fn components(&self) -> impl Iterator<Item = &Path> {
        self.plugins.values().map(|(file, _)| file.as_path())
    }
}

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
    fn of_name(name: &Path) -> Option<Self> {
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

impl Target {
    /// Where a name leads. What cannot be looked at is taken for a file: to load it fails, and says
    /// why.
    fn of(entry: &fs::DirEntry) -> Self {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => Self::Directory,
            Ok(kind) if kind.is_symlink() => Self::of_link(&entry.path()),
            _ => Self::File,
        }
    }

    fn of_link(link: &Path) -> Self {
        match fs::metadata(link) {
            Ok(metadata) if metadata.is_dir() => Self::Directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // It may be gone by now; then it is no plugin, and no stray either.
                fs::read_link(link).map_or(Self::File, Self::Nowhere)
            }
            _ => Self::File,
        }
    }
}

/// Where the signature of a file is, as minisign has it: beside it, with `.minisig` behind its
/// name.
pub(super) fn signature_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

/// Which directory a path leads to: another one when it was replaced, or a link on the way was.
pub(super) fn identity(directory: &Path) -> Option<(u64, u64)> {
    fs::metadata(directory)
        .ok()
        .map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
impl FileStamp {
    pub(super) fn test(bytes: u64) -> Self {
        Self(bytes)
    }
}
