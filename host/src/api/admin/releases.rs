//! The admin API's view of the plugins that the mesh shares.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use super::shared::{Admin, bad_request};
use crate::membership::Node;
use crate::message::{NodeId, StreamName};
use crate::plugins::{NoRevision, SharedStream, Sharing};

const NOT_SHARED: &str =
    "this node shares no plugins: what is in its directory runs on it alone (--share-plugins)";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    #[serde(flatten)]
    stream: SharedStream,
    /// The nodes on which the current release runs.
    nodes: Vec<NodeId>,
    /// Those that have it, and do not run it.
    idle_nodes: Vec<NodeId>,
}

pub(super) async fn list(State(admin): State<Admin>) -> Response {
    let Some(sharing) = &admin.sharing else {
        return not_shared();
    };
    let view = admin.view.borrow().clone();
    let describe = |stream: SharedStream| {
        let current = stream.revisions.first().map(|known| known.revision);
        let nodes = |runs: bool| {
            let is_it = |node: &&Node| {
                let shared = node.releases.as_ref()?.get(&stream.stream)?;
                Some(shared.is_here && shared.runs == runs && Some(shared.revision) == current)
            };
            let nodes = view.nodes.values().filter(|node| is_it(node) == Some(true));
            nodes.map(|node| node.node_id.clone()).collect()
        };
        Described {
            nodes: nodes(true),
            idle_nodes: nodes(false),
            stream,
        }
    };
    let streams: Vec<_> = sharing.streams().into_iter().map(describe).collect();
    Json(json!({ "streams": streams })).into_response()
}

pub(super) async fn use_again(
    State(admin): State<Admin>,
    Path((stream, wanted)): Path<(String, String)>,
) -> Response {
    let (sharing, stream) = match asked(&admin, stream) {
        Ok(asked) => asked,
        Err(refused) => return *refused,
    };
    let made = sharing.use_again(&stream, &wanted).await;
    answer(made.map(|revision| json!(revision)))
}

pub(super) async fn use_file(State(admin): State<Admin>, Path(stream): Path<String>) -> Response {
    let (sharing, stream) = match asked(&admin, stream) {
        Ok(asked) => asked,
        Err(refused) => return *refused,
    };
    answer(sharing.use_file(&stream).map(|()| json!({})))
}

pub(super) async fn remove(State(admin): State<Admin>, Path(stream): Path<String>) -> Response {
    let (sharing, stream) = match asked(&admin, stream) {
        Ok(asked) => asked,
        Err(refused) => return *refused,
    };
    let made = sharing.remove(&stream).await;
    answer(made.map(|revision| json!(revision)))
}

fn asked(admin: &Admin, stream: String) -> Result<(Arc<Sharing>, StreamName), Box<Response>> {
    let stream = StreamName::try_from(stream);
    let stream = stream.map_err(|error| Box::new(bad_request(format!("the stream: {error}"))))?;
    let sharing = admin.sharing.clone();
    Ok((sharing.ok_or_else(|| Box::new(not_shared()))?, stream))
}

fn answer(made: Result<Value, NoRevision>) -> Response {
    match made {
        Ok(made) => Json(made).into_response(),
        Err(error) => {
            let status = match error {
                NoRevision::Stream(_) | NoRevision::Which { .. } | NoRevision::File(_) => {
                    StatusCode::NOT_FOUND
                }
                NoRevision::NotHere
                | NoRevision::Current(_)
                | NoRevision::Removed(_)
                | NoRevision::Full(_) => StatusCode::CONFLICT,
                NoRevision::NotKept(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, Json(json!({ "error": error.to_string() }))).into_response()
        }
    }
}

fn not_shared() -> Response {
    let error = Json(json!({ "error": NOT_SHARED }));
    (StatusCode::NOT_FOUND, error).into_response()
}
