//! A project with a handler of one's own: `new` makes it from templates that are in the binary, with the
//! SDK that fits this node, and `develop` builds it on each saving.

mod develop;
mod templates;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::message::StreamName;

pub use develop::{Develop, DevelopError};
use templates::{files, next_steps};

/// The longest name: registries of packages take some 64 characters, names of hosts 63.
const NAME_BYTES_MAX: usize = 63;

/// Crates that a project in Rust has.
const TAKEN: [&str; 8] = [
    "alloc",
    "core",
    "meshage-sdk",
    "meshage-sdk-macros",
    "serde",
    "std",
    "test",
    "wstd",
];

/// What a handler is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Language {
    Rust,
    Js,
    Ts,
    Python,
}

/// Why there is no project.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    #[error(
        "{0:?} cannot be the name of a project: it is the name of its stream and of its package, so it begins with a letter, \
         has letters (a-z), digits and '-' in it, {NAME_BYTES_MAX} at most, and is not taken by either"
    )]
    Name(String),
    #[error(
        "{} is there already, and is not an empty folder: choose another name, or remove it",
        .0.display()
    )]
    Taken(PathBuf),
    #[error("cannot write {}: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
}

/// Makes a project in a folder of this name. Returns what to do next.
///
/// # Errors
/// If the name is none, the folder is not empty, or a file cannot be written.
pub fn new(
    parent: &Path,
    name: &str,
    language: Language,
    is_http: bool,
) -> Result<String, NewError> {
    if !is_name(name) || (language == Language::Rust && TAKEN.contains(&name)) {
        return Err(NewError::Name(name.to_owned()));
    }
    let folder = parent.join(name);
    match fs::read_dir(&folder).map(|mut entries| entries.next().is_none()) {
        Ok(true) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        _ => return Err(NewError::Taken(folder)),
    }
    for (path, content) in files(name, language, is_http) {
        let path = folder.join(path);
        let written = fs::create_dir_all(path.parent().expect("it is in the folder"))
            .and_then(|()| fs::write(&path, content));
        written.map_err(|error| NewError::Write { path, error })?;
    }
    Ok(next_steps(name, language))
}

fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX
        && StreamName::try_from(name).is_ok()
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_of_streams_and_of_packages() {
        for good in ["a", "hello", "order-book-2"] {
            assert!(is_name(good), "{good}");
        }
        let long = "a".repeat(64);
        for bad in [
            "",
            "Hello",
            "2go",
            "a_b",
            "a.b",
            "../a",
            "a/b",
            "-a",
            "a-",
            "broadcast",
            "ä",
            &long,
        ] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_there_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join("empty")).unwrap();
        new(parent.path(), "empty", Language::Js, false).unwrap();
        let again = new(parent.path(), "empty", Language::Rust, false);
        assert!(matches!(again, Err(NewError::Taken(_))), "{again:?}");
        fs::write(parent.path().join("file"), "mine").unwrap();
        let over = new(parent.path(), "file", Language::Js, false);
        assert!(matches!(over, Err(NewError::Taken(_))), "{over:?}");
        assert!(!parent.path().join("empty/Cargo.toml").exists());
    }
}
