//! What a mesh that shares plugins knows of them: which release of each stream is meant to run.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::names::StreamName;

/// The name of a release: the SHA-256 of its component, manifest and signatures.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReleaseId(pub [u8; 32]);

/// What is to run on every node for one stream. The highest wins, wherever it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    pub number: u64,
    /// `None`: the stream was removed from the mesh.
    pub release: Option<ReleaseId>,
    /// Somebody has asked for this release again, although it may be older than what ran.
    pub is_rollback: bool,
}

/// What is sent of a release at once; less is its end.
pub const RELEASE_PART_BYTES: usize = 64 << 10;

/// The current revisions, as a node knows them.
pub type SharedReleases = BTreeMap<StreamName, SharedRelease>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedRelease {
    #[serde(flatten)]
    pub revision: Revision,
    /// The node has its bytes.
    pub is_here: bool,
    /// It runs there.
    pub runs: bool,
}

/// A text that names no release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not 64 hexadecimal digits")]
pub struct NoRelease;

impl FromStr for ReleaseId {
    type Err = NoRelease;

    fn from_str(text: &str) -> Result<Self, NoRelease> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(NoRelease);
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(digits.chunks(2)) {
            let digits = str::from_utf8(digits).map_err(|_| NoRelease)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| NoRelease)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ReleaseId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ReleaseId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_read_as_it_is_written() {
        let release = ReleaseId([0xa7; 32]);
        assert_eq!(release.to_string().parse(), Ok(release));
        for wrong in ["", "a7", &"g".repeat(64), &"ä".repeat(32), &"a".repeat(65)] {
            assert_eq!(wrong.parse::<ReleaseId>(), Err(NoRelease), "{wrong}");
        }
    }

    #[test]
    fn the_higher_number_wins_then_the_name() {
        let revision = |number, byte: Option<u8>| Revision {
            number,
            release: byte.map(|byte| ReleaseId([byte; 32])),
            is_rollback: false,
        };
        assert!(revision(3, Some(1)) > revision(2, Some(9)));
        assert!(revision(2, Some(9)) > revision(2, Some(1)));
        assert!(revision(2, Some(0)) > revision(2, None));
    }
}
