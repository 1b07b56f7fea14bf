//! Settings for addresses and ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::setting::{ConfigError, DefaultValue, Setting};
use super::written::Settings;

/// Added to the public API's port to get the default for the admin API's.
const ADMIN_PORT_OFFSET: u16 = 1_000;

const HTTP_PORT: Setting = Setting {
    name: "http_port",
    variables: &["HTTP_PORT", "SERVICE_PORT"],
    value: "PORT",
    help: "Port of the public API, HTTP/1.1 and HTTP/2",
    default: DefaultValue::Value("8080"),
    expected: PORT,
    is_switch: false,
};

const CLUSTER_PORT: Setting = Setting {
    name: "cluster_port",
    variables: &["CLUSTER_PORT"],
    value: "PORT",
    help: "Port between nodes: UDP for gossip, TCP for messages",
    default: DefaultValue::Value("9742"),
    expected: PORT,
    is_switch: false,
};

const ADMIN_PORT: Setting = Setting {
    name: "admin_port",
    variables: &["ADMIN_PORT"],
    value: "PORT",
    help: "Port of the admin API",
    default: DefaultValue::Described("HTTP port + 1000; any, if that is 0"),
    expected: PORT,
    is_switch: false,
};

pub(super) const ADMIN_BIND: Setting = Setting {
    name: "admin_bind",
    variables: &["MESHAGE_ADMIN_BIND"],
    value: "IP",
    help: "Address of the admin API",
    default: DefaultValue::Value("127.0.0.1"),
    expected: "an IP address of this host",
    is_switch: false,
};

pub(super) const BIND: Setting = Setting {
    name: "bind",
    variables: &["MESHAGE_BIND"],
    value: "IP",
    help: "Address of the public API and the cluster port",
    default: DefaultValue::Value("127.0.0.1"),
    expected: "an IP address of this host, or 0.0.0.0",
    is_switch: false,
};

const ADVERTISE: Setting = Setting {
    name: "advertise",
    variables: &["MESHAGE_ADVERTISE"],
    value: "HOST[:PORT]",
    help: "Address or name at which other nodes reach this one, and the cluster port there if it is another one",
    default: DefaultValue::Described(
        "the bound one; if that is all of them (0.0.0.0), the one from which the first seed is reached, else the host's one private address",
    ),
    expected: "an IP address or a name that other nodes can reach, such as 10.0.0.1, node-1.example or 10.0.0.1:9742",
    is_switch: false,
};

pub(super) const SETTINGS: &[&Setting] = &[
    &HTTP_PORT,
    &CLUSTER_PORT,
    &ADMIN_PORT,
    &ADMIN_BIND,
    &BIND,
    &ADVERTISE,
];

/// The longest name that there can be (RFC 1035).
const NAME_BYTES_MAX: usize = 253;

const PORT: &str = "a port number from 0 (any free one) to 65535";

#[derive(Debug, Clone)]
pub struct Network {
    /// 0 means any free port, here and below.
    pub http_port: u16,
    pub cluster_port: u16,
    /// `None`: the bound port of the public API, plus 1000.
    pub admin_port: Option<u16>,
    pub admin_bind: IpAddr,
    pub bind: IpAddr,
    /// `None`: it is to be found.
    pub advertise: Option<Advertise>,
}

/// Where other nodes reach this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertise {
    pub host: AdvertisedHost,
    /// `None`: the bound cluster port.
    pub port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdvertisedHost {
    Address(IpAddr),
    Name(String),
}

impl Network {
    pub(super) fn read(settings: &Settings) -> Result<Self, ConfigError> {
        let http_port = settings.parse(&HTTP_PORT)?;
        let admin_port = settings.parse_optional(&ADMIN_PORT)?;
        if admin_port.is_none() && http_port > u16::MAX - ADMIN_PORT_OFFSET {
            let expected = "at most 64535, or admin_port as well";
            return Err(settings.error(&HTTP_PORT, expected));
        }
        let bind = settings.parse(&BIND)?;
        let network = Self {
            http_port,
            cluster_port: settings.parse(&CLUSTER_PORT)?,
            admin_port,
            admin_bind: settings.parse(&ADMIN_BIND)?,
            bind,
            advertise: settings.parse_optional(&ADVERTISE)?,
        };
        match network.colliding_ports() {
            Some([one, other]) => {
                let expected =
                    format!("three different ports, but the {one} port is the {other} port");
                Err(settings.error(&HTTP_PORT, &expected))
            }
            None => Ok(network),
        }
    }

    /// The admin API's address, given the bound port of the public API.
    pub fn admin_addr(&self, http_port: u16) -> SocketAddr {
        let port = self.admin_port.unwrap_or_else(|| {
            // With port 0 the system may choose a port that leaves no room above it.
            if self.http_port == 0 {
                0
            } else {
                http_port.saturating_add(ADMIN_PORT_OFFSET)
            }
        });
        SocketAddr::new(self.admin_bind, port)
    }

    /// Where a node of these settings, on this host, says how it is.
    pub(super) fn asked_at(&self, settings: &Settings) -> Result<SocketAddr, ConfigError> {
        let mut addr = self.admin_addr(self.http_port);
        if addr.port() == 0 {
            return Err(settings.error(&ADMIN_PORT, "the port of the node that runs"));
        }
        if addr.ip().is_unspecified() {
            let loopback = match addr {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            addr.set_ip(loopback);
        }
        Ok(addr)
    }

    /// The error if no address can be found to be told other nodes.
    pub fn bind_error(&self, problem: &str) -> ConfigError {
        let expected = format!(
            "advertise as well, with the address or the name that other nodes reach: no seed tells which it is, and {problem}"
        );
        ConfigError::new(&BIND, &self.bind.to_string(), &expected)
    }

    /// The error if the name at which other nodes reach this one has no address.
    pub fn name_error(&self, problem: &str) -> ConfigError {
        let name = match &self.advertise {
            Some(Advertise {
                host: AdvertisedHost::Name(name),
                ..
            }) => name.clone(),
            _ => String::new(),
        };
        let expected = format!("an address, or a name that has one: {problem}");
        ConfigError::new(&ADVERTISE, &name, &expected)
    }

    /// Two settings with the same port on the same address, if there are any.
    fn colliding_ports(&self) -> Option<[&'static str; 2]> {
        let http = ("HTTP", self.bind, self.http_port);
        let cluster = ("cluster", self.bind, self.cluster_port);
        let admin = (
            "admin",
            self.admin_bind,
            self.admin_addr(self.http_port).port(),
        );
        [(http, cluster), (http, admin), (cluster, admin)]
            .into_iter()
            .find(|((_, ip, port), (_, other_ip, other_port))| {
                let one_address =
                    ip == other_ip || ip.is_unspecified() || other_ip.is_unspecified();
                *port != 0 && port == other_port && one_address
            })
            .map(|((one, ..), (other, ..))| [one, other])
    }
}

/// Not the text of an address or a name that others can reach.
#[derive(Debug)]
pub struct NotReachable;

impl FromStr for Advertise {
    type Err = NotReachable;

    fn from_str(text: &str) -> Result<Self, NotReachable> {
        let address = |ip: IpAddr, port| {
            let host = AdvertisedHost::Address(ip);
            (!ip.is_unspecified() && port != Some(0))
                .then_some(Self { host, port })
                .ok_or(NotReachable)
        };
        if let Ok(ip) = text.parse() {
            return address(ip, None);
        }
        if let Ok(with_port) = text.parse::<SocketAddr>() {
            return address(with_port.ip(), Some(with_port.port()));
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().map_err(|_| NotReachable)?)),
            None => (text, None),
        };
        let is_part = |it: char| it.is_ascii_alphanumeric() || "-._".contains(it);
        // What has only digits was meant as an address.
        let is_name =
            name.chars().all(is_part) && name.contains(|it: char| it.is_ascii_alphabetic());
        if !is_name || name.len() > NAME_BYTES_MAX || port == Some(0) {
            return Err(NotReachable);
        }
        let host = AdvertisedHost::Name(name.to_owned());
        Ok(Self { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_with_and_without_ports_are_read() {
        let address = |text: &str| AdvertisedHost::Address(text.parse().unwrap());
        let name = |text: &str| AdvertisedHost::Name(text.into());
        for (text, host, port) in [
            ("10.0.0.1", address("10.0.0.1"), None),
            ("10.0.0.1:7000", address("10.0.0.1"), Some(7_000)),
            ("fd00::7", address("fd00::7"), None),
            ("[fd00::7]:7000", address("fd00::7"), Some(7_000)),
            ("node-1.mesh", name("node-1.mesh"), None),
            ("node-1:7000", name("node-1"), Some(7_000)),
        ] {
            assert_eq!(text.parse::<Advertise>().unwrap(), Advertise { host, port });
        }
        for text in [
            "",
            "0.0.0.0",
            "::",
            "[::]:1",
            "10.0.0",
            "10.0.0.1:0",
            "node:0",
            "node:x",
            "node:70000",
            "http://node",
            "no de",
            ":7000",
        ] {
            assert!(text.parse::<Advertise>().is_err(), "{text}");
        }
    }
}
