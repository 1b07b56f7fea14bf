//! Reads files that other users must not have access to: secrets, tokens, keys of certificates.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::setting_file;

/// A longer file cannot be one of secrets.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Permissions of others, of which the file must grant none. Its group may read it: services share
/// keys through a group, and a node that does not run as root gets mounted files through one.
const OTHERS: u32 = 0o007;

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    #[error("{} cannot be read: {}{}", .0.display(), .1, advice(.1))]
    Read(PathBuf, io::Error),
    #[error(
        "{} is open to others than its owner and group (mode {mode:03o}): `chmod o-rwx {}`, or where it is mounted from a Kubernetes \
         Secret `defaultMode: 0440` and `fsGroup`", .file.display(), .file.display()
    )]
    Open { file: PathBuf, mode: u32 },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; this process must own it, or be in its group and that may read it (in Kubernetes: `defaultMode: 0440` and `fsGroup`)"
        }
        _ => "",
    }
}

/// The lines of a file with their numbers, without empty lines and those that begin with `#`.
pub(super) fn read_lines(file: &Path) -> Result<Vec<(usize, String)>, PrivateFileError> {
    let text = String::from_utf8(read(file)?);
    let text =
        text.map_err(|_| PrivateFileError::Read(file.to_owned(), setting_file::not_text()))?;
    Ok(lines(&text))
}

/// The content of a file. Fails if others than its owner and group have access to it.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, PrivateFileError> {
    let read_error = |error| PrivateFileError::Read(file.to_owned(), error);
    let opened = setting_file::open(file).map_err(read_error)?;
    let mode = opened.metadata().map_err(read_error)?.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        return Err(PrivateFileError::Open {
            file: file.to_owned(),
            mode,
        });
    }
    setting_file::read(&opened, FILE_BYTES_MAX).map_err(read_error)
}

pub(super) fn lines(text: &str) -> Vec<(usize, String)> {
    let numbered = (1..).zip(text.lines().map(str::trim));
    numbered
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(n, line)| (n, line.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn a_file_is_for_its_owner_and_group() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        fs::write(&file, "hush").unwrap();
        for mode in [0o400, 0o440, 0o600, 0o640] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&file).unwrap(), b"hush", "{mode:o}");
        }
        for mode in [0o604, 0o642, 0o644] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let error = read(&file).unwrap_err().to_string();
            let hints = [
                format!("(mode {mode:o})"),
                "chmod o-rwx".into(),
                "defaultMode: 0440".into(),
                "fsGroup".into(),
            ];
            assert!(
                hints.iter().all(|hint| error.contains(hint)) && !error.contains('\n'),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_no_file_is_told_as_that() {
        let directory = tempfile::tempdir().unwrap();
        let told = |file: &Path| read(file).unwrap_err().to_string();
        assert!(
            told(directory.path()).ends_with("cannot be read: is a directory"),
            "{}",
            told(directory.path())
        );
        assert!(told(&directory.path().join("missing")).contains("cannot be read: No such file"));
    }
}
