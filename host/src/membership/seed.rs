//! A seed, as configured, and which of them are this node's own addresses. Pure.

use std::fmt;
use std::net::SocketAddr;

/// A seed, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seed {
    Address(SocketAddr),
    /// `host:port`.
    Name(String),
}

/// This node's own addresses, which are not contacted as seeds.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnAddresses {
    pub(super) cluster_addr: SocketAddr,
    pub(super) bound_addr: SocketAddr,
}

impl Seed {
    /// Reads `host:port` texts, leaving out this node's own addresses.
    pub(super) fn read_all(seeds: &[String], own: OwnAddresses) -> Vec<Self> {
        let seeds = seeds.iter().map(|seed| match seed.parse() {
            Ok(address) => Self::Address(address),
            Err(_) => Self::Name(seed.clone()),
        });
        seeds
            .filter(|seed| seed.address().is_none_or(|address| !own.include(address)))
            .collect()
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Name(_) => None,
        }
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(formatter, "{address}"),
            Self::Name(name) => formatter.write_str(name),
        }
    }
}

impl OwnAddresses {
    pub(super) fn include(&self, address: SocketAddr) -> bool {
        // A socket bound to the unspecified address is reached at every loopback address, such as
        // the 127.0.1.1 that a host's own name often resolves to.
        let bound = self.bound_addr;
        let is_bound_to_all = bound.ip().is_unspecified() && (bound.is_ipv6() || address.is_ipv4());
        let is_on_loopback = address.ip().is_loopback() && address.port() == bound.port();
        [self.cluster_addr, bound].contains(&address) || is_bound_to_all && is_on_loopback
    }
}
