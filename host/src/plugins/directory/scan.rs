//! Scanning: finds the plugins in the directory with the stamps of their files, and files that seem
//! to be meant as plugins. The file system may hang, so this is only for blocking threads.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::stamp::{FileStamp, Stamp};
use super::strays::{self, Entries, EntryKind, Stray};

/// The contents of the directory. Hidden files are ignored: Kubernetes keeps its mounts there, and
/// tools their unfinished files.
pub struct Scan {
    /// The component of each plugin, with its stamp, by the file's name without `.wasm`.
    pub(super) plugins: BTreeMap<String, (PathBuf, Stamp)>,
    /// By name.
    pub strays: Vec<Stray>,
}

impl Scan {
    /// Scans a directory.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let (mut plugins, mut entries) = (BTreeMap::new(), Entries::new());
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !strays::is_meant(&name) {
                continue;
            }
            let target = EntryKind::of(&entry);
            if target == EntryKind::File
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

impl EntryKind {
    /// What a directory entry refers to. An entry that cannot be inspected counts as a file:
    /// loading it fails with the reason.
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
                // The link may be gone by now; then it is no plugin, and no stray either.
                fs::read_link(link).map_or(Self::File, Self::Nowhere)
            }
            _ => Self::File,
        }
    }
}

/// Identifies the directory that a path leads to: it changes if the directory, or a link on the
/// path, is replaced.
pub(super) fn identity(directory: &Path) -> Option<(u64, u64)> {
    fs::metadata(directory)
        .ok()
        .map(|metadata| (metadata.dev(), metadata.ino()))
}
