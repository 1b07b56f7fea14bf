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
        let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        threads.insert(
            thread.file_name().to_str().unwrap().to_owned(),
            (name.to_owned(), ticks),
        );
    }
    threads
}
