//! Asks a node on this host whether it is ready, for those who check that by running a command.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

/// How long the node may take. It answers at once, or is in trouble.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The most of an answer that is read: it has one line.
const ANSWER_BYTES_MAX: usize = 4 << 10;

/// What the node with this admin API is missing, or why it does not say so.
///
/// # Errors
/// If it is not ready.
pub async fn health(admin: SocketAddr) -> Result<(), String> {
    let asked = timeout(ANSWER_MAX, ask(admin)).await;
    match asked.map_err(|_| "it does not answer in time".to_owned()) {
        Ok(Ok((StatusCode::OK, _))) => Ok(()),
        Ok(Ok((_, missing))) => Err(missing.trim().to_owned()),
        Ok(Err(error)) | Err(error) => Err(format!("no node answers at {admin}: {error}")),
    }
}

async fn ask(admin: SocketAddr) -> Result<(StatusCode, String), String> {
    let request = Request::get(format!("http://{admin}/readyz")).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request).await;
    let answer = answer.map_err(|error| anyhow::Error::from(error).root_cause().to_string())?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Ok((status, text))
}
