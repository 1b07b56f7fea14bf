//! What the answers of the admin API are made from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::sync::watch;

use crate::dispatch::Dispatcher;
use crate::entities::Entities;
use crate::membership::{Node, View};
use crate::message::{NodeId, PartitionKey, StreamName};
use crate::placement::{self, Seed};
use crate::plugins::Catalog;
use crate::security::Tokens;
use crate::telemetry::{InstanceGauges, Metrics};

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
    pub readiness: Arc<Readiness>,
    pub metrics: Metrics,
    pub instances: Arc<InstanceGauges>,
    /// `None`: no token is required.
    pub tokens: Option<watch::Receiver<Arc<Tokens>>>,
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
