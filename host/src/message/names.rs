//! Validated names of nodes, streams and entities.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest partition key, in bytes after percent-decoding. An entity's name, not a document: it is
/// hashed, logged and sent with every forward.
pub const PARTITION_KEY_BYTES_MAX: usize = 1024;

/// Longest stream name or node id, in bytes. Both are gossiped, and used in file names and headers.
pub const NAME_BYTES_MAX: usize = 128;

/// The stream name that no plugin may take: `/api/broadcast/…` is a route.
pub const RESERVED_STREAM: &str = "broadcast";

/// The stable id of a node, which placement uses.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct NodeId(Arc<str>);

/// The logical name of a handler.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct StreamName(Arc<str>);

/// The entity, within its stream, that a message is for.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PartitionKey(Arc<str>);

/// The SHA-256 of a plugin's component, in hexadecimal: which version of a stream a node offers.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct Digest(Arc<str>);

impl Digest {
    /// Makes a digest of an unchecked text, such as gossip carries.
    pub fn from_text(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a valid name, key or id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("it is empty")]
    Empty,
    #[error("it has {bytes} bytes; the limit is {bytes_max}")]
    TooLong { bytes: usize, bytes_max: usize },
    #[error("it has {0:?} in it; letters, digits, '-', '_' and '.' (not first) are allowed")]
    Character(char),
    #[error("{RESERVED_STREAM:?} is reserved for the broadcast route")]
    Reserved,
    #[error("it has U+0000 in it, which databases cannot keep")]
    Zero,
}

fn check_length(text: &str, bytes_max: usize) -> Result<(), NameError> {
    match text.len() {
        0 => Err(NameError::Empty),
        bytes if bytes > bytes_max => Err(NameError::TooLong { bytes, bytes_max }),
        _ => Ok(()),
    }
}

fn check_name(text: &str) -> Result<(), NameError> {
    check_length(text, NAME_BYTES_MAX)?;
    let wrong = text.chars().enumerate().find(|(i, c)| {
        let allowed = c.is_ascii_alphanumeric() || matches!(c, '-' | '_') || (*c == '.' && *i > 0);
        !allowed
    });
    match wrong {
        Some((_, c)) => Err(NameError::Character(c)),
        None => Ok(()),
    }
}

impl TryFrom<&str> for NodeId {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        check_name(text)?;
        Ok(Self(text.into()))
    }
}

impl TryFrom<&str> for StreamName {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        check_name(text)?;
        if text == RESERVED_STREAM {
            return Err(NameError::Reserved);
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<&str> for PartitionKey {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        check_length(text, PARTITION_KEY_BYTES_MAX)?;
        if text.contains('\0') {
            return Err(NameError::Zero);
        }
        Ok(Self(text.into()))
    }
}

macro_rules! text_newtype {
    ($($name:ident),*) => {$(
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::try_from(text.as_str())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        // Lets a map with this key type be queried with a `&str`.
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
    )*};
}

text_newtype!(NodeId, StreamName, PartitionKey);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(StreamName::try_from("orders.v2_a-B").is_ok());
        assert_eq!(StreamName::try_from(""), Err(NameError::Empty));
        assert_eq!(StreamName::try_from("a b"), Err(NameError::Character(' ')));
        assert_eq!(
            StreamName::try_from(".hidden"),
            Err(NameError::Character('.'))
        );
        assert_eq!(StreamName::try_from("broadcast"), Err(NameError::Reserved));
        assert!(NodeId::try_from("broadcast").is_ok());
        assert_eq!(
            NodeId::try_from("n".repeat(129).as_str()),
            Err(NameError::TooLong {
                bytes: 129,
                bytes_max: 128
            })
        );
    }

    #[test]
    fn keys_are_any_text_up_to_their_limit() {
        assert!(PartitionKey::try_from("a/b ü\u{1}").is_ok());
        assert_eq!(PartitionKey::try_from("a\u{0}"), Err(NameError::Zero));
        assert!(PartitionKey::try_from("k".repeat(1024).as_str()).is_ok());
        assert!(PartitionKey::try_from("k".repeat(1025).as_str()).is_err());
        assert_eq!(PartitionKey::try_from(""), Err(NameError::Empty));
    }
}
