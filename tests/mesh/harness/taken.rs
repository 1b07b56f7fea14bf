//! Resource usage of a running node, read from `/proc`.

use std::collections::BTreeMap;
use std::fs;

use super::Node;

/// Resource usage of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    pub(crate) resident_mb: u64,
    pub(crate) threads: usize,
    pub(crate) files: usize,
}

pub(crate) fn taken(node: &Node) -> Taken {
    let process = |file: &str| format!("/proc/{}/{file}", node.process_id());
    let status = fs::read_to_string(process("status")).unwrap();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let resident_kb: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    let count = |folder: &str| fs::read_dir(process(folder)).unwrap().count();
    Taken {
        resident_mb: resident_kb / 1024,
        threads: count("task"),
        files: count("fd"),
    }
}

/// Name and CPU time (in clock ticks) of each thread of a node, by thread id.
pub(crate) fn threads(node: &Node) -> BTreeMap<String, (String, u64)> {
    let taken = |fields: &[&str]| -> u64 {
        let ticks = |field: &str| field.parse::<u64>().unwrap();
        ticks(fields[11]) + ticks(fields[12])
    };
    stats(node, taken)
}

/// Whether each thread of a node with this name runs only when no other wants to (`SCHED_IDLE`).
pub(crate) fn yielding(node: &Node, name: &str) -> Vec<bool> {
    let policies = stats(node, |fields| fields[38] == "5").into_values();
    let of_name = policies.filter(|(thread, _)| thread == name);
    of_name.map(|(_, is_idle)| is_idle).collect()
}

/// Name of each thread of a node, and what its `stat` says from its third field on, by thread id.
fn stats<T>(node: &Node, read: impl Fn(&[&str]) -> T) -> BTreeMap<String, (String, T)> {
    let mut threads = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{}/task", node.process_id())).unwrap() {
        let thread = thread.unwrap();
        // The thread may have exited meanwhile.
        let Ok(stat) = fs::read_to_string(thread.path().join("stat")) else {
            continue;
        };
        let (name, rest) = stat
            .split_once('(')
            .and_then(|(_, rest)| rest.rsplit_once(") "))
            .unwrap();
        let fields: Vec<&str> = rest.split(' ').collect();
        let id = thread.file_name().to_str().unwrap().to_owned();
        threads.insert(id, (name.to_owned(), read(&fields)));
    }
    threads
}
