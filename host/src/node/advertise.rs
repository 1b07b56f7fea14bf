//! The address at which other nodes reach this one, as it tells them.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use if_addrs::get_if_addrs;
use tokio::net::lookup_host;
use tokio::time::{Instant, sleep, timeout};

use crate::config::{AdvertisedHost, ConfigError, Network};

/// How long the node's own name may take to have an address: where nodes get their names as they start,
/// it may not have one at first.
const NAME_MAX: Duration = Duration::from_secs(30);
const NAME_PAUSE: Duration = Duration::from_millis(500);

/// How long a seed's name may take to have one, which is a help only.
const SEED_MAX: Duration = Duration::from_secs(2);

/// The address, and how it was found.
pub(super) struct Advertised {
    pub(super) addr: SocketAddr,
    pub(super) because: &'static str,
}

/// Finds the address that other nodes are told; the cluster port is bound to `bound`.
pub(super) async fn find(
    network: &Network,
    seeds: &[String],
    bound: SocketAddr,
) -> Result<Advertised, ConfigError> {
    let bind = network.bind;
    let found = |ip, because| Advertised {
        addr: SocketAddr::new(ip, bound.port()),
        because,
    };
    if let Some(advertise) = &network.advertise {
        let (ip, because) = match &advertise.host {
            AdvertisedHost::Address(ip) => (*ip, "it is set"),
            AdvertisedHost::Name(name) => {
                let ip = address_of(name, bind).await;
                let ip = ip.map_err(|problem| network.name_error(&problem))?;
                (ip, "the name that is set has it")
            }
        };
        let port = advertise.port.unwrap_or(bound.port());
        let addr = SocketAddr::new(ip, port);
        return Ok(Advertised { addr, because });
    }
    if !bind.is_unspecified() {
        return Ok(found(bind, "the node listens there"));
    }
    for seed in seeds {
        if let Some(ip) = source_towards(seed, bind).await {
            return Ok(found(ip, "the way to the seeds begins there"));
        }
    }
    let private = private_address(bind);
    private
        .map(|ip| found(ip, "it is the one private address of this host"))
        .map_err(|problem| network.bind_error(&problem))
}

/// The first address of a name in the bound family, or else why there is none.
async fn address_of(name: &str, bind: IpAddr) -> Result<IpAddr, String> {
    let give_up = Instant::now() + NAME_MAX;
    loop {
        let problem = match lookup_host((name, 0)).await {
            Ok(mut found) => match found.find(|found| found.is_ipv4() == bind.is_ipv4()) {
                Some(address) => return Ok(address.ip()),
                None => format!("it has none in the family of {bind} (bind)"),
            },
            Err(error) => error.to_string(),
        };
        if Instant::now() >= give_up {
            return Err(problem);
        }
        sleep(NAME_PAUSE).await;
    }
}

/// The address of this host from which a seed would be sent to. One on loopback tells nothing: a host's
/// own name often has such an address.
async fn source_towards(seed: &str, bind: IpAddr) -> Option<IpAddr> {
    let addresses = timeout(SEED_MAX, lookup_host(seed)).await.ok()?.ok()?;
    let mut same_family = addresses.filter(|address| address.is_ipv4() == bind.is_ipv4());
    same_family.find_map(|seed| source(seed).ok().filter(|ip| !ip.is_loopback()))
}

/// Nothing is sent: the system looks up the route alone.
fn source(to: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

/// The only private address of this host in the bound address family; otherwise an error text.
fn private_address(bind: IpAddr) -> Result<IpAddr, String> {
    let interfaces =
        get_if_addrs().map_err(|error| format!("this host does not say which it has: {error}"))?;
    choose(bind, interfaces.iter().map(|interface| interface.ip()))
}

/// If there are several, none is chosen: it is unknown which of them peers can reach. Interfaces
/// that are down count, so that the result does not depend on their state.
fn choose(bind: IpAddr, all: impl Iterator<Item = IpAddr>) -> Result<IpAddr, String> {
    let private: BTreeSet<IpAddr> = all
        .filter(|address| address.is_ipv4() == bind.is_ipv4() && is_private(address))
        .collect();
    match (private.first(), private.len()) {
        (Some(one), 1) => Ok(*one),
        (None, _) => Err("this host has no private one".into()),
        _ => {
            let names: Vec<String> = private.iter().map(IpAddr::to_string).collect();
            Err(format!(
                "this host has several private ones: {}",
                names.join(", ")
            ))
        }
    }
}

/// Private by RFC 1918 or RFC 4193.
fn is_private(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_private(),
        IpAddr::V6(address) => address.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_set_or_bound_is_told() {
        let bound: SocketAddr = "127.0.0.1:9742".parse().unwrap();
        for (advertise, expected) in [
            (None, "127.0.0.1:9742"),
            (Some("192.0.2.1"), "192.0.2.1:9742"),
            (Some("192.0.2.1:7000"), "192.0.2.1:7000"),
            (Some("localhost:7000"), "127.0.0.1:7000"),
        ] {
            let network = Network {
                http_port: 0,
                cluster_port: 9_742,
                admin_port: None,
                admin_bind: bound.ip(),
                bind: bound.ip(),
                advertise: advertise.map(|it| it.parse().unwrap()),
            };
            let found = find(&network, &[], bound).await.unwrap();
            assert_eq!(found.addr.to_string(), expected, "{advertise:?}");
        }
    }

    #[tokio::test]
    async fn the_way_to_a_seed_tells_unless_it_is_loopback() {
        let all = Ipv4Addr::UNSPECIFIED.into();
        for seed in [
            "127.0.0.1:9742",
            "localhost:9742",
            "[::1]:9742",
            "no name:1",
        ] {
            assert_eq!(source_towards(seed, all).await, None, "{seed}");
        }
        // The way to an own address begins at it.
        let interfaces = get_if_addrs().unwrap();
        let own = interfaces.iter().map(|interface| interface.ip());
        for ip in own.filter(|ip| ip.is_ipv4() && !ip.is_loopback()) {
            let seed = format!("{ip}:9742");
            assert_eq!(source_towards(&seed, all).await, Some(ip));
        }
    }

    fn check(bind: &str, all: &[&str], expected: Result<&str, &str>) {
        let addresses = all.iter().map(|address| address.parse::<IpAddr>().unwrap());
        let chosen = choose(bind.parse().unwrap(), addresses).map(|address| address.to_string());
        assert_eq!(
            chosen.as_deref().map_err(String::as_str),
            expected,
            "{bind} of {all:?}"
        );
    }

    #[test]
    fn the_one_private_address_is_taken_and_none_of_several() {
        let host = [
            "127.0.0.1",
            "::1",
            "169.254.3.4",
            "fe80::1",
            "10.1.2.3",
            "10.1.2.3",
            "203.0.113.9",
            "fd00::7",
        ];
        check("0.0.0.0", &host, Ok("10.1.2.3"));
        check("::", &host, Ok("fd00::7"));
        check(
            "0.0.0.0",
            &["127.0.0.1", "203.0.113.9", "fd00::7"],
            Err("this host has no private one"),
        );
        let several = Err("this host has several private ones: 172.17.0.1, 192.168.0.2");
        check(
            "0.0.0.0",
            &["192.168.0.2", "172.17.0.1", "127.0.0.1"],
            several,
        );
    }
}
