//! Seeds: addresses at which to look for the mesh. Each is resolved and contacted on its own, again
//! and again: a name may resolve to other addresses later, or to many, and one that does not
//! resolve must not delay the others.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::sleep;

use super::contacts::Contacts;
use super::seed::{OwnAddresses, Seed};

/// Pause before a seed is resolved and contacted again. A node that was started before its seeds
/// finds them this soon after they are up.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(2);

/// Most addresses of one name that are contacted. One is enough, as any node of the mesh knows all
/// the others.
const ADDRESSES_MAX: usize = 256;

/// Contacts all seeds concurrently and repeatedly for as long as it is polled, and notes in
/// `contacts` what their names resolve to. `look_up` resolves a name; it is never cancelled, as the
/// system's resolver would still occupy its thread until it gives up. `ask` starts gossip with an
/// address.
pub(super) async fn contact_seeds<F>(
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
            .map(|(index, seed)| contact_seed(index, seed, own, contacts, look_up, ask)),
    )
    .await;
    // Reached only if there are no seeds.
    pending().await
}

async fn contact_seed<F>(
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

/// Notes the result of a lookup, and returns the addresses to contact.
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

/// Resolves a `host:port` name with the system's resolver.
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

    /// The first address that is contacted. `good` resolves to the node itself and another, `bad`
    /// fails, and all other names stay unresolved.
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
        let asking = contact_seeds(seeds, OWN, contacts, look_up, |address| {
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
