//! What the answers of the admin API are made from.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::watch;

use crate::bodies::BodyMemory;
use crate::dispatch::Dispatcher;
use crate::entities::Entities;
use crate::membership::{Node, View};
use crate::message::{NodeId, PartitionKey, StreamName};
use crate::placement::{self, Seed};
use crate::plugins::{Catalog, Sharing};
use crate::security::{Sessions, Tokens};
use crate::telemetry::{Events, InstanceGauges, Metrics, Throttle};

/// Entities, values or messages that one answer has at most.
const LIMIT_MAX: usize = 1000;
const LIMIT_DEFAULT: usize = 100;

/// The steps after which a node is ready, and whether it still is.
#[derive(Default)]
pub struct Readiness(AtomicU8);

const LOADING: u8 = 0;
const JOINING: u8 = 1;
const READY: u8 = 2;
const LEAVING: u8 = 3;

impl Readiness {
    pub fn plugins_loaded(&self) {
        self.0.store(JOINING, Ordering::Release);
    }

    pub fn joined(&self) {
        self.0.store(READY, Ordering::Release);
    }

    pub fn leaving(&self) {
        self.0.store(LEAVING, Ordering::Release);
    }

    /// What is missing before the node is ready.
    pub(super) fn missing(&self) -> Option<&'static str> {
        match self.0.load(Ordering::Acquire) {
            LOADING => Some("plugins are loading"),
            JOINING => Some("the first gossip round is not done"),
            READY => None,
            _ => Some("the node is leaving"),
        }
    }
}

/// What the admin API shows.
#[derive(Clone)]
pub struct Admin {
    pub view: watch::Receiver<Arc<View>>,
    pub dispatcher: Arc<Dispatcher>,
    pub catalog: Arc<Catalog>,
    pub entities: Arc<Entities>,
    /// If the mesh shares its plugins.
    pub sharing: Option<Arc<Sharing>>,
    pub readiness: Arc<Readiness>,
    pub metrics: Metrics,
    pub instances: Arc<InstanceGauges>,
    pub events: Events,
    pub bodies: &'static BodyMemory,
    pub connections_max: usize,
    pub started_at: SystemTime,
    /// Of this API.
    pub port: u16,
    /// `None`: no token is required.
    pub tokens: Option<watch::Receiver<Arc<Tokens>>>,
    pub kept: Arc<Kept>,
}

/// What the admin API keeps from one request to the next.
#[derive(Default)]
pub struct Kept {
    pub(super) sessions: Sessions,
    pub(super) wrong_tokens: Throttle<IpAddr>,
    pub(super) report: Recent,
    pub(super) overview: Recent,
    /// Held while the other nodes are asked: who comes meanwhile gets the same.
    pub(super) asking: tokio::sync::Mutex<()>,
}

/// How long an answer is good for whoever asks.
const RECENT: Duration = Duration::from_secs(1);

/// JSON that was made a moment ago.
#[derive(Default)]
pub(super) struct Recent(Mutex<Option<(Instant, Bytes)>>);

impl Recent {
    pub(super) fn get(&self) -> Option<Bytes> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (made, json) = kept.as_ref()?;
        (made.elapsed() < RECENT).then(|| json.clone())
    }

    /// Keeps what was made; returns it.
    pub(super) fn set(&self, json: Vec<u8>) -> Bytes {
        let json = Bytes::from(json);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some((Instant::now(), json.clone()));
        json
    }
}

/// A time as JSON has it: milliseconds since 1970.
pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}

/// # Errors
/// Which of the two cannot be used, and why.
pub(super) fn names_of(stream: String, key: String) -> Result<(StreamName, PartitionKey), String> {
    let stream = StreamName::try_from(stream);
    let stream = stream.map_err(|error| format!("the stream cannot be used: {error}"))?;
    let key = PartitionKey::try_from(key);
    let key = key.map_err(|error| format!("the partition key cannot be used: {error}"))?;
    Ok((stream, key))
}

impl Admin {
    /// The candidates for a key, the owner first.
    pub(super) fn ranking(&self, stream: &StreamName, key: &PartitionKey) -> Vec<NodeId> {
        let view = self.view.borrow().clone();
        let candidates = view.candidates().remove(stream).unwrap_or_default();
        let seed = |node: &&Node| Seed::of(&node.node_id);
        placement::ranking(&candidates, key.as_str(), seed)
            .into_iter()
            .map(|index| candidates[index].node_id.clone())
            .collect()
    }
}

pub(super) fn bad_request(error: String) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response()
}

pub(super) fn unavailable(error: &str) -> Response {
    let error = format!("the state cannot be reached: {error}");
    (
        StatusCode::SERVICE_UNAVAILABLE,
        Json(json!({ "error": error })),
    )
        .into_response()
}

/// How many of what is listed one answer has.
///
/// # Errors
/// If it cannot have so many.
pub(super) fn page_limit(limit: Option<usize>) -> Result<usize, String> {
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    if (1..=LIMIT_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(format!("limit is {limit}; expected 1 to {LIMIT_MAX}"))
}
