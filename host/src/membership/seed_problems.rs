//! Logs why a seed cannot be used, with what an operator needs to know about both ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::counter;
use tracing::warn;

use super::contacts::Problem;
use crate::telemetry::{Throttle, names};

/// After a seed has been fine for this long, its next problem is logged at once again, and the
/// intervals between log lines start over. A flapping seed is fine only for moments.
const ANEW_AFTER: Duration = Duration::from_secs(30);

/// What every log line states about this node, and when each problem of each seed was last logged.
pub(super) struct SeedProblems {
    cluster_id: Arc<str>,
    cluster_addr: SocketAddr,
    has_secret: bool,
    told: Throttle<(String, &'static str)>,
}

impl SeedProblems {
    pub(super) fn new(cluster_id: Arc<str>, cluster_addr: SocketAddr, has_secret: bool) -> Self {
        Self {
            cluster_id,
            cluster_addr,
            has_secret,
            told: Throttle::growing(ANEW_AFTER),
        }
    }

    /// Counts a problem of a seed, and logs it if the throttle allows.
    pub(super) fn tell(&self, seed: &str, problem: &Problem, now: Instant) {
        let because = problem.because();
        counter!(names::SEED_PROBLEMS, "because" => because).increment(1);
        let Some(seconds) = self.told.note((seed.to_owned(), because), now) else {
            return;
        };
        let Self {
            cluster_id,
            cluster_addr,
            has_secret,
            ..
        } = self;
        match problem {
            Problem::NotResolved { error } => warn!(
                event = "seed-not-resolved",
                because,
                %seed,
                %error,
                seconds,
                %cluster_addr,
                %cluster_id,
                "a seed's name does not resolve; trying again and again"
            ),
            Problem::NotSent { to, error } => warn!(
                event = "seed-not-sent",
                because,
                %seed,
                %to,
                %error,
                seconds,
                %cluster_addr,
                %cluster_id,
                "gossip cannot be sent to a seed{}",
                advice(*to, *cluster_addr)
            ),
            Problem::Silent { addresses } => warn!(
                event = "seed-silent",
                because,
                %seed,
                addresses = list(addresses),
                seconds,
                %cluster_addr,
                %cluster_id,
                has_secret,
                "a seed does not answer: check that a node runs there, that the port is its cluster port, which is not that of HTTP, \
                 that UDP gets there and back, and that both have the same --secret-file, or none"
            ),
        }
    }
}

/// What an operator can do when this node cannot send to a seed.
fn advice(to: SocketAddr, cluster_addr: SocketAddr) -> &'static str {
    if to.is_ipv4() == cluster_addr.is_ipv4() {
        ": check this host's routes and firewall"
    } else {
        ": one is IPv4, the other IPv6; choose one of them for --bind, --advertise and --seeds of all nodes"
    }
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
