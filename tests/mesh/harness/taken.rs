//! What a running node takes of the system, by what Linux says of its process.

use std::fs;

use super::Node;

/// What a node takes of the system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    pub(crate) resident_mb: u64,
    pub(crate) threads: usize,
    pub(crate) files: usize,
}

pub(crate) fn taken(node: &Node) -> Taken {
    let process = |file: &str| format!("/proc/{}/{file}", node.process_id());
    let status = fs::read_to_string(process("status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident_kb: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    let count = |folder: &str| fs::read_dir(process(folder)).unwrap().count();
    Taken { resident_mb: resident_kb / 1024, threads: count("task"), files: count("fd") }
}
