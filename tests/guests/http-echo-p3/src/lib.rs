//! For benchmarks: answers a request with its body, as an HTTP component of WASI 0.3.
#![allow(unsafe_code, reason = "of the generated bindings")]

use http_body_util::{BodyExt, Full};
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Request, Response};
use wasip3::http_compat::{http_from_wasi_request, http_into_wasi_response};

struct Echo;

wasip3::http::service::export!(Echo);

impl Guest for Echo {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let request = http_from_wasi_request(request)?;
        let body = request.into_body().collect().await?.to_bytes();
        let response = http::Response::builder().header("content-length", body.len());
        http_into_wasi_response(
            response
                .body(Full::new(body))
                .expect("a header that may be set"),
        )
    }
}
