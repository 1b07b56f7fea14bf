//! `meshage:mesh/http`: requests and answers whose bodies are sent and received whole.

use std::collections::{HashMap, VecDeque};
use std::future;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::uri::Scheme;
use http::{HeaderName, HeaderValue, Method, Uri, header, response};
use http_body_util::{BodyExt, Full};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::timeout;
use wasmtime::component::{HasSelf, Linker};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::access::REQUESTS_MAX;
use super::send::{BODY_BYTES_MAX, Connection};
use super::{FIELDS_BYTES_MAX, HostState};
use crate::message::CONNECTION_HEADERS;

wasmtime::component::bindgen!({
    path: "../wit",
    interfaces: "import meshage:mesh/http@0.1.0;",
    imports: { "meshage:mesh/http.receive": async },
});

use meshage::mesh::http as wit;

/// Maximum of the bodies, both ways, of one call's requests whose answers it has not received.
const UNDER_WAY_BYTES_MAX: usize = 2 * BODY_BYTES_MAX;

/// The requests of one call whose answers it has not received. They end when this is dropped.
#[derive(Default)]
pub(super) struct UnderWay(Option<Box<Requests>>);

struct Requests {
    tasks: JoinSet<(u32, Result<Answer, Error>)>,
    /// Those that have no answer yet.
    aborts: HashMap<u32, AbortHandle>,
    answered: VecDeque<(u32, Result<Answer, Error>)>,
    next: u32,
    /// One permit for each byte that bodies may still take.
    room: Arc<Semaphore>,
}

struct Answer {
    head: response::Parts,
    body: BytesMut,
    _taken: OwnedSemaphorePermit,
}

pub(super) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    wit::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut HostState| state)
}

impl wit::Host for HostState {
    fn send(&mut self, request: wit::Request) -> Result<u32, wit::Error> {
        let http = &mut self.held.http;
        let requests = http.under_way.0.get_or_insert_default();
        requests.gather();
        if requests.aborts.len() + requests.answered.len() >= REQUESTS_MAX {
            let text = format!("{REQUESTS_MAX} requests of this call are under way");
            return Err(wit::Error::Failed(text));
        }
        let taken = take(&requests.room, request.body.len()).map_err(|error| failed(&error))?;
        let request = read(request).map_err(wit::Error::Invalid)?;
        let host = request.uri().authority().map(ToString::to_string);
        let sending = http.sender.sending(request, RequestOptions::default());
        let sending = sending.map_err(|error| match error {
            Error::HttpRequestDenied => wit::Error::Denied(format!(
                "the manifest does not allow {} (allowed_hosts)",
                host.unwrap_or_default()
            )),
            Error::ConnectionLimitReached => wit::Error::Failed(format!(
                "{REQUESTS_MAX} requests of this stream are under way"
            )),
            other => failed(&other),
        })?;
        Ok(requests.spawn(sending, taken))
    }

    async fn receive(
        &mut self,
        wait_ms: Option<u64>,
    ) -> Option<(u32, Result<wit::Response, wit::Error>)> {
        let requests = self.held.http.under_way.0.as_mut()?;
        let (request, answer) = match wait_ms.map(Duration::from_millis) {
            Some(wait) => timeout(wait, requests.next()).await.ok()??,
            None => requests.next().await?,
        };
        Some((request, answer.map(given).map_err(|error| failed(&error))))
    }

    fn abort(&mut self, request: u32) {
        if let Some(requests) = &mut self.held.http.under_way.0 {
            requests.abort(request);
        }
    }
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            tasks: JoinSet::new(),
            aborts: HashMap::new(),
            answered: VecDeque::new(),
            next: 0,
            room: Arc::new(Semaphore::new(UNDER_WAY_BYTES_MAX)),
        }
    }
}

impl Requests {
    fn spawn(
        &mut self,
        sending: impl Future<Output = Result<(http::Response<WasiBody>, Connection), Error>>
        + Send
        + 'static,
        taken: OwnedSemaphorePermit,
    ) -> u32 {
        let request = self.next;
        self.next = self.next.wrapping_add(1);
        let room = self.room.clone();
        let task = self.tasks.spawn(async move {
            let answer = async { collect(sending.await?, &room, taken).await };
            (request, answer.await)
        });
        self.aborts.insert(request, task);
        request
    }

    /// The next answer. `None`: no request is under way.
    async fn next(&mut self) -> Option<(u32, Result<Answer, Error>)> {
        loop {
            if let Some(answer) = self.answered.pop_front() {
                return Some(answer);
            }
            let ended = self.tasks.join_next().await?;
            self.note(ended);
        }
    }

    /// Takes what has ended, so that requests that were aborted do not pile up.
    fn gather(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            self.note(ended);
        }
    }

    fn note(&mut self, ended: Result<(u32, Result<Answer, Error>), JoinError>) {
        match ended {
            // One that was aborted just when it had ended has no answer either.
            Ok((request, answer)) => {
                if self.aborts.remove(&request).is_some() {
                    self.answered.push_back((request, answer));
                }
            }
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }

    fn abort(&mut self, request: u32) {
        match self.aborts.remove(&request) {
            Some(task) => task.abort(),
            None => self.answered.retain(|(answered, _)| *answered != request),
        }
    }
}

/// # Errors
/// If bodies take all the room.
fn take(room: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
    let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
    room.clone().try_acquire_many_owned(permits).map_err(|_| {
        Error::InternalError(Some(format!(
            "the requests of this call whose answers it has not received take more than {} MiB",
            UNDER_WAY_BYTES_MAX >> 20
        )))
    })
}

/// Receives a body, as far as there is room for it.
async fn collect(
    (response, connection): (http::Response<WasiBody>, Connection),
    room: &Arc<Semaphore>,
    mut taken: OwnedSemaphorePermit,
) -> Result<Answer, Error> {
    let (head, mut body) = response.into_parts();
    let collecting = async {
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            taken.merge(take(room, data.len())?);
            whole.extend_from_slice(&data);
        }
        Ok(Answer {
            head,
            body: whole,
            _taken: taken,
        })
    };
    // If the connection fails, the body does.
    let connection = async {
        let _ = Box::into_pin(connection).await;
        future::pending().await
    };
    tokio::select! {
        answer = collecting => answer,
        never = connection => never,
    }
}

/// # Errors
/// Why no request can be like that.
fn read(request: wit::Request) -> Result<http::Request<WasiBody>, String> {
    let wit::Request {
        method: name,
        url,
        headers: given,
        body,
    } = request;
    let method = Method::from_bytes(name.as_bytes());
    let method = method.ok().filter(|method| method != Method::CONNECT);
    let method = method.ok_or_else(|| format!("{name:?} is no method, such as GET"))?;
    let uri = url.parse::<Uri>().ok().filter(|uri| {
        let is_http = [&Scheme::HTTP, &Scheme::HTTPS]
            .map(Some)
            .contains(&uri.scheme());
        is_http && uri.authority().is_some()
    });
    let uri = uri.ok_or_else(|| {
        format!("{url:?} is no address, such as https://api.example.com/path, percent-encoded")
    })?;
    if body.len() > BODY_BYTES_MAX {
        let max = BODY_BYTES_MAX >> 20;
        return Err(format!("a body of more than {max} MiB"));
    }
    let bytes = given.iter().map(|(name, value)| name.len() + value.len());
    if bytes.sum::<usize>() > FIELDS_BYTES_MAX {
        let max = FIELDS_BYTES_MAX >> 10;
        return Err(format!("headers of more than {max} KiB"));
    }
    let mut request = http::Request::new(Full::new(Bytes::from(body)));
    let headers = request.headers_mut();
    for (name, value) in given {
        let parsed = HeaderName::from_bytes(name.as_bytes());
        let header = parsed.ok().zip(HeaderValue::from_str(&value).ok());
        let (name, value) = header.ok_or_else(|| format!("the header {name:?}: {value:?}"))?;
        if !CONNECTION_HEADERS.contains(&name) && name != header::HOST {
            let appended = headers.try_append(name, value);
            appended.map_err(|_| "too many headers".to_owned())?;
        }
    }
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let host = HeaderValue::from_str(host).map_err(|error| error.to_string())?;
    headers.insert(header::HOST, host);
    (*request.method_mut(), *request.uri_mut()) = (method, uri);
    Ok(request.map(|body| body.map_err(|never| match never {}).boxed_unsync()))
}

/// An answer as a handler gets it.
fn given(Answer { head, body, .. }: Answer) -> wit::Response {
    let headers = head.headers.iter().filter_map(|(name, value)| {
        let value = std::str::from_utf8(value.as_bytes()).ok()?;
        Some((name.as_str().to_owned(), value.to_owned()))
    });
    wit::Response {
        status: head.status.as_u16(),
        headers: headers.collect(),
        body: body.into(),
    }
}

fn failed(error: &Error) -> wit::Error {
    wit::Error::Failed(error.to_string())
}
