//! Files for their owner alone.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A longer file is none of secrets.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    #[error("{} cannot be read: {}", .0.display(), .1)]
    Read(PathBuf, io::Error),
    #[error("{} can be read by others (mode {mode:03o}); keep it to its owner: `chmod 600 {}`", .file.display(), .file.display())]
    Readable { file: PathBuf, mode: u32 },
    #[error("{} has more than {FILE_BYTES_MAX} bytes, which is too much for secrets", .0.display())]
    TooLarge(PathBuf),
}

/// The lines of a file that have something to say, with their numbers: empty ones and those that begin with `#` do not.
pub(super) fn read_lines(file: &Path) -> Result<Vec<(usize, String)>, PrivateFileError> {
    let text = String::from_utf8(read(file, Besides::Nobody)?);
    let text = text.map_err(|_| PrivateFileError::Read(file.to_owned(), io::ErrorKind::InvalidData.into()))?;
    Ok(lines(&text))
}

/// Who beside its owner may read a file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Besides {
    Nobody,
    /// As is usual for the keys of certificates, which several services share.
    Group,
}

/// What is in a file that strangers cannot read.
pub(super) fn read(file: &Path, besides: Besides) -> Result<Vec<u8>, PrivateFileError> {
    let read_error = |error| PrivateFileError::Read(file.to_owned(), error);
    let opened = File::open(file).map_err(read_error)?;
    let mode = opened.metadata().map_err(read_error)?.permissions().mode() & 0o777;
    let strangers = match besides {
        Besides::Nobody => 0o077,
        Besides::Group => 0o007,
    };
    if mode & strangers != 0 {
        return Err(PrivateFileError::Readable { file: file.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(read_error)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(PrivateFileError::TooLarge(file.to_owned()));
    }
    Ok(bytes)
}

pub(super) fn lines(text: &str) -> Vec<(usize, String)> {
    let numbered = (1..).zip(text.lines().map(str::trim));
    numbered
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(n, line)| (n, line.to_owned()))
        .collect()
}
