//! An HTTP handler written with `wstd`.

use wstd::http::{Body, Method, Request, Response, Result, StatusCode};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>> {
    if request.method() == Method::POST {
        return Ok(Response::new(request.into_body()));
    }
    if request.uri().path() != "/hello" {
        let none = Response::builder().status(StatusCode::NOT_FOUND);
        return Ok(none.body(().into())?);
    }
    let target = request.uri().path_and_query();
    let target = target.map_or("", |target| target.as_str());
    let key = request.headers().get("meshage-partition-key");
    let key = key.map_or("", |key| key.to_str().unwrap_or_default());
    Ok(Response::new(format!("{target} of {key}").into()))
}
