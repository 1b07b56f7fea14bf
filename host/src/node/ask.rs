//! Asks a node on this host, by its admin API: for those who do that by running a command.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

/// How long the node may take. It answers at once, or is in trouble.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The most of an answer that is read.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What the node answers.
///
/// # Errors
/// If it does not.
pub(super) async fn ask(
    admin: SocketAddr,
    method: Method,
    path: &str,
    token: Option<&str>,
) -> Result<(StatusCode, String), String> {
    let asked = timeout(ANSWER_MAX, send(admin, method, path, token)).await;
    match asked.map_err(|_| "it does not answer in time".to_owned()) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) | Err(error) => Err(format!("no node answers at {admin}: {error}")),
    }
}

async fn send(
    admin: SocketAddr,
    method: Method,
    path: &str,
    token: Option<&str>,
) -> Result<(StatusCode, String), String> {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://{admin}{path}"));
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request).await;
    let answer = answer.map_err(|error| anyhow::Error::from(error).root_cause().to_string())?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Ok((status, text))
}
