//! What the tests run against: nodes as separate processes, HTTP clients, fake peers and servers,
//! and networks that fail.

mod browser;
mod client;
mod collector;
pub(crate) mod frames;
mod gate;
mod hand_made;
mod http2;
mod journal;
mod journal_nodes;
#[cfg(target_os = "linux")]
mod later;
#[cfg(target_os = "linux")]
mod mounts;
mod node;
#[cfg(target_os = "linux")]
mod one_core;
mod open_files;
mod plugins;
mod proxy;
mod sdk;
mod secret;
mod state;
mod taken;
mod tally;
mod traffic;
mod web;
#[cfg(target_os = "linux")]
mod wire;

use std::io::Write as _;

pub(crate) use browser::Browser;
pub(crate) use client::{Answer, Client, Crowd, Request};
pub(crate) use collector::{Collector, attribute};
pub(crate) use gate::Gate;
pub(crate) use hand_made::HandMade;
pub(crate) use http2::Http2;
pub(crate) use journal::Writers;
pub(crate) use journal_nodes::{
    act, journal, journal_mesh, journal_setup, kill_again_and_again, list,
};
#[cfg(target_os = "linux")]
pub(crate) use later::LaterVersions;
#[cfg(target_os = "linux")]
pub(crate) use mounts::own_mounts;
pub(crate) use node::{
    Node, Reader, Setup, binary, mesh, mesh_of, port_known_beforehand, refs, until, until_within,
    wait_for_mesh,
};
pub(crate) use open_files::need_open_files;
pub(crate) use plugins::{Plugins, guest, module, other, stamped};
pub(crate) use proxy::{Mode as ProxyMode, Proxy};
pub(crate) use sdk::Sdk;
pub(crate) use secret::{Secret, new_secret};
pub(crate) use state::{State, on_both_stores};
pub(crate) use taken::{taken, threads, yielding};
pub(crate) use tally::{check_cart, check_tally, examples};
pub(crate) use traffic::{IN_FLIGHT_MAX, Sent, Traffic};
pub(crate) use web::check_requests;
#[cfg(target_os = "linux")]
pub(crate) use wire::{Path, Place, Wire};

/// Reports on the terminal that a test is skipped because the machine lacks something. Written
/// straight to stderr: the test runner captures what passing tests print.
pub(crate) fn skipped(test: &str, needs: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: it needs {needs}");
}

/// Timeout for anything that might hang. Generous, because the machine may be busy with a build.
pub(crate) const HANG: std::time::Duration = std::time::Duration::from_secs(60);
