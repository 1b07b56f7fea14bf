//! The promises of meshage, each proven through real nodes: processes, sockets, components,
//! signals. One file a promise. Tests bind port 0 and wait for what nodes report.
#![allow(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod harness;

mod access;
mod access_log;
mod admin;
mod bad_input;
mod bank;
mod bodies;
mod broadcast;
mod broken;
mod busy;
mod calls;
mod clocks;
mod dashboard;
mod dashboard_page;
mod deploy;
mod failover;
mod faults;
mod floods;
mod greedy_peers;
mod hot_swap;
mod http;
mod instances;
mod javascript;
mod joining;
mod leaving;
mod limits;
mod log;
mod meeting;
mod metrics;
mod offers;
mod one_id;
mod outbound;
mod overload;
#[cfg(target_os = "linux")]
mod partitions;
mod peer_path;
mod projects;
mod python;
mod readme;
mod sandbox;
mod security;
mod send;
mod sends;
mod sharing;
mod signed;
#[cfg(target_os = "linux")]
mod silent_directory;
mod sites;
mod soak;
mod start;
mod state;
#[cfg(target_os = "linux")]
mod state_faults;
mod state_once;
#[cfg(target_os = "linux")]
mod state_postgres;
mod state_tools;
mod stray_files;
mod traces;
mod versions;
mod wasi_http;
