//! The admin API's view of what handlers have sent.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::shared::{Admin, bad_request, page_limit, unavailable};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    #[serde(default)]
    stuck: bool,
    after: Option<Uuid>,
    limit: Option<usize>,
}

pub(super) async fn list(State(admin): State<Admin>, Query(wanted): Query<Wanted>) -> Response {
    let limit = match page_limit(wanted.limit) {
        Ok(limit) => limit,
        Err(error) => return bad_request(error),
    };
    let after = wanted.after.unwrap_or_default();
    match admin.entities.sends(wanted.stuck, after, limit).await {
        Ok((sends, next)) => Json(json!({ "sends": sends, "next": next })).into_response(),
        Err(error) => unavailable(&error),
    }
}

pub(super) async fn retry(State(admin): State<Admin>, Path(id): Path<String>) -> Response {
    let Ok(id) = Uuid::try_parse(&id) else {
        return bad_request(format!(
            "{id:?} is no id of a message: GET /sends shows them"
        ));
    };
    match admin.entities.retry(Some(id)).await {
        Ok(0) => {
            let error = format!("no message {id} that was tried before has no answer");
            (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response()
        }
        Ok(retried) => Json(json!({ "retried": retried })).into_response(),
        Err(error) => unavailable(&error),
    }
}

pub(super) async fn retry_stuck(State(admin): State<Admin>) -> Response {
    match admin.entities.retry(None).await {
        Ok(retried) => Json(json!({ "retried": retried })).into_response(),
        Err(error) => unavailable(&error),
    }
}
