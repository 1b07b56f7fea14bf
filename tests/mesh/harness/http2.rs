//! One HTTP/2 connection of a client, which is not made anew when it ends: what becomes of its
//! requests is what becomes of the connection.

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
    /// Speaks HTTP/2 over a stream to who is known to do so, too.
    pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (requests, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        // How it ends, its requests tell.
        tokio::spawn(connection);
        Self(requests)
    }

    /// The answer to a POST. `None`: the other side has said that it takes no more, and has not
    /// taken this one.
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

/// Whether the request was on its way when the other side said which is the last that it takes
/// (GOAWAY), and came behind it.
fn is_behind_goodbye(error: &hyper::Error) -> bool {
    // The error beneath is of a crate that the tests do not use themselves.
    let text = format!("{error:?}");
    text.contains("GoAway") && text.contains("NO_ERROR")
}
