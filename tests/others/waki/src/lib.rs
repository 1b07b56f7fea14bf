//! An HTTP handler written with `waki`.

use waki::{ErrorCode, Method, Request, Response, handler};

#[handler]
fn answer(request: Request) -> Result<Response, ErrorCode> {
    let key = request.header("meshage-partition-key");
    let key = key.and_then(|key| key.to_str().ok()).unwrap_or_default().to_owned();
    if matches!(request.method(), Method::Post) {
        let body = request.body();
        let body = body.map_err(|error| ErrorCode::InternalError(Some(error.to_string())))?;
        return Response::builder().body(body).build();
    }
    if request.path() != "/hello" {
        return Response::builder().status_code(404).build();
    }
    let q = request.query().remove("q").unwrap_or_default();
    Response::builder().body(format!("{}?q={q} of {key}", request.path())).build()
}
