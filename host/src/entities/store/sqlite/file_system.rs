//! Which file system a file is on. On one over a network locks, and memory that processes share, do
//! not do what SQLite needs, so that what was acknowledged may be lost.

use std::path::Path;

/// File systems over a network, by the numbers that Linux gives them.
#[cfg(target_os = "linux")]
const NETWORK: [(i64, &str); 8] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x0102_1997, "9P"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x0bd0_0bd0, "Lustre"),
];

/// File systems on which who reads a file sees at once what others write to their memory of it: ext,
/// XFS, Btrfs, tmpfs, ZFS, overlays, F2FS, bcachefs.
#[cfg(target_os = "linux")]
const LOCAL: [i64; 8] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x2fc1_2fc1,
    0x794c_7630,
    0xf2f5_2010,
    0xca45_1a4e,
];

#[cfg(target_os = "linux")]
pub(super) fn is_local(file: &Path) -> bool {
    kind(file).is_some_and(|kind| LOCAL.contains(&kind))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_local(_: &Path) -> bool {
    false
}

/// The number of a file's file system.
#[cfg(target_os = "linux")]
fn kind(file: &Path) -> Option<i64> {
    let found = rustix::fs::statfs(file).ok()?;
    // Its width is that of the architecture's word.
    #[allow(clippy::useless_conversion)]
    let kind = i64::from(found.f_type);
    // A number of 32 bits, which some architectures extend with its sign.
    Some(kind & 0xffff_ffff)
}

#[cfg(target_os = "linux")]
pub(super) fn warn(file: &Path) {
    if let Some(name) = kind(file).and_then(network) {
        tracing::warn!(
            event = "state-at-risk",
            file = %file.display(),
            setting = "state",
            "the file is on a network file system ({name}): what was acknowledged may be lost; put it on a local disk, or use PostgreSQL"
        );
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn warn(_: &Path) {}

#[cfg(target_os = "linux")]
fn network(kind: i64) -> Option<&'static str> {
    let is_it = |(number, _): &&(i64, &str)| *number == kind;
    NETWORK.iter().find(is_it).map(|(_, name)| *name)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn file_systems_over_a_network_are_known_by_their_numbers() {
        assert_eq!(network(0x6969), Some("NFS"));
        assert_eq!(network(0xff53_4d42), Some("CIFS"));
        assert_eq!(network(0xef53), None, "ext4");
    }
}
