//! The admin API's view of entities.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::shared::{Admin, bad_request, names_of, page_limit, unavailable};
use crate::message::StreamName;
use crate::state::shown;

/// Values of more bytes are shown by their size alone.
const SHOWN_BYTES_MAX: usize = 64 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    after: String,
    limit: Option<usize>,
}

impl Wanted {
    /// The limit, if all of them can be used.
    fn limit(&self) -> Result<usize, String> {
        if self.prefix.contains('\0') || self.after.contains('\0') {
            return Err("prefix and after cannot have U+0000 in them".into());
        }
        page_limit(self.limit)
    }
}

pub(super) async fn list(
    State(admin): State<Admin>,
    Path(stream): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Response {
    let stream = match StreamName::try_from(stream) {
        Ok(stream) => stream,
        Err(error) => return bad_request(format!("the stream cannot be used: {error}")),
    };
    let limit = match wanted.limit() {
        Ok(limit) => limit,
        Err(error) => return bad_request(error),
    };
    let listed = admin
        .entities
        .list(stream.clone(), wanted.prefix, wanted.after, limit)
        .await;
    let keys = match listed {
        Ok(keys) => keys,
        Err(error) => return unavailable(&error),
    };
    let next = (keys.len() == limit).then(|| keys.last().map(|(key, _)| key.clone()));
    let entities: Vec<Value> = keys
        .iter()
        .map(|(key, commit_id)| json!({ "partitionKey": key, "commitId": commit_id }))
        .collect();
    Json(json!({ "stream": stream, "entities": entities, "next": next.flatten() })).into_response()
}

pub(super) async fn describe(
    State(admin): State<Admin>,
    Path((stream, key)): Path<(String, String)>,
    Query(wanted): Query<Wanted>,
) -> Response {
    let (stream, key) = match names_of(stream, key) {
        Ok(names) => names,
        Err(error) => return bad_request(error),
    };
    let limit = match wanted.limit() {
        Ok(limit) => limit,
        Err(error) => return bad_request(error),
    };
    let after = wanted.after.into();
    let entity = match admin.entities.describe(&stream, &key, after, limit).await {
        Ok(Some(entity)) => entity,
        Ok(None) => {
            let error = format!("nothing was committed to {stream}/{key} ever");
            return (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response();
        }
        Err(error) => return unavailable(&error),
    };
    let values: Vec<Value> = entity
        .values
        .values
        .iter()
        .map(|(name, value)| show(name, value))
        .collect();
    Json(json!({
        "stream": stream,
        "partitionKey": key,
        "commitId": entity.commit_id,
        "owner": admin.ranking(&stream, &key).first(),
        "active": entity.is_active,
        "queued": entity.queued,
        "values": values,
        "next": entity.values.until.as_deref(),
    }))
    .into_response()
}

fn show(name: &str, value: &Bytes) -> Value {
    if value.len() > SHOWN_BYTES_MAX {
        return json!({ "name": name, "bytes": value.len() });
    }
    shown(name, value)
}
