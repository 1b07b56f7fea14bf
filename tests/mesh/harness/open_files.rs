//! The limit of open files of the test process: each client connection in it counts as one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit, by default 256 to 1,024, for a test that needs `count` open files. Nodes
/// raise their own.
pub(crate) fn need_open_files(count: u64) {
    // Up to the hard limit: tests run concurrently in this process, and none knows the total.
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
