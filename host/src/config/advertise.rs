//! The default address to advertise to peers for a node that listens on all addresses of its host.

use std::collections::BTreeSet;
use std::net::IpAddr;

use if_addrs::get_if_addrs;

/// The only private address of this host in the bound address family; otherwise an error text.
pub(super) fn private_address(bind: IpAddr) -> Result<IpAddr, String> {
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
