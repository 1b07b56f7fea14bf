//! Settings of the mesh, and of this node in it.

use std::net::Ipv6Addr;

use super::setting::{ConfigError, DefaultValue, Setting};
use super::written::Settings;
use crate::message::NodeId;

const SEEDS: Setting = Setting {
    name: "seeds",
    variables: &["SEEDS"],
    value: "HOST:PORT,…",
    help: "Cluster ports of other nodes, comma-separated; they may be down, or name this node",
    default: DefaultValue::None,
    expected: "host:port, comma-separated, such as 10.0.0.1:9742",
    is_switch: false,
};

pub(super) const NODE_ID: Setting = Setting {
    name: "node_id",
    variables: &["MESHAGE_NODE_ID"],
    value: "NAME",
    help: "Name of this node; it keeps its keys by it",
    default: DefaultValue::Described("host name + cluster port"),
    expected: "a name of letters, digits, '-', '_' and '.'",
    is_switch: false,
};

const CLUSTER_ID: Setting = Setting {
    name: "cluster_id",
    variables: &["MESHAGE_CLUSTER_ID"],
    value: "NAME",
    help: "Name of the mesh; nodes of another are ignored",
    default: DefaultValue::Value("meshage"),
    expected: "a name",
    is_switch: false,
};

pub(super) const SETTINGS: &[&Setting] = &[&SEEDS, &NODE_ID, &CLUSTER_ID];

#[derive(Debug, Clone)]
pub struct Mesh {
    pub seeds: Vec<String>,
    /// `None`: made of the host name and the bound cluster port.
    pub node_id: Option<NodeId>,
    pub cluster_id: String,
}

impl Mesh {
    pub(super) fn read(settings: &Settings) -> Result<Self, ConfigError> {
        let node_id = settings.optional(&NODE_ID).map(|text| {
            NodeId::try_from(text).map_err(|error| {
                let expected = NODE_ID.expected;
                settings.error(&NODE_ID, &format!("{expected}, but {error}"))
            })
        });
        Ok(Self {
            seeds: seeds(settings)?,
            node_id: node_id.transpose()?,
            cluster_id: settings.text(&CLUSTER_ID).to_owned(),
        })
    }
}

fn seeds(settings: &Settings) -> Result<Vec<String>, ConfigError> {
    let seeds = settings.optional(&SEEDS).unwrap_or_default();
    let seeds = seeds.split(',').map(str::trim);
    let seeds: Vec<String> = seeds
        .filter(|seed| !seed.is_empty())
        .map(str::to_owned)
        .collect();
    for seed in &seeds {
        let is_seed = match seed.rsplit_once(':') {
            Some((host, port)) => is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0),
            None => false,
        };
        if !is_seed {
            let expected = SEEDS.expected;
            return Err(ConfigError::new(&SEEDS, seed, expected));
        }
    }
    Ok(seeds)
}

/// Whether it is a host name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(host: &str) -> bool {
    let unbracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match unbracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && !host.contains(|c: char| c.is_whitespace() || [':', '/'].contains(&c))
        }
    }
}
