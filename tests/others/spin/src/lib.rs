//! An HTTP handler written with the SDK of Spin.

use spin_sdk::http::{IntoResponse, Method, Request, Response};
use spin_sdk::http_component;

#[http_component]
fn answer(request: Request) -> anyhow::Result<impl IntoResponse> {
    let key = request.header("meshage-partition-key");
    let key = key.and_then(|key| key.as_str()).unwrap_or_default().to_owned();
    if *request.method() == Method::Post {
        return Ok(Response::builder().status(200).body(request.into_body()).build());
    }
    if request.path() != "/hello" {
        return Ok(Response::builder().status(404).build());
    }
    let text = format!("{} of {key}", request.path_and_query().unwrap_or_default());
    Ok(Response::builder().status(200).body(text).build())
}
