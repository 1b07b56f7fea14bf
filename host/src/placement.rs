//! Placement: which of the candidates owns a key, by rendezvous (highest random weight) hashing
//! (Thaler and Ravishankar, 1998). Pure: no clock, no I/O. `docs/placement.md` has the definition
//! and its test vectors, so that clients can compute it too.

use std::cmp::Reverse;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::message::NodeId;

/// The seed with which a node scores keys: a hash of its id, computed once for each view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(u64);

impl Seed {
    pub fn of(node: &NodeId) -> Self {
        Self(xxh3_64(node.as_str().as_bytes()))
    }

    /// The score of the node for a key. The candidate with the highest score owns the key.
    pub fn score(self, key: &str) -> u64 {
        xxh3_64_with_seed(key.as_bytes(), self.0)
    }
}

/// The index of the owner. `candidates` must be sorted by node id: on equal scores the smaller id
/// wins.
pub fn owner<C>(candidates: &[C], key: &str, seed: impl Fn(&C) -> Seed) -> Option<usize> {
    let mut best: Option<(usize, u64)> = None;
    for (index, candidate) in candidates.iter().enumerate() {
        let score = seed(candidate).score(key);
        if best.is_none_or(|(_, highest)| score > highest) {
            best = Some((index, score));
        }
    }
    best.map(|(index, _)| index)
}

/// The indices of all candidates, the owner first, in the order in which they are tried when those
/// before cannot be reached.
pub fn ranking<C>(candidates: &[C], key: &str, seed: impl Fn(&C) -> Seed) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..candidates.len()).collect();
    // Stable, so equal scores stay in the order of node ids.
    indices.sort_by_cached_key(|&index| Reverse(seed(&candidates[index]).score(key)));
    indices
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: usize) -> Vec<(NodeId, Seed)> {
        let mut ids: Vec<NodeId> = (1..=count)
            .map(|i| NodeId::try_from(format!("n{i}")).unwrap())
            .collect();
        ids.sort();
        ids.into_iter()
            .map(|id| (id.clone(), Seed::of(&id)))
            .collect()
    }

    fn owner_of<'a>(nodes: &'a [(NodeId, Seed)], key: &str) -> &'a str {
        nodes[owner(nodes, key, |node| node.1).unwrap()].0.as_str()
    }

    #[test]
    fn nobody_owns_a_key_when_there_are_no_candidates() {
        assert_eq!(owner(&[] as &[Seed], "42", |seed| *seed), None);
    }

    /// Checks every test vector of `docs/placement.md`.
    #[test]
    fn vectors_of_the_documentation() {
        let text = include_str!("../../docs/placement.md");
        let nodes = nodes(3);
        let mut checked = 0;
        for line in text.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line
                .trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().trim_matches('`'))
                .collect();
            if let [key, scores @ .., ranking] = cells.as_slice() {
                let found: Vec<String> = nodes
                    .iter()
                    .map(|(_, seed)| format!("{:016x}", seed.score(key)))
                    .collect();
                assert_eq!(found, scores, "scores of {key:?}");
                let ids: Vec<&str> = super::ranking(&nodes, key, |node| node.1)
                    .into_iter()
                    .map(|index| nodes[index].0.as_str())
                    .collect();
                assert_eq!(ids.join(", "), *ranking, "ranking of {key:?}");
                checked += 1;
            }
        }
        assert!(checked >= 8, "only {checked} vectors found");
    }

    #[test]
    fn the_ranking_begins_with_the_owner_and_names_everyone_once() {
        let nodes = nodes(7);
        for key in 0..1_000 {
            let key = key.to_string();
            let mut ranked = ranking(&nodes, &key, |node| node.1);
            assert_eq!(Some(ranked[0]), owner(&nodes, &key, |node| node.1));
            ranked.sort();
            assert_eq!(ranked, (0..7).collect::<Vec<_>>());
        }
    }

    #[track_caller]
    fn check_balance(count: usize, max_over_mean: f64) {
        let nodes = nodes(count);
        let keys = 100_000;
        let mut owned = vec![0u32; count];
        for key in 0..keys {
            owned[owner(&nodes, &format!("key-{key}"), |node| node.1).unwrap()] += 1;
        }
        let max = f64::from(*owned.iter().max().unwrap());
        let found = max / (f64::from(keys) / count as f64);
        assert!(
            found <= max_over_mean,
            "max/mean is {found:.4} over {count} nodes"
        );
    }

    #[test]
    fn keys_are_balanced() {
        check_balance(3, 1.02);
        check_balance(30, 1.07);
    }

    #[test]
    fn a_node_that_joins_takes_its_share_and_moves_nothing_else() {
        let (before, after) = (nodes(4), nodes(5));
        let keys = 20_000;
        let mut moved = 0;
        for key in 0..keys {
            let key = key.to_string();
            let (old, new) = (owner_of(&before, &key), owner_of(&after, &key));
            if old != new {
                assert_eq!(
                    new, "n5",
                    "{key} moved between nodes that were there before"
                );
                moved += 1;
            }
        }
        let share = f64::from(moved) / f64::from(keys);
        assert!((0.18..0.22).contains(&share), "{share} of the keys moved");
    }
}
