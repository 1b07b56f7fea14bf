use std::net::SocketAddr;

use super::advert::{from_key_values, to_key_values};
use super::parts::Joiner;
use super::transport::read_message;
use crate::security::{Opener, Sealer, keyring};

const NOW_MS: u64 = 1_800_000_000_000;

/// Feeds the data in twice: unsealed, as from a stranger, and then sealed with the cluster secret.
pub fn gossip(data: &[u8]) {
    let keyring = keyring(&[1]);
    let mut opener = Opener::new(&keyring, "mesh");
    assert!(
        opener.open(NOW_MS, &mut data.to_vec()).is_err(),
        "nobody seals by chance"
    );

    let mut datagram = Vec::new();
    Sealer::new(&keyring, "mesh").seal(NOW_MS, data, &mut datagram);
    let part = opener
        .open(NOW_MS, &mut datagram)
        .expect("what was sealed opens")
        .to_vec();
    assert_eq!(part, data);

    let from = SocketAddr::from(([127, 0, 0, 1], 1));
    for part in [&part[..], &[&[0, 0, 0, 0, 0, 1], data].concat()] {
        if let Some(message) = Joiner::default().take(from, part) {
            let _ = read_message(&message);
        }
    }
    read_advert(from, data);
}

/// Reads each `key=value` line as one of a node's gossip keys. A node that results must survive a
/// round trip.
fn read_advert(from: SocketAddr, data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let key_values = text.lines().filter_map(|line| line.split_once('='));
    if let Some(node) = from_key_values("n1", 1, from, key_values) {
        let said = to_key_values(&node);
        let key_values = said
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        assert_eq!(from_key_values("n1", 1, from, key_values), Some(node));
    }
}
