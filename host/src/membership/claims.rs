//! Claims to this node's id by one that came first: when such a claim has lasted for so long that
//! this node must end. Pure: the time is given.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::view::Node;

/// How long an elder of this node's id may seem to live. It does for a moment when a node is killed
/// and comes back at once: the others still tell of its last heartbeats.
const ELDER_MAX: Duration = Duration::from_secs(4);

/// A claim that was not heard for longer is a new one. Until then it was only late, as it is when
/// the network is bad: a life that is over is heard of no more. A death, and that a life goes on,
/// are both seen within three seconds.
const UNHEARD_MAX: Duration = Duration::from_secs(10);

/// One life of a node that has this node's id.
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

/// What has been claimed by elders so far.
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

    /// Takes in who is the elder now, if anybody. Returns when this node must end if it stays so.
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
        // Nobody else can be where this node is: that is its own earlier life, however long it is
        // told of.
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

    /// Each line: after so many seconds that one is the elder; then the node must end after so
    /// many, if at all.
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
