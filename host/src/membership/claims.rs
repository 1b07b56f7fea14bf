//! Decides when this node must end because another one with its id came first and stays alive.
//! Pure: the time is an argument.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::view::Node;

/// How long an elder (a node with this id that came first) may appear to be alive before this node
/// ends. When a node is killed and restarts at once, its earlier incarnation appears alive for a
/// moment, as the others still gossip its last heartbeats.
const ELDER_MAX: Duration = Duration::from_secs(4);

/// A claim that reappears after a longer gap is a new one. After a shorter one it is the same, only
/// delayed by a bad network: an incarnation that has ended does not reappear. The failure detector
/// notices within three seconds that a node has died, or that it is alive after all.
const UNHEARD_MAX: Duration = Duration::from_secs(10);

/// One incarnation of this node's id: another node, or an earlier start of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) generation: u64,
    pub(super) cluster_addr: SocketAddr,
}

impl Claim {
    pub(super) fn of(node: &Node) -> Self {
        Self {
            generation: node.generation,
            cluster_addr: node.cluster_addr,
        }
    }
}

/// The latest claim of an elder, and how long it has lasted.
pub(super) struct Claims {
    own_addr: SocketAddr,
    latest: Option<Lasting>,
}

struct Lasting {
    claim: Claim,
    since: Instant,
    unheard_since: Option<Instant>,
}

impl Claims {
    pub(super) fn new(own_addr: SocketAddr) -> Self {
        Self {
            own_addr,
            latest: None,
        }
    }

    /// Notes the current elder, if any. Returns when this node must end if that elder stays.
    pub(super) fn observe(&mut self, elder: Option<Claim>, now: Instant) -> Option<Instant> {
        let Some(claim) = elder else {
            if let Some(latest) = &mut self.latest {
                latest.unheard_since.get_or_insert(now);
            }
            return None;
        };
        let known = self
            .latest
            .take()
            .filter(|known| known.claim == claim && known.is_one_with(now));
        let since = known.map_or(now, |known| known.since);
        self.latest = Some(Lasting {
            claim,
            since,
            unheard_since: None,
        });
        // No other node can have this node's address: that claim is its own earlier incarnation,
        // however long the others gossip about it.
        (claim.cluster_addr != self.own_addr).then_some(since + ELDER_MAX)
    }
}

impl Lasting {
    fn is_one_with(&self, now: Instant) -> bool {
        self.unheard_since
            .is_none_or(|since| now.saturating_duration_since(since) <= UNHEARD_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn claim(generation: u64, port: u16) -> Option<Claim> {
        Some(Claim {
            generation,
            cluster_addr: ([127, 0, 0, 1], port).into(),
        })
    }

    /// Each line: the second at which an elder (or none) is observed, and the second at which the
    /// node must then end, if at all.
    fn check(lines: &[(u32, Option<Claim>, Option<u32>)]) {
        let start = Instant::now();
        let mut claims = Claims::new(([127, 0, 0, 1], 9742).into());
        for (line, (second, elder, ends)) in lines.iter().enumerate() {
            let ends_at = claims.observe(*elder, start + SECOND * *second);
            assert_eq!(
                ends_at,
                ends.map(|second| start + SECOND * second),
                "line {line}"
            );
        }
    }

    #[test]
    fn a_claim_that_lasts_ends_the_node() {
        check(&[
            (0, None, None),
            (1, claim(1, 1), Some(5)),
            (4, claim(1, 1), Some(5)),
        ]);
    }

    #[test]
    fn one_that_is_only_late_is_not_forgotten() {
        check(&[
            (0, claim(1, 1), Some(4)),
            (2, None, None),
            (9, None, None),
            (12, claim(1, 1), Some(4)),
        ]);
    }

    #[test]
    fn one_that_was_gone_for_long_begins_anew() {
        check(&[
            (0, claim(1, 1), Some(4)),
            (2, None, None),
            (13, claim(1, 1), Some(17)),
        ]);
    }

    #[test]
    fn each_claim_has_a_time_of_its_own() {
        check(&[
            (0, claim(1, 1), Some(4)),
            (2, claim(2, 1), Some(6)),
            (3, None, None),
            (4, claim(2, 2), Some(8)),
        ]);
    }

    #[test]
    fn an_earlier_life_of_the_node_itself_never_ends_it() {
        check(&[(0, claim(1, 9742), None), (100, claim(1, 9742), None)]);
    }
}
