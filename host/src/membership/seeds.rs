//! Seeds: where to look for the mesh. Each is asked by itself, again and again: a name may come to
//! mean something else, or many nodes, and one that does not resolve holds up no other.

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::sleep;

use super::contacts::Contacts;

/// How long after a name was resolved, and what it means asked, that is done again: a node that was
/// started before its seeds finds them this soon.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(2);

/// Addresses of one name that are asked. Any one node of the mesh knows all the others.
const ADDRESSES_MAX: usize = 256;

/// A seed, as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seed {
    Address(SocketAddr),
    /// `host:port`.
    Name(String),
}

/// What is no other node.
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
    fn include(&self, address: SocketAddr) -> bool {
        // Bound to all addresses, it has every one on loopback, such as the 127.0.1.1 that a host's
        // name often means.
        let bound = self.bound_addr;
        let is_bound_to_all = bound.ip().is_unspecified() && (bound.is_ipv6() || address.is_ipv4());
        let is_on_loopback = address.ip().is_loopback() && address.port() == bound.port();
        [self.cluster_addr, bound].contains(&address) || is_bound_to_all && is_on_loopback
    }
}

/// Asks the seeds for as long as it is polled, all at the same time, and notes what their names
/// mean. `look_up` finds out what a name means, and is never dropped half-way: the system's
/// resolver would keep its thread until it gives up. `ask` starts to gossip with an address.
pub(super) async fn ask_again_and_again<F>(
    seeds: &[Seed],
    own: OwnAddresses,
    contacts: &watch::Sender<Contacts>,
    look_up: impl Fn(String) -> F,
    ask: impl Fn(SocketAddr),
) -> Infallible
where
    F: Future<Output = io::Result<Vec<SocketAddr>>>,
{
    let (look_up, ask) = (&look_up, &ask);
    join_all(
        seeds
            .iter()
            .enumerate()
            .map(|(index, seed)| ask_one(index, seed, own, contacts, look_up, ask)),
    )
    .await;
    // There are none.
    pending().await
}

async fn ask_one<F>(
    index: usize,
    seed: &Seed,
    own: OwnAddresses,
    contacts: &watch::Sender<Contacts>,
    look_up: &impl Fn(String) -> F,
    ask: &impl Fn(SocketAddr),
) -> Infallible
where
    F: Future<Output = io::Result<Vec<SocketAddr>>>,
{
    loop {
        match seed {
            Seed::Address(address) => ask(*address),
            Seed::Name(name) => {
                contacts.send_modify(|contacts| contacts.lookup_begins(index, Instant::now()));
                let found = look_up(name.clone()).await;
                resolved(index, found, own, contacts)
                    .into_iter()
                    .for_each(ask);
            }
        }
        sleep(RESOLVE_INTERVAL).await;
    }
}

/// Notes what came of looking a name up, and returns whom to ask.
fn resolved(
    index: usize,
    found: io::Result<Vec<SocketAddr>>,
    own: OwnAddresses,
    contacts: &watch::Sender<Contacts>,
) -> Vec<SocketAddr> {
    let no_address = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let found = found.and_then(|found| {
        if found.is_empty() {
            Err(no_address())
        } else {
            Ok(found)
        }
    });
    let now = Instant::now();
    match found {
        Ok(found) => {
            let (this_node, mut others): (Vec<_>, Vec<_>) =
                found.into_iter().partition(|address| own.include(*address));
            others.truncate(ADDRESSES_MAX);
            contacts.send_modify(|contacts| {
                contacts.resolved(index, &others, !this_node.is_empty(), now)
            });
            others
        }
        Err(error) => {
            contacts.send_modify(|contacts| contacts.unresolved(index, error.to_string(), now));
            Vec::new()
        }
    }
}

/// What a name means, by the system's resolver.
pub(super) async fn look_up(name: String) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host(name).await?.collect())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc::unbounded_channel;
    use tokio::time::timeout;

    use super::*;

    /// Generous: the machine may be busy.
    const HANG: Duration = Duration::from_secs(60);

    const OWN: OwnAddresses = OwnAddresses {
        cluster_addr: addr(1),
        bound_addr: addr(2),
    };

    const fn addr(port: u16) -> SocketAddr {
        SocketAddr::new(
            std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)),
            port,
        )
    }

    fn read(seeds: &[&str], own: OwnAddresses) -> Vec<Seed> {
        let seeds: Vec<String> = seeds.iter().map(|seed| (*seed).to_owned()).collect();
        Seed::read_all(&seeds, own)
    }

    #[test]
    fn addresses_and_names_are_told_apart_and_the_node_itself_is_left_out() {
        let seeds = read(
            &[
                "10.0.0.1:3",
                "[::1]:9",
                "host:3",
                "10.0.0.1:1",
                "10.0.0.1:2",
            ],
            OWN,
        );
        let address = |text: &str| Seed::Address(text.parse().unwrap());
        assert_eq!(
            seeds,
            [
                address("10.0.0.1:3"),
                address("[::1]:9"),
                Seed::Name("host:3".into())
            ]
        );
        let own = OwnAddresses {
            bound_addr: ([0, 0, 0, 0], 2).into(),
            ..OWN
        };
        assert_eq!(
            read(&["127.0.1.1:2", "127.0.1.1:3"], own),
            [address("127.0.1.1:3")]
        );
    }

    /// What is asked first, while `stuck` and all names that begin so do not resolve, and `good`
    /// means the node itself and another.
    async fn first_asked(
        seeds: &[Seed],
        contacts: &watch::Sender<Contacts>,
        lookups: &AtomicUsize,
    ) -> SocketAddr {
        let (asked_sender, mut asked) = unbounded_channel();
        let look_up = |name: String| async move {
            lookups.fetch_add(1, Ordering::Relaxed);
            match name.as_str() {
                "good" => Ok(vec![addr(1), addr(7)]),
                "bad" => Err(io::Error::other("no such name")),
                _ => pending().await,
            }
        };
        let asking = ask_again_and_again(seeds, OWN, contacts, look_up, |address| {
            asked_sender.send(address).unwrap()
        });
        let first = async {
            tokio::select! {
                never = asking => match never {},
                first = asked.recv() => first.unwrap(),
            }
        };
        timeout(HANG, first).await.expect("nothing is asked")
    }

    #[tokio::test]
    async fn names_that_do_not_resolve_hold_up_no_other() {
        let names = ["stuck-1", "stuck-2", "bad", "stuck-3", "good"];
        let seeds: Vec<Seed> = names
            .iter()
            .map(|name| Seed::Name((*name).to_owned()))
            .collect();
        let began = Instant::now();
        let contacts = watch::Sender::new(Contacts::new(&seeds, began));
        let lookups = AtomicUsize::new(0);
        assert_eq!(
            first_asked(&seeds, &contacts, &lookups).await,
            addr(7),
            "the node does not ask itself"
        );
        assert_eq!(
            lookups.load(Ordering::Relaxed),
            names.len(),
            "each name is looked up once at a time"
        );
    }

    #[tokio::test]
    async fn an_address_waits_for_no_name() {
        let seeds = [Seed::Name("stuck".into()), Seed::Address(addr(3))];
        let contacts = watch::Sender::new(Contacts::new(&seeds, Instant::now()));
        assert_eq!(
            first_asked(&seeds, &contacts, &AtomicUsize::new(0)).await,
            addr(3)
        );
    }
}
