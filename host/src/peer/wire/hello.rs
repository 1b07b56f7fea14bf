//! The handshake: the identity of each node, and the version and features that both support.

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};

use super::{Extensions, WireError, put_head, question};
use crate::message::{NAME_BYTES_MAX, NodeId};

/// The versions of the protocol that this node speaks. Version 1 was never released.
const LOWEST: u16 = 2;
const HIGHEST: u16 = 2;

/// The first bytes of a hello. Anything else was not sent by a node.
const MAGIC: &[u8] = b"meshage\n";

/// Optional features that this node supports, by name. A connection uses those that both sides
/// support.
const FEATURES: [&str; 2] = question::FEATURES;

/// The first frame in each direction: identifies the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    lowest: u16,
    highest: u16,
    pub(in crate::peer) cluster_id: String,
    pub(in crate::peer) node_id: NodeId,
    pub(in crate::peer) generation: u64,
    /// The generation that the receiver must have; `None` if any will do.
    to_generation: Option<u64>,
    features: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Head<'a> {
    lowest: u16,
    highest: u16,
    cluster_id: &'a str,
    node_id: &'a str,
    generation: u64,
    to_generation: Option<u64>,
    #[serde(borrow)]
    features: Vec<&'a str>,
    #[serde(borrow)]
    extensions: Extensions<'a>,
}

/// The version and features that a connection uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::peer) struct Agreed {
    pub(in crate::peer) version: u16,
    pub(in crate::peer) features: Vec<String>,
}

/// The versions that a node speaks: the lowest and the highest.
pub(in crate::peer) type Versions = (u16, u16);

/// Why two nodes do not connect. The text is read on both sides, so it names both nodes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::peer) enum Mismatch {
    #[error("versions of the protocol: {} speaks {}, node {own_id:?} {}", named(.its_id), range(.its), range(.own))]
    Versions {
        /// `None` if only the versions of its hello could be read.
        its_id: Option<NodeId>,
        its: Versions,
        own_id: NodeId,
        own: Versions,
    },
    #[error("clusters: node {its_id:?} is of {its:?}, node {own_id:?} of {own:?}")]
    Clusters {
        its_id: NodeId,
        its: String,
        own_id: NodeId,
        own: String,
    },
    #[error(
        "node {its_id:?} looks for generation {meant} of node {own_id:?}, which is generation {own}"
    )]
    Generation {
        its_id: NodeId,
        meant: u64,
        own_id: NodeId,
        own: u64,
    },
}

fn named(id: &Option<NodeId>) -> String {
    match id {
        Some(id) => format!("node {id:?}"),
        None => "the other node".into(),
    }
}

fn range((lowest, highest): &Versions) -> String {
    if lowest == highest {
        lowest.to_string()
    } else {
        format!("{lowest} to {highest}")
    }
}

impl Hello {
    /// The hello of a node of this version, to a receiver of any generation.
    pub fn new(cluster_id: &str, node_id: NodeId, generation: u64) -> Self {
        let features = FEATURES.map(str::to_owned).to_vec();
        let cluster_id = cluster_id.to_owned();
        Self {
            lowest: LOWEST,
            highest: HIGHEST,
            cluster_id,
            node_id,
            generation,
            to_generation: None,
            features,
        }
    }

    /// The same hello, to a receiver of this generation only.
    pub(in crate::peer) fn to(&self, generation: u64) -> Self {
        Self {
            to_generation: Some(generation),
            ..self.clone()
        }
    }

    /// The highest version that both nodes speak.
    pub(in crate::peer) fn common_version(
        &self,
        its_id: Option<&NodeId>,
        its: Versions,
    ) -> Result<u16, Mismatch> {
        let version = self.highest.min(its.1);
        if version >= self.lowest.max(its.0) {
            return Ok(version);
        }
        Err(Mismatch::Versions {
            its_id: its_id.cloned(),
            its,
            own_id: self.node_id.clone(),
            own: (self.lowest, self.highest),
        })
    }

    /// The version and features for a connection with the node that sent `other`, or why there can
    /// be none.
    pub(in crate::peer) fn agree(&self, other: &Self) -> Result<Agreed, Mismatch> {
        let versions = (other.lowest, other.highest);
        let version = self.common_version(Some(&other.node_id), versions)?;
        if other.cluster_id != self.cluster_id {
            return Err(Mismatch::Clusters {
                its_id: other.node_id.clone(),
                its: other.cluster_id.clone(),
                own_id: self.node_id.clone(),
                own: self.cluster_id.clone(),
            });
        }
        match other.to_generation {
            Some(meant) if meant != self.generation => Err(Mismatch::Generation {
                its_id: other.node_id.clone(),
                meant,
                own_id: self.node_id.clone(),
                own: self.generation,
            }),
            _ => {
                let both_can = |feature: &&String| other.features.contains(feature);
                let features = self.features.iter().filter(both_can).cloned().collect();
                Ok(Agreed { version, features })
            }
        }
    }

    pub(super) fn put(&self, buffer: &mut BytesMut) {
        let Self {
            lowest,
            highest,
            cluster_id,
            node_id,
            generation,
            to_generation,
            features,
        } = self;
        let head = Head {
            lowest: *lowest,
            highest: *highest,
            cluster_id,
            node_id: node_id.as_str(),
            generation: *generation,
            to_generation: *to_generation,
            features: features.iter().map(String::as_str).collect(),
            extensions: Extensions::new(),
        };
        buffer.put_slice(MAGIC);
        put_head(buffer, &head);
    }

    /// The error comes with the versions that the sender speaks, if those can be read: they are at
    /// the same place in the hello of every version.
    pub(super) fn read(frame: &[u8]) -> Result<Self, (Option<Versions>, WireError)> {
        let rest = frame.strip_prefix(MAGIC).ok_or((None, WireError::NoNode))?;
        let (versions, _) =
            postcard::take_from_bytes::<Versions>(rest).map_err(|error| (None, error.into()))?;
        Self::read_head(rest).map_err(|error| (Some(versions), error))
    }

    fn read_head(head: &[u8]) -> Result<Self, WireError> {
        let head: Head<'_> = postcard::from_bytes(head)?;
        if head.cluster_id.len() > NAME_BYTES_MAX {
            return Err(WireError::NoNode);
        }
        Ok(Self {
            lowest: head.lowest,
            highest: head.highest,
            cluster_id: head.cluster_id.to_owned(),
            node_id: NodeId::try_from(head.node_id).map_err(|_| WireError::NoNode)?,
            generation: head.generation,
            to_generation: head.to_generation,
            features: head.features.into_iter().map(str::to_owned).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello((lowest, highest): (u16, u16), features: &[&str]) -> Hello {
        let features = features
            .iter()
            .map(|feature| (*feature).to_owned())
            .collect();
        Hello {
            lowest,
            highest,
            features,
            ..Hello::new("c", NodeId::try_from("n1").unwrap(), 7)
        }
    }

    fn read_again(hello: &Hello) -> Hello {
        let mut buffer = BytesMut::new();
        hello.put(&mut buffer);
        Hello::read(&buffer).unwrap()
    }

    #[test]
    fn a_hello_arrives_as_it_was_sent() {
        let sent = hello((2, 5), &["a", "b"]).to(9);
        assert_eq!(read_again(&sent), sent);
    }

    #[test]
    fn both_use_the_highest_version_and_the_features_that_both_have() {
        let own = hello((2, 4), &["a", "b"]);
        let agreed = own.agree(&hello((3, 9), &["b", "c"])).unwrap();
        assert_eq!(
            agreed,
            Agreed {
                version: 4,
                features: vec!["b".to_owned()]
            }
        );
        assert_eq!(
            own.agree(&hello((1, 2), &[])).unwrap(),
            Agreed {
                version: 2,
                features: Vec::new()
            }
        );
    }

    #[track_caller]
    fn check_refused(other: &Hello, text: &str) {
        assert_eq!(
            hello((2, 4), &[]).agree(other).unwrap_err().to_string(),
            text
        );
    }

    #[test]
    fn who_cannot_be_a_peer_is_told_why() {
        check_refused(
            &hello((5, 6), &[]),
            "versions of the protocol: node \"n1\" speaks 5 to 6, node \"n1\" 2 to 4",
        );
        check_refused(
            &hello((1, 1), &[]),
            "versions of the protocol: node \"n1\" speaks 1, node \"n1\" 2 to 4",
        );
        let stranger = Hello {
            cluster_id: "other".into(),
            ..hello((2, 2), &[])
        };
        check_refused(
            &stranger,
            "clusters: node \"n1\" is of \"other\", node \"n1\" of \"c\"",
        );
        check_refused(
            &hello((2, 2), &[]).to(6),
            "node \"n1\" looks for generation 6 of node \"n1\", which is generation 7",
        );
        assert!(hello((2, 2), &[]).agree(&hello((2, 2), &[]).to(7)).is_ok());
    }

    #[test]
    fn what_later_versions_add_to_a_hello_is_skipped() {
        let sent = hello((2, 2), &[]);
        let mut buffer = BytesMut::new();
        buffer.put_slice(MAGIC);
        let (cluster_id, node_id) = (sent.cluster_id.as_str(), sent.node_id.as_str());
        let extensions: Extensions<'_> = vec![(7, b"a later one")];
        let (features, to_generation) = (Vec::new(), None);
        let head = Head {
            lowest: 2,
            highest: 2,
            cluster_id,
            node_id,
            generation: 7,
            to_generation,
            features,
            extensions,
        };
        put_head(&mut buffer, &head);
        buffer.put_slice(b"and what follows");
        assert_eq!(Hello::read(&buffer).unwrap(), sent);
        let stranger = Hello::read(b"GET / HTTP/1.1");
        assert!(matches!(stranger, Err((None, WireError::NoNode))));
        // A version whose head is different: the versions that it speaks can still be read.
        let later = [MAGIC, &[7, 9], b"\xff\xff\xff"].concat();
        assert!(matches!(Hello::read(&later), Err((Some((7, 9)), _))));
    }
}
