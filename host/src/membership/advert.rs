//! Converts what a node advertises to gossip's keys and values, and back. Every value must be
//! small: one that does not fit into a datagram would block all keys after it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::view::{Node, NodeState};
use crate::message::{
    Digest, NodeId, Offer, Revision, SharedRelease, StreamName, StreamProperties,
};

const STATE: &str = "state";
const HTTP_ADDR: &str = "http";
const STORE: &str = "store";
const STREAM_PREFIX: &str = "stream:";
const SHARES_PLUGINS: &str = "shares-plugins";
const RELEASE_PREFIX: &str = "release:";

/// Flags that may follow the digest of a stream, after a space. Unknown flags are those of later
/// versions, and are ignored.
const IDEMPOTENCY_KEYS: &str = "idempotency-keys";
const STATEFUL: &str = "stateful";
const HTTP: &str = "http";

/// In place of the name of a release: the stream was removed.
const REMOVED: &str = "removed";

/// Flags that may follow the name of a release.
const HERE: &str = "here";
const RUNS: &str = "runs";
const ROLLBACK: &str = "rollback";

/// The keys to gossip for this node. Chitchat itself carries its id, generation and cluster
/// address.
pub(super) fn to_key_values(node: &Node) -> BTreeMap<String, String> {
    let state = match node.state {
        NodeState::Starting => "starting",
        NodeState::Ready => "ready",
        NodeState::Leaving => "leaving",
    };
    let streams = node
        .streams
        .iter()
        .map(|(stream, offer)| (format!("{STREAM_PREFIX}{stream}"), write_offer(offer)));
    let shares = node.releases.as_ref();
    let shares = shares.map(|_| (SHARES_PLUGINS.to_owned(), String::new()));
    let releases = node
        .releases
        .iter()
        .flatten()
        .map(|(stream, shared)| (format!("{RELEASE_PREFIX}{stream}"), write_release(shared)));
    [
        (STATE.to_owned(), state.to_owned()),
        (HTTP_ADDR.to_owned(), node.http_addr.to_string()),
    ]
    .into_iter()
    .chain(
        node.store
            .map(|store| (STORE.to_owned(), store.to_string())),
    )
    .chain(streams)
    .chain(shares)
    .chain(releases)
    .collect()
}

/// The node that gossips these keys. `None` while a required key has not arrived yet, or if its id
/// or address is in a form that this version of meshage does not know.
pub(super) fn from_key_values<'a>(
    node_id: &str,
    generation: u64,
    cluster_addr: SocketAddr,
    key_values: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<Node> {
    let node_id = NodeId::try_from(node_id).ok()?;
    let (mut state, mut http_addr, mut store) = (None, None, None);
    let (mut streams, mut releases) = (BTreeMap::new(), BTreeMap::new());
    let mut shares = false;
    for (key, value) in key_values {
        match key {
            STATE => {
                state = Some(match value {
                    "ready" => NodeState::Ready,
                    "leaving" => NodeState::Leaving,
                    // A state of a later version: the node is alive, but gets no messages.
                    _ => NodeState::Starting,
                });
            }
            HTTP_ADDR => http_addr = value.parse().ok(),
            STORE => store = value.parse().ok(),
            SHARES_PLUGINS => shares = true,
            _ => {
                let stream = |prefix| StreamName::try_from(key.strip_prefix(prefix)?).ok();
                if let Some(stream) = stream(STREAM_PREFIX) {
                    streams.insert(stream, read_offer(value));
                } else if let Some(stream) = stream(RELEASE_PREFIX)
                    && let Some(release) = read_release(value)
                {
                    releases.insert(stream, release);
                }
            }
        }
    }
    Some(Node {
        node_id,
        generation,
        state: state?,
        http_addr: http_addr?,
        cluster_addr,
        streams,
        store,
        releases: shares.then_some(releases),
    })
}

fn write_release(shared: &SharedRelease) -> String {
    let SharedRelease {
        revision:
            Revision {
                number,
                release,
                is_rollback,
            },
        is_here,
        runs,
    } = shared;
    let release = release.map_or(REMOVED.to_owned(), |release| release.to_string());
    let mut words = vec![number.to_string(), release];
    words.extend(is_here.then(|| HERE.to_owned()));
    words.extend(runs.then(|| RUNS.to_owned()));
    words.extend(is_rollback.then(|| ROLLBACK.to_owned()));
    words.join(" ")
}

/// `None`: it is in a form that this version does not know.
fn read_release(text: &str) -> Option<SharedRelease> {
    let mut words = text.split(' ');
    let number = words.next()?.parse().ok()?;
    let release = match words.next()? {
        REMOVED => None,
        release => Some(release.parse().ok()?),
    };
    let flags: Vec<&str> = words.collect();
    Some(SharedRelease {
        revision: Revision {
            number,
            release,
            is_rollback: flags.contains(&ROLLBACK),
        },
        is_here: flags.contains(&HERE),
        runs: flags.contains(&RUNS),
    })
}

fn write_offer(offer: &Offer) -> String {
    let StreamProperties {
        takes_idempotency_keys,
        is_stateful,
        keeps_records: _,
        takes_http,
    } = offer.properties;
    let mut words = vec![offer.digest.as_str()];
    words.extend(takes_idempotency_keys.then_some(IDEMPOTENCY_KEYS));
    words.extend(is_stateful.then_some(STATEFUL));
    words.extend(takes_http.then_some(HTTP));
    words.join(" ")
}

fn read_offer(text: &str) -> Offer {
    let (digest, words) = text.split_once(' ').unwrap_or((text, ""));
    let has = |flag| words.split(' ').any(|word| word == flag);
    Offer {
        digest: Digest::from_text(digest),
        properties: StreamProperties {
            takes_idempotency_keys: has(IDEMPOTENCY_KEYS),
            is_stateful: has(STATEFUL),
            keeps_records: has(STATEFUL),
            takes_http: has(HTTP),
        },
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::membership::view::tests::node;
    use crate::message::ReleaseId;

    fn read(key_values: &BTreeMap<String, String>) -> Option<Node> {
        let pairs = key_values
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        from_key_values("a", 7, ([127, 0, 0, 1], 9742).into(), pairs)
    }

    #[test]
    fn a_node_survives_the_way_through_gossip() {
        for state in [NodeState::Starting, NodeState::Ready, NodeState::Leaving] {
            let mut node = node("a", 7, state, &["echo", "orders"]);
            for store in [None, Some(Uuid::from_u128(7))] {
                node.store = store;
                assert_eq!(read(&to_key_values(&node)), Some(node.clone()));
            }
        }
    }

    #[test]
    fn what_a_node_shares_survives_the_way_through_gossip() {
        let mut node = node("a", 7, NodeState::Ready, &["echo"]);
        let shared = |release: Option<u8>, is_here, is_rollback| SharedRelease {
            runs: is_here && is_rollback,
            revision: Revision {
                number: 3,
                release: release.map(|byte| ReleaseId([byte; 32])),
                is_rollback,
            },
            is_here,
        };
        for shared in [
            shared(Some(7), true, false),
            shared(Some(7), false, true),
            shared(None, true, true),
            shared(None, false, false),
        ] {
            node.releases = Some([("echo".try_into().unwrap(), shared)].into());
            assert_eq!(read(&to_key_values(&node)), Some(node.clone()));
            let later = format!("{} of-later-versions", write_release(&shared));
            assert_eq!(read_release(&later), Some(shared));
        }
        node.releases = Some(BTreeMap::new());
        assert_eq!(read(&to_key_values(&node)), Some(node));
        for wrong in ["", "3", "x removed", "3 abc", "-1 removed"] {
            assert_eq!(read_release(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_later_versions_say_of_a_stream_is_skipped() {
        let offer = read_offer("abc later:7 idempotency-keys");
        assert_eq!(
            (
                offer.digest.as_str(),
                offer.properties.takes_idempotency_keys
            ),
            ("abc", true)
        );
        assert_eq!(write_offer(&offer), "abc idempotency-keys");
        let stateful = read_offer("abc stateful");
        assert!(stateful.properties.is_stateful);
        assert_eq!(write_offer(&stateful), "abc stateful");
        assert_eq!(write_offer(&read_offer("abc other-words")), "abc");
    }

    #[test]
    fn a_state_of_a_later_version_is_one_in_which_a_node_takes_no_messages() {
        let mut key_values = to_key_values(&node("a", 7, NodeState::Ready, &["echo"]));
        key_values.insert("state".into(), "on-standby".into());
        let seen = read(&key_values).unwrap();
        assert_eq!(seen.state, NodeState::Starting);
    }

    #[test]
    fn half_a_node_is_none_yet() {
        let mut key_values = to_key_values(&node("a", 7, NodeState::Ready, &["echo"]));
        key_values.remove("state");
        assert_eq!(read(&key_values), None);
    }
}
