//! The open files of the tests' own process: each connection of a client in it is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For a test that has so many files open: raises the limit, which systems set at 256 to 1,024.
/// Nodes raise theirs.
pub(crate) fn need_open_files(count: u64) {
    // Tests run side by side, so that no one of them knows how many there are: all that this
    // process may have.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
    let limit = getrlimit(Resource::Nofile).current;
    assert!(
        limit.is_none_or(|limit| limit >= count),
        "it takes {count} open files, and this process may have {limit:?}: raise the hard limit (`ulimit -Hn`)"
    );
}
