//! The admin API, for operators and their tools.
//!
//! | route | answers |
//! |---|---|
//! | `GET /`, `/dashboard.css`, `/dashboard.js` | the dashboard, which fetches what it shows from the routes below |
//! | `POST /login`, `/logout` | opens or ends a session of the dashboard, where the node has tokens |
//! | `GET /overview` | every node with what it says of itself: the figures of the dashboard |
//! | `GET /livez` | 200 while the process runs |
//! | `GET /readyz` | 200 when plugins are loaded and the first gossip round is done, else 503 and what is missing |
//! | `GET /metrics` | Prometheus' text format |
//! | `GET /cluster` | the view |
//! | `GET /cluster/owner/{stream}/{partitionKey}` | the owner of a key, and the ranking behind it |
//! | `GET /plugins` | every plugin: its state, version and limits |
//! | `GET /entities/{stream}` | the entities of a stream, by their keys |
//! | `GET /entities/{stream}/{partitionKey}` | one entity: its values, its owner, its queue |
//! | `GET /releases` | the plugins that the mesh shares: their revisions, and where they are |
//! | `POST /releases/{stream}/use/{revision}`, `…/use`, `…/remove` | has the mesh run an earlier release again, the file of this node, or nothing |
//! | `GET /sends` | messages and timers that have no answer yet; `?stuck=true`: those that are not tried again |
//! | `POST /sends/retry`, `POST /sends/{id}/retry` | delivers those that are stuck, or one, again |

mod entities;
mod figures;
mod login;
mod overview;
mod page;
mod releases;
mod report;
mod sends;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::service::{Service as _, service_fn};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use metrics::gauge;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use login::source_of;
use shared::{bad_request, names_of};

use super::http::{self, Activity, Observed, OnRuntime, Patience, Tracked};
use crate::membership::Node;
use crate::message::StreamName;
use crate::peer::BreakerState;
use crate::plugins::{Failed, Plugin, PluginState};
use crate::runtime::{Grants, Handler, Instances};
use crate::security::check_admin_request;
use crate::tcp::{Acceptor, Permit};
use crate::telemetry::names;

pub use shared::{Admin, Readiness};

/// There are few operators and tools.
const CONNECTIONS_MAX: usize = 256;

const PATIENCE: Patience = Patience {
    idle_max: Duration::from_secs(30),
    stalled_max: Duration::from_secs(30),
};

const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A token is all that is sent here.
const BODY_BYTES_MAX: usize = 4 * 1024;

impl Admin {
    /// Serves until `stopped`; then finishes the open requests.
    pub async fn serve(self, listener: TcpListener, stopped: CancellationToken) {
        let mut builder = Builder::new(OnRuntime::current()).http1_only();
        builder
            .http1()
            .header_read_timeout(PATIENCE.idle_max)
            .max_buf_size(HEAD_BYTES_MAX);
        let router = TowerToHyperService::new(self.router());
        let acceptor = Acceptor::new(listener, "the admin API", CONNECTIONS_MAX);
        let connections = TaskTracker::new();
        let serve = |socket, peer: SocketAddr, permit| {
            let (builder, router, stopped) = (builder.clone(), router.clone(), stopped.clone());
            async move {
                let _permit: Permit = permit;
                let service = |activity: &Arc<Activity>, _: &Arc<Observed>| {
                    let activity = activity.clone();
                    service_fn(move |mut request| {
                        request.extensions_mut().insert(Peer(peer));
                        let open = activity.begin();
                        let answer = router.call(request);
                        async move {
                            let answer = answer.await?;
                            Ok::<_, Infallible>(answer.map(|body| Tracked::new(body, open)))
                        }
                    })
                };
                http::serve(socket, builder, PATIENCE, &stopped, service).await;
            }
        };
        acceptor.run(&stopped, &connections, serve).await;
        connections.close();
        connections.wait().await;
    }

    fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(render_metrics))
            .route("/cluster", get(cluster))
            .route("/cluster/owner/{stream}/{partition_key}", get(owner))
            .route("/plugins", get(plugins))
            .route("/entities/{stream}", get(entities::list))
            .route(
                "/entities/{stream}/{partition_key}",
                get(entities::describe),
            )
            .route("/sends", get(sends::list))
            .route("/releases", get(releases::list))
            .merge(
                Router::new()
                    .route("/sends/retry", post(sends::retry_stuck))
                    .route("/sends/{id}/retry", post(sends::retry))
                    .route("/releases/{stream}/use", post(releases::use_file))
                    .route("/releases/{stream}/use/{wanted}", post(releases::use_again))
                    .route("/releases/{stream}/remove", post(releases::remove))
                    .layer(from_fn_with_state(self.clone(), need_own_host)),
            )
            .route("/overview", get(overview::overview))
            .layer(from_fn_with_state(self.clone(), login::need_token))
            .route("/login", post(login::log_in))
            .route("/logout", post(login::log_out))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .layer(from_fn_with_state(self.clone(), refuse_other_sites))
            // No checks for these: they reveal nothing that is not visible from outside. Probes often
            // cannot send a token, and use any host name; other sites have links to the page.
            .merge(page::routes())
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .with_state(self)
    }
}

/// The other end of the connection.
#[derive(Clone, Copy)]
struct Peer(SocketAddr);

/// What changes something is for who has a token, or else for who is on this host.
async fn need_own_host(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>();
    let is_here = peer.is_some_and(|Peer(addr)| addr.ip().to_canonical().is_loopback());
    if is_here || admin.tokens.is_some() {
        return next.run(request).await;
    }
    let text = "send it from the node's own host, or start the node with --token-file and send `Authorization: Bearer TOKEN`\n";
    (StatusCode::FORBIDDEN, text).into_response()
}

/// Refuses requests that a browser sends for a page of another site, which could otherwise read the
/// mesh through a user's browser. Covers DNS rebinding, where the page's own host name resolves to
/// this node.
async fn refuse_other_sites(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let checked = {
        let source = source_of(request.headers());
        // With tokens the host is not checked: a page of that name has no token to send, and no cookie.
        let host = source.host.filter(|_| admin.tokens.is_none());
        check_admin_request(host, source)
    };
    match checked {
        Ok(()) => next.run(request).await,
        Err(why) => (StatusCode::FORBIDDEN, format!("{why}\n")).into_response(),
    }
}

/// A node as this one sees it.
#[derive(Serialize)]
struct SeenNode<'a> {
    #[serde(flatten)]
    node: &'a Node,
    /// Whether messages are sent to it; `None` for this node itself.
    breaker: Option<BreakerState>,
}

async fn readyz(State(admin): State<Admin>) -> (StatusCode, String) {
    match admin.readiness.missing() {
        None => (StatusCode::OK, "ready\n".into()),
        Some(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")),
    }
}

async fn render_metrics(State(admin): State<Admin>) -> impl IntoResponse {
    (
        [("content-type", "text/plain; version=0.0.4; charset=utf-8")],
        admin.render_metrics(),
    )
}

impl Admin {
    fn render_metrics(&self) -> String {
        gauge!(names::PEERS).set(self.view.borrow().others().count() as f64);
        let breakers = self.dispatcher.breakers().into_values();
        let open = breakers.filter(|state| *state == BreakerState::Open);
        gauge!(names::OPEN_BREAKERS).set(open.count() as f64);
        let mut instances: BTreeMap<StreamName, [usize; 2]> = BTreeMap::new();
        for (_, plugin) in self.catalog.plugins() {
            let [idle, running] = instances.entry(plugin.stream.clone()).or_default();
            *idle += plugin.handler.idle_instances();
            // All versions of a stream share the admission.
            *running = plugin.admission.running();
        }
        let (view, own) = (
            self.view.borrow().clone(),
            instances.keys().cloned().collect::<BTreeSet<_>>(),
        );
        self.instances.show(instances);
        self.entities.show_gauges();
        let is_known = |stream: &str| {
            own.contains(stream)
                || view
                    .nodes
                    .values()
                    .any(|node| node.streams.contains_key(stream))
        };
        self.metrics.render(is_known)
    }
}

async fn cluster(State(admin): State<Admin>) -> Json<Value> {
    let view = admin.view.borrow().clone();
    let breakers = admin.dispatcher.breakers();
    let see = |node| SeenNode {
        node,
        breaker: breakers.get(&node.node_id).copied(),
    };
    let nodes: Vec<SeenNode<'_>> = view.nodes.values().map(see).collect();
    Json(json!({ "self": view.self_id, "clusterId": view.cluster_id, "nodes": nodes }))
}

async fn owner(
    State(admin): State<Admin>,
    Path((stream, key)): Path<(String, String)>,
) -> Response {
    let (stream, key) = match names_of(stream, key) {
        Ok(names) => names,
        Err(error) => return bad_request(error),
    };
    let ranking = admin.ranking(&stream, &key);
    let Some(owner) = ranking.first() else {
        let error = format!("no node offers the stream {stream}");
        return (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response();
    };
    Json(json!({ "stream": stream, "partitionKey": key, "owner": owner, "ranking": ranking }))
        .into_response()
}

async fn plugins(State(admin): State<Admin>) -> Json<Value> {
    let not_shared = admin.entities.not_shared();
    let versions = admin.catalog.plugins();
    let versions = versions.iter().map(|(state, plugin)| {
        let described = describe(*state, plugin, not_shared.as_deref());
        (plugin.stream.as_str(), described)
    });
    let failed = admin.catalog.failed();
    let failed = failed
        .iter()
        .map(|failed| (failed.name.as_str(), describe_failed(failed)));
    let mut all: Vec<(&str, Value)> = versions.chain(failed).collect();
    // A stable sort: a running version comes before one that failed to replace it.
    all.sort_by_key(|(name, _)| *name);
    Json(json!({ "plugins": all.into_iter().map(|(_, plugin)| plugin).collect::<Vec<_>>() }))
}

fn describe(state: PluginState, plugin: &Plugin, not_shared: Option<&str>) -> Value {
    let error = not_shared.filter(|_| plugin.handler.is_stateful());
    let state = error.map_or(state, |_| PluginState::Failed);
    json!({
        "stream": plugin.stream,
        "file": plugin.origin,
        "digest": plugin.digest,
        "state": state,
        "error": error,
        "loadedAt": humantime::format_rfc3339_millis(plugin.loaded_at).to_string(),
        "calls": plugin.admission.calls(),
        "limits": describe_terms(&plugin.handler),
    })
}

fn describe_failed(failed: &Failed) -> Value {
    json!({
        "stream": failed.name,
        "file": failed.origin,
        "digest": failed.digest,
        "state": PluginState::Failed,
        "error": failed.error,
        "loadedAt": humantime::format_rfc3339_millis(failed.failed_at).to_string(),
        "calls": 0,
        "limits": null,
    })
}

/// The limits of a version, and what its manifest grants.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Terms<'a> {
    headers: Vec<&'a str>,
    idempotency_keys: bool,
    timeout_ms: u64,
    memory_mb: usize,
    concurrency: usize,
    queue: usize,
    /// Of stateful streams alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_per_key: Option<usize>,
    instances: &'static str,
    max_calls_per_instance: u64,
    #[serde(flatten)]
    grants: &'a Grants,
}

fn describe_terms(handler: &Handler) -> Terms<'_> {
    let limits = handler.limits();
    let (instances, max_calls_per_instance) = match limits.instances.unwrap_or(Instances::REUSE) {
        Instances::Fresh => ("fresh", 1),
        Instances::Reuse { calls_max } => ("reuse", calls_max),
    };
    Terms {
        headers: limits.headers.names().collect(),
        idempotency_keys: limits.takes_idempotency_keys,
        timeout_ms: limits.timeout.as_millis() as u64,
        memory_mb: limits.memory_bytes_max >> 20,
        concurrency: limits.concurrency,
        queue: limits.queue,
        queue_per_key: handler.is_stateful().then_some(limits.queue_per_key),
        instances,
        max_calls_per_instance,
        grants: handler.grants(),
    }
}
