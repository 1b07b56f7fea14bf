//! Scanning: which plugins there are in the directory, and by what their files can be told from what they
//! were before.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

/// What a directory holds: the file of each plugin by its name without `.wasm`, with its stamp. What is
/// hidden is not looked at: Kubernetes keeps its mounts there, and tools what they have not finished.
pub(super) type Found = BTreeMap<String, (PathBuf, Stamp)>;

/// The state of a plugin's two files, and of their signatures. When a file is written or replaced, however, its stamp differs.
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
    /// The stamp of a component and of the manifest beside it; `None` if there is no such file. Links are
    /// followed.
    pub(super) fn of(component: &Path) -> Option<Self> {
        let manifest = component.with_extension("toml");
        let signatures = [component, &manifest].map(|file| FileStamp::of(&signature_of(file)));
        Some(Self { component: FileStamp::of(component)?, manifest: FileStamp::of(&manifest), signatures })
    }

    pub(super) fn has_manifest(&self) -> bool {
        self.manifest.is_some()
    }
}

impl FileStamp {
    /// What cannot be looked at is there all the same: to load it fails, and says why.
    const UNREADABLE: Self = Self(0);

    fn of(file: &Path) -> Option<Self> {
        let metadata = match fs::metadata(file) {
            Ok(metadata) if metadata.is_dir() => return None,
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(_) => return Some(Self::UNREADABLE),
        };
        let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        let numbers = [metadata.dev(), metadata.ino(), metadata.len()].map(u64::to_ne_bytes);
        let bytes = [numbers.concat(), times.map(i64::to_ne_bytes).concat()].concat();
        Some(Self(xxh3_64(&bytes)))
    }
}

/// Where the signature of a file is, as minisign has it: beside it, with `.minisig` behind its name.
pub(super) fn signature_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

pub(super) fn scan(directory: &Path) -> io::Result<Found> {
    let mut found = Found::new();
    for entry in fs::read_dir(directory)? {
        let file = entry?.path();
        if file.extension() != Some(OsStr::new("wasm")) {
            continue;
        }
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        if let Some(stamp) = Stamp::of(&file) {
            found.insert(name, (file, stamp));
        }
    }
    Ok(found)
}

/// Which directory a path leads to: another one when it was replaced, or a link on the way was.
pub(super) fn identity(directory: &Path) -> Option<(u64, u64)> {
    fs::metadata(directory).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
impl Stamp {
    pub(super) fn test(bytes: u64) -> Self {
        Self { component: FileStamp(bytes), manifest: None, signatures: [None; 2] }
    }
}
