//! The admin API's view of the plugins that the mesh shares.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use super::shared::{Admin, bad_request};
use crate::message::{NodeId, Revision, StreamName};
use crate::plugins::{NoRevision, SharedStream, Sharing};

const NOT_SHARED: &str =
    "this node shares no plugins: what is in its directory runs on it alone (--share-plugins)";

#[derive(Serialize)]
struct Described {
    #[serde(flatten)]
    stream: SharedStream,
    /// The nodes that have the current release.
    nodes: Vec<NodeId>,
}

pub(super) async fn list(State(admin): State<Admin>) -> Response {
    let Some(sharing) = &admin.sharing else {
        return not_shared();
    };
    let view = admin.view.borrow().clone();
    let describe = |stream: SharedStream| {
        let has = |node: &crate::membership::Node| {
            let shared = node.releases.as_ref()?.get(&stream.stream)?;
            let current = stream.revisions.first()?.revision;
            Some(shared.is_here && shared.revision == current)
        };
        let nodes = view.nodes.values().filter(|node| has(node) == Some(true));
        Described {
            nodes: nodes.map(|node| node.node_id.clone()).collect(),
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
    change(&admin, stream, |sharing, stream| {
        sharing.use_again(stream, &wanted).map(Some)
    })
}

pub(super) async fn use_file(State(admin): State<Admin>, Path(stream): Path<String>) -> Response {
    change(&admin, stream, |sharing, stream| {
        sharing.use_file(stream).map(|()| None)
    })
}

pub(super) async fn remove(State(admin): State<Admin>, Path(stream): Path<String>) -> Response {
    change(&admin, stream, |sharing, stream| {
        sharing.remove(stream).map(Some)
    })
}

fn change(
    admin: &Admin,
    stream: String,
    change: impl FnOnce(&Sharing, &StreamName) -> Result<Option<Revision>, NoRevision>,
) -> Response {
    let stream = match StreamName::try_from(stream) {
        Ok(stream) => stream,
        Err(error) => return bad_request(format!("the stream: {error}")),
    };
    let Some(sharing) = &admin.sharing else {
        return not_shared();
    };
    match change(sharing, &stream) {
        Ok(revision) => Json(revision).into_response(),
        Err(error) => {
            let status = match error {
                NoRevision::Stream(_) | NoRevision::Which { .. } | NoRevision::File(_) => {
                    StatusCode::NOT_FOUND
                }
                NoRevision::NotHere
                | NoRevision::Current(_)
                | NoRevision::Removed(_)
                | NoRevision::Full(_) => StatusCode::CONFLICT,
            };
            (status, Json(json!({ "error": error.to_string() }))).into_response()
        }
    }
}

fn not_shared() -> Response {
    let error = Json(json!({ "error": NOT_SHARED }));
    (StatusCode::NOT_FOUND, error).into_response()
}
