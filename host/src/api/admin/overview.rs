//! What the dashboard shows: every node of the view with what it says of itself, asked over the peer path.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::timeout;
use uuid::Uuid;

use super::login::Login;
use super::shared::{Admin, millis};
use crate::membership::NodeState;
use crate::message::{Fault, NodeId, Refusal, ReleaseId};
use crate::peer::{Answers, BreakerState};
use crate::telemetry::Event;

/// How long a node may take to answer.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// Stuck messages that are counted.
const STUCK_MAX: usize = 1_000;

/// Whether the request came with a session: the page then offers to end it.
const SESSION: HeaderName = HeaderName::from_static("meshage-session");

/// How long a node that is gone is shown.
const GONE_MAX: Duration = Duration::from_secs(60 * 60);

/// The event that tells that a node is gone.
const GONE: &str = "node-gone";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Overview<'a> {
    #[serde(rename = "self")]
    self_id: &'a NodeId,
    cluster_id: &'a str,
    /// Milliseconds since 1970, as all times here.
    at: u64,
    nodes: Vec<SeenNode>,
    sends: Option<Sends>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SeenNode {
    node_id: String,
    is_self: bool,
    state: &'static str,
    /// When it started, or was gone.
    since: u64,
    http_addr: Option<SocketAddr>,
    cluster_addr: Option<SocketAddr>,
    /// Of this node, towards it.
    breaker: Option<BreakerState>,
    report: Option<Box<RawValue>>,
    /// Why there is no report.
    problem: Option<String>,
}

/// What handlers have sent and is not tried again.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Sends {
    stuck: usize,
    stuck_is_more: bool,
    problem: Option<String>,
}

/// The overview, for the dashboard.
pub(super) async fn overview(
    State(admin): State<Admin>,
    login: Option<Extension<Login>>,
) -> impl IntoResponse {
    let json = admin.overview().await;
    let session = match login {
        Some(Extension(Login::Session)) => "yes",
        Some(Extension(Login::Token)) => "no",
        None => "none",
    };
    (
        [
            (header::CONTENT_TYPE, "application/json"),
            (header::CACHE_CONTROL, "no-store"),
            (SESSION, session),
        ],
        json,
    )
}

impl Answers for Admin {
    fn report(&self) -> Bytes {
        self.own_report()
    }

    fn release(&self, release: ReleaseId, from: u64) -> Option<Bytes> {
        self.sharing.as_ref()?.part(release, from)
    }
}

impl Admin {
    /// What this node says of itself.
    pub fn own_report(&self) -> Bytes {
        let report = &self.kept.report;
        let make = || report.set(json_of(&self.report()));
        report.get().unwrap_or_else(make)
    }

    async fn overview(&self) -> Bytes {
        let _asking = self.kept.asking.lock().await;
        if let Some(recent) = self.kept.overview.get() {
            return recent;
        }
        let (mut reports, sends) = tokio::join!(self.dispatcher.reports(ANSWER_MAX), self.sends());
        let view = self.view.borrow().clone();
        let breakers = self.dispatcher.breakers();
        reports.insert(view.self_id.clone(), Ok(self.own_report()));
        let seen = view.nodes.values().map(|node| {
            let report = reports.remove(&node.node_id);
            let report = report.unwrap_or(Err(Fault::Unreachable));
            let report = report.map_err(|fault| problem(&fault)).and_then(|json| {
                serde_json::from_slice(&json).map_err(|_| "an answer that is no JSON".to_owned())
            });
            let (report, problem) = match report {
                Ok(report) => (Some(report), None),
                Err(problem) => (None, Some(problem)),
            };
            SeenNode {
                node_id: node.node_id.to_string(),
                is_self: node.node_id == view.self_id,
                state: state_of(node.state),
                since: node.generation / 1_000_000,
                http_addr: Some(node.http_addr),
                cluster_addr: Some(node.cluster_addr),
                breaker: breakers.get(&node.node_id).copied(),
                report,
                problem,
            }
        });
        let mut nodes: Vec<SeenNode> = seen.collect();
        let is_gone = |node: &str| !nodes.iter().any(|seen| seen.node_id == node);
        let gone = gone(&self.events.all(), is_gone);
        nodes.extend(gone);
        let overview = Overview {
            self_id: &view.self_id,
            cluster_id: &view.cluster_id,
            at: millis(SystemTime::now()),
            nodes,
            sends,
        };
        self.kept.overview.set(json_of(&overview))
    }

    async fn sends(&self) -> Option<Sends> {
        self.entities.status()?;
        let stuck = self.entities.sends(true, Uuid::nil(), STUCK_MAX);
        Some(match timeout(ANSWER_MAX, stuck).await {
            Ok(Ok((stuck, next))) => Sends {
                stuck: stuck.len(),
                stuck_is_more: next.is_some(),
                problem: None,
            },
            Ok(Err(problem)) => Sends {
                problem: Some(problem),
                ..Sends::default()
            },
            Err(_) => Sends {
                problem: Some("the store does not answer".into()),
                ..Sends::default()
            },
        })
    }
}

/// The nodes that this one has lost sight of lately, as its events tell; those that have left are not
/// missed.
fn gone(events: &[Event], is_gone: impl Fn(&str) -> bool) -> Vec<SeenNode> {
    let since = millis(SystemTime::now()).saturating_sub(GONE_MAX.as_millis() as u64);
    let has_left = format!("{:?}", NodeState::Leaving);
    let mut gone = BTreeMap::new();
    // The last of each counts: it may have come back in between, and left.
    for event in events.iter().filter(|event| event.name == GONE) {
        if let Some(node) = event.node.as_deref().filter(|node| is_gone(node)) {
            gone.insert(node.to_owned(), event);
        }
    }
    gone.retain(|_, event| event.at >= since && event.state.as_ref() != Some(&has_left));
    let gone = gone.into_iter().map(|(node_id, event)| SeenNode {
        node_id,
        is_self: false,
        state: "gone",
        since: event.at,
        http_addr: None,
        cluster_addr: None,
        breaker: None,
        report: None,
        problem: None,
    });
    gone.collect()
}

fn state_of(state: NodeState) -> &'static str {
    match state {
        NodeState::Starting => "starting",
        NodeState::Ready => "ready",
        NodeState::Leaving => "leaving",
    }
}

fn problem(fault: &Fault) -> String {
    match fault {
        Fault::Refused(Refusal::NotUnderstood) => "an older version, which cannot be asked".into(),
        Fault::Refused(Refusal::Leaving) => "it leaves".into(),
        Fault::Refused(Refusal::WaitedTooLong) | Fault::DeadlineExceeded => {
            format!("no answer within {} ms", ANSWER_MAX.as_millis())
        }
        Fault::Unreachable | Fault::Lost => "it cannot be reached".into(),
        other => other.to_string(),
    }
}

fn json_of(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("it is plain data, with names as keys")
}
