//! The stream `{{name}}`: an HTTP handler. It sees the request below `/api/{{name}}/{partition key}` as it was sent.

use wstd::http::{Body, Request, Response, StatusCode};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, wstd::http::Error> {
    let key = request.headers().get("meshage-partition-key");
    let key = key.and_then(|key| key.to_str().ok()).unwrap_or("nobody");
    let (status, text) = answer(request.method().as_str(), request.uri().path(), key);
    let response = Response::builder().status(status);
    Ok(response
        .header("content-type", "text/plain; charset=utf-8")
        .body(text.into())?)
}

fn answer(method: &str, path: &str, key: &str) -> (StatusCode, String) {
    match (method, path) {
        ("GET", "/") => (StatusCode::OK, format!("Hello, {key}!\n")),
        ("GET", _) => (StatusCode::NOT_FOUND, format!("there is no {path}\n")),
        _ => (StatusCode::METHOD_NOT_ALLOWED, format!("no {method}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_greets_the_key() {
        assert_eq!(answer("GET", "/", "ada"), (StatusCode::OK, "Hello, ada!\n".into()));
        assert_eq!(answer("GET", "/x", "ada").0, StatusCode::NOT_FOUND);
        assert_eq!(answer("POST", "/", "ada").0, StatusCode::METHOD_NOT_ALLOWED);
    }
}
