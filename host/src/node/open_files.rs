//! The limit on open files: each connection takes a file descriptor, and the system limits them per
//! process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// File descriptors that are reserved for other uses: 4,608 connections from peers
/// (`peer::server`), a third as many to peers, plugins, and the node's own files.
const RESERVED: u64 = 7_500;

/// Raises the soft limit to the hard one, and returns how many of the wanted connections fit.
pub(super) fn room_for_clients(wanted: usize) -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    ) {
        debug!(%error, "the limit of open files stays as it is");
    }
    let limit = getrlimit(Resource::Nofile).current;
    let room = room(wanted, limit);
    if room < wanted {
        warn!(
            event = "few-open-files",
            open_files = limit,
            connections = room,
            wanted,
            "the system allows this process too few open files (ulimit -n) for --max-connections"
        );
    }
    room
}

/// `None` means no limit. However low the limit is, clients get half of it.
fn room(wanted: usize, limit: Option<u64>) -> usize {
    let Some(limit) = limit else { return wanted };
    let room = limit.saturating_sub(RESERVED).max(limit / 2);
    wanted.min(usize::try_from(room).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::room;

    #[test]
    fn what_is_not_for_clients_is_left_over() {
        assert_eq!(room(10_000, None), 10_000);
        assert_eq!(room(10_000, Some(1 << 20)), 10_000);
        assert_eq!(room(10_000, Some(16_000)), 8_500);
        assert_eq!(room(10_000, Some(4_096)), 2_048);
        assert_eq!(room(10_000, Some(256)), 128);
        assert_eq!(room(100, Some(4_096)), 100);
    }
}
