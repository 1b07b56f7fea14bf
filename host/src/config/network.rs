//! Settings for addresses and ports.

use std::net::{IpAddr, SocketAddr};

use super::advertise;
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
    value: "IP",
    help: "Address at which other nodes reach this one",
    default: DefaultValue::Described(
        "the bound one; if that is all of them (0.0.0.0), the host's one private address",
    ),
    expected: "an IP address that other nodes can reach",
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
    pub advertise: IpAddr,
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
            advertise: advertised(settings, bind)?,
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

fn advertised(settings: &Settings, bind: IpAddr) -> Result<IpAddr, ConfigError> {
    match settings.parse_optional::<IpAddr>(&ADVERTISE)? {
        Some(address) if address.is_unspecified() => Err(settings.unexpected(&ADVERTISE)),
        Some(address) => Ok(address),
        None if bind.is_unspecified() => advertise::private_address(bind).map_err(|problem| {
            let expected =
                format!("advertise as well, with the IP that other nodes reach, as {problem}");
            settings.error(&BIND, &expected)
        }),
        None => Ok(bind),
    }
}
