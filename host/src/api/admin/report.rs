//! What one node says of itself: the figures behind the dashboard, as JSON. Counters count from the node's start; who
//! reads two reports makes rates of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde::Serialize;

use super::figures::{Figures, StateFigures, StreamFigures};
use super::shared::{Admin, millis};
use crate::message::{Digest, NodeId};
use crate::peer::BreakerState;
use crate::plugins::{Failed, Plugin, PluginState};
use crate::runtime::INSTANCES_MAX;
use crate::telemetry::{Event, SECONDS_BUCKETS};

const NOT_WORKING: &str = "it does not work: messages of stateful streams are refused; the log says why (`state-unavailable`)";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    version: &'static str,
    /// Milliseconds since 1970, as all times here.
    at: u64,
    started_at: u64,
    breakers: BTreeMap<NodeId, BreakerState>,
    client_connections: Connections,
    peer_connections: u64,
    bodies: Bytes,
    instances: InstancesMade,
    log_lines_dropped: u64,
    /// By type.
    problems: BTreeMap<String, u64>,
    /// Upper bounds of all histograms, in seconds.
    bounds: [f64; SECONDS_BUCKETS.len()],
    streams: Vec<Stream>,
    plugins: Vec<Version>,
    state: Option<State>,
    events: Vec<Event>,
}

#[derive(Serialize)]
struct Connections {
    open: u64,
    max: usize,
}

#[derive(Serialize)]
struct Bytes {
    bytes: usize,
    max: usize,
}

#[derive(Serialize)]
struct InstancesMade {
    made: usize,
    max: u32,
}

#[derive(Serialize)]
struct Stream {
    stream: String,
    #[serde(flatten)]
    figures: StreamFigures,
    #[serde(flatten)]
    own: Option<Own>,
}

/// Of a stream that the node offers itself.
#[derive(Serialize)]
struct Own {
    calls: u64,
    running: usize,
    concurrency: usize,
    waiting: usize,
    queue: usize,
    /// Instances.
    idle: usize,
}

/// A version of a plugin, or what could not be loaded.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    stream: String,
    file: String,
    digest: Digest,
    state: PluginState,
    error: Option<String>,
    loaded_at: u64,
    is_stateful: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State {
    store: &'static str,
    problem: Option<&'static str>,
    active_entities: usize,
    cached_bytes: usize,
    #[serde(flatten)]
    figures: StateFigures,
}

impl Admin {
    /// What this node says of itself.
    pub(super) fn report(&self) -> Report {
        let Figures {
            client_connections,
            peer_connections,
            log_lines_dropped,
            problems,
            streams,
            state,
        } = Figures::of(&self.render_metrics());
        let versions = self.catalog.plugins();
        let own = own_streams(versions.iter().map(|(_, plugin)| &**plugin));
        let made = own.values().map(|own| own.idle + own.running).sum();
        let not_shared = self.entities.not_shared();
        let loaded = versions
            .iter()
            .map(|(state, plugin)| version(*state, plugin, not_shared.as_deref()));
        let failed = self.catalog.failed();
        let plugins = loaded.chain(failed.iter().map(|failed| failure(failed)));
        Report {
            version: env!("CARGO_PKG_VERSION"),
            at: millis(SystemTime::now()),
            started_at: millis(self.started_at),
            breakers: self.dispatcher.breakers(),
            client_connections: Connections {
                open: client_connections,
                max: self.connections_max,
            },
            peer_connections,
            bodies: Bytes {
                bytes: self.bodies.bytes(),
                max: self.bodies.bytes_max(),
            },
            instances: InstancesMade {
                made,
                max: INSTANCES_MAX,
            },
            log_lines_dropped,
            problems,
            bounds: SECONDS_BUCKETS,
            streams: join(streams, own),
            plugins: plugins.collect(),
            state: self.entities.status().map(|status| State {
                store: status.store,
                problem: (!status.is_working).then_some(NOT_WORKING),
                active_entities: status.entities,
                cached_bytes: status.bytes,
                figures: state,
            }),
            events: self.events.all(),
        }
    }
}

fn own_streams<'a>(plugins: impl Iterator<Item = &'a Plugin>) -> BTreeMap<String, Own> {
    let mut streams = BTreeMap::new();
    for plugin in plugins {
        // All versions of a stream share the admission.
        let own = streams
            .entry(plugin.stream.to_string())
            .or_insert_with(|| Own {
                calls: plugin.admission.calls(),
                running: plugin.admission.running(),
                concurrency: plugin.admission.concurrency(),
                waiting: plugin.admission.waiting(),
                queue: plugin.admission.queue(),
                idle: 0,
            });
        own.idle += plugin.handler.idle_instances();
    }
    streams
}

fn join(
    mut figures: BTreeMap<String, StreamFigures>,
    mut own: BTreeMap<String, Own>,
) -> Vec<Stream> {
    let names: BTreeSet<String> = figures.keys().chain(own.keys()).cloned().collect();
    let join = |stream: String| Stream {
        figures: figures.remove(&stream).unwrap_or_default(),
        own: own.remove(&stream),
        stream,
    };
    names.into_iter().map(join).collect()
}

fn version(state: PluginState, plugin: &Plugin, not_shared: Option<&str>) -> Version {
    let is_stateful = plugin.handler.is_stateful();
    let error = not_shared.filter(|_| is_stateful);
    Version {
        stream: plugin.stream.to_string(),
        file: plugin.origin.clone(),
        digest: plugin.digest.clone(),
        state: error.map_or(state, |_| PluginState::Failed),
        error: error.map(str::to_owned),
        loaded_at: millis(plugin.loaded_at),
        is_stateful,
    }
}

fn failure(failed: &Failed) -> Version {
    Version {
        stream: failed.name.clone(),
        file: failed.origin.clone(),
        digest: failed.digest.clone(),
        state: PluginState::Failed,
        error: Some(failed.error.clone()),
        loaded_at: millis(failed.failed_at),
        is_stateful: false,
    }
}
