//! Brings spans to the collector, over HTTP.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use rustls::pki_types::TrustAnchor;
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// The most of an answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Sends what the library's own thread gives it, on the runtime.
#[derive(Debug)]
pub(super) struct Exporter {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
    runtime: Handle,
    problem: Problem,
}

impl Exporter {
    pub(super) fn new(
        timeout: Duration,
        roots: Option<Vec<TrustAnchor<'static>>>,
        runtime: Handle,
    ) -> Self {
        let connector = HttpsConnectorBuilder::new();
        let connector = match roots {
            Some(roots) => connector.with_tls_config(
                ClientConfig::builder()
                    .with_root_certificates(RootCertStore { roots })
                    .with_no_client_auth(),
            ),
            None => connector.with_webpki_roots(),
        };
        let connector = connector.https_or_http().enable_http1().build();
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            timeout,
            runtime,
            problem: Problem::default(),
        }
    }

    /// What was wrong with the last exchange.
    pub(super) fn problem(&self) -> Problem {
        self.problem.clone()
    }
}

/// What is wrong with a collector, in words that the library has no room for.
pub(super) type Problem = Arc<Mutex<Option<String>>>;

/// An error with what is behind it.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let causes: Vec<String> = causes.map(ToString::to_string).collect();
    causes.join(": ")
}

#[async_trait]
impl HttpClient for Exporter {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let exchange = async move {
            let answer = client.request(request.map(Full::new)).await?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?;
            Ok::<_, HttpError>(Response::from_parts(head, body.to_bytes()))
        };
        let max = self.timeout;
        let sending = self
            .runtime
            .spawn(async move { timeout(max, exchange).await });
        let sent = match sending.await {
            Ok(Ok(sent)) => sent,
            Ok(Err(late)) => Err(late.into()),
            // The runtime ends.
            Err(_) => Err("the node ended before it answered".into()),
        };
        let problem = match &sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(causes(error.as_ref())),
        };
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
        sent
    }
}
