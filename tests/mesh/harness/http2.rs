//! A client with a single HTTP/2 connection. It never reconnects, so that what happens to its
//! requests shows what happened to the connection.

use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::{Answer, HANG};

#[derive(Clone)]
pub(crate) struct Http2(SendRequest<Full<Bytes>>);

impl Http2 {
    /// Speaks HTTP/2 with prior knowledge over an open connection, plain or TLS.
    pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (requests, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        // An error of the connection shows in its requests.
        tokio::spawn(connection);
        Self(requests)
    }

    /// The answer to a POST. `None`: the server has sent GOAWAY and has not processed this request.
    pub(crate) async fn post(&self, url: &str, body: &'static str) -> Option<Answer> {
        let request = http::Request::builder()
            .method(Method::POST)
            .uri(url)
            .body(Full::from(body))
            .unwrap();
        let mut requests = self.0.clone();
        let exchange = async {
            match requests.try_send_request(request).await {
                Ok(response) => Some(Answer::of(response).await.unwrap()),
                Err(error) if error.message().is_some() || is_behind_goodbye(error.error()) => None,
                Err(error) => panic!("a request was cut off: {:?}", error.into_error()),
            }
        };
        timeout(HANG, exchange).await.expect("a request hangs")
    }
}

/// Whether the request crossed with a GOAWAY that names an earlier request as the last one that the
/// server processes.
fn is_behind_goodbye(error: &hyper::Error) -> bool {
    // Matches the text: the source is an error of `h2`, which the tests do not depend on.
    let text = format!("{error:?}");
    text.contains("GoAway") && text.contains("NO_ERROR")
}
