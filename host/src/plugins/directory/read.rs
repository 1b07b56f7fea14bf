//! Reading the files of one plugin. Reads only regular files of limited size: anything else may
//! never end.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::stamp::signature_of;
use crate::background::read_to_end;
use crate::plugins::source::{File, Files, ReadError, Signature, SignatureContent, SignedTerms};
use crate::runtime::{COMPONENT_BYTES_MAX, LoadError};

/// The largest manifest; a longer file is an error.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// The largest signature; a longer file is an error.
const SIGNATURE_BYTES_MAX: u64 = 4 << 10;

#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("{} cannot be read: {}", .0.display(), .1)]
    Read(PathBuf, io::Error),
    #[error("{} is no regular file; a plugin is one, or a link to one", .0.display())]
    NotAFile(PathBuf),
    #[error("{}: {}", .0.display(), LoadError::TooLarge { bytes: *.1 })]
    ComponentSize(PathBuf, u64),
    #[error("{} has {bytes} bytes; the limit of a manifest is {MANIFEST_BYTES_MAX}", .file.display())]
    ManifestSize { file: PathBuf, bytes: u64 },
    #[error("it is too long")]
    TooLong,
}

impl FileError {
    fn is_not_found(&self) -> bool {
        matches!(self, Self::Read(_, error) if error.kind() == io::ErrorKind::NotFound)
    }
}

impl From<FileError> for ReadError {
    fn from(error: FileError) -> Self {
        let is_lasting = match &error {
            FileError::Read(_, error) => {
                matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                )
            }
            _ => true,
        };
        Self {
            text: error.to_string(),
            is_lasting,
        }
    }
}

/// Reads a component, the manifest beside it, and if `signed` the signature beside each.
///
/// # Errors
/// Which file cannot be read, and why.
pub fn read_files(component: &Path, signed: bool) -> Result<Files, ReadError> {
    let too_large = |bytes| FileError::ComponentSize(component.to_owned(), bytes);
    let bytes = read_up_to(COMPONENT_BYTES_MAX, component, too_large)?;
    let manifest = component.with_extension("toml");
    let too_large = |bytes| FileError::ManifestSize {
        file: manifest.clone(),
        bytes,
    };
    let manifest = match read_up_to(MANIFEST_BYTES_MAX, &manifest, too_large) {
        Ok(bytes) => Some(file(&manifest, bytes, signed).map_err(ReadError::from)),
        Err(error) if error.is_not_found() => None,
        Err(error) => Some(Err(error.into())),
    };
    Ok(Files {
        component: file(component, bytes, signed)?,
        manifest,
        signed: SignedTerms::Any,
    })
}

fn file(path: &Path, bytes: Vec<u8>, signed: bool) -> Result<File, FileError> {
    Ok(File {
        origin: path.display().to_string(),
        bytes: bytes.into(),
        signature: if signed {
            read_signature(path)?
        } else {
            let origin = signature_of(path).display().to_string();
            let content = SignatureContent::NotRead;
            Signature { origin, content }
        },
    })
}

fn read_signature(file: &Path) -> Result<Signature, FileError> {
    let path = signature_of(file);
    let content = match read_up_to(SIGNATURE_BYTES_MAX, &path, |_| FileError::TooLong) {
        Ok(bytes) => SignatureContent::Text(String::from_utf8_lossy(&bytes).into_owned()),
        Err(FileError::TooLong) => SignatureContent::TooLong,
        Err(error) if error.is_not_found() => SignatureContent::Missing,
        Err(error) => return Err(error),
    };
    let origin = path.display().to_string();
    Ok(Signature { origin, content })
}

/// Reads a regular file of a limited size.
fn read_up_to(
    bytes_max: u64,
    path: &Path,
    too_large: impl Fn(u64) -> FileError,
) -> Result<Vec<u8>, FileError> {
    let read_error = |error| FileError::Read(path.to_owned(), error);
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path);
    let file = file.map_err(read_error)?;
    let metadata = file.metadata().map_err(read_error)?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile(path.to_owned()));
    }
    if metadata.len() > bytes_max {
        return Err(too_large(metadata.len()));
    }
    let bytes = read_to_end(file.take(bytes_max + 1), metadata.len() as usize);
    let bytes = bytes.map_err(read_error)?;
    if bytes.len() as u64 > bytes_max {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}
