//! For tests: an HTTP server of WASI 0.2 that does what the first part of its path says, well or
//! badly.
#![allow(unsafe_code, reason = "of the generated bindings")]

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse,
    ResponseOutparam,
};
use wasip2::io::streams::StreamError;

/// The most that WASI lets a guest write in one call.
const WRITE_BYTES_MAX: usize = 4096;

/// More than a reply may have.
const TOO_MANY_BYTES: usize = 17 << 20;

/// How long it goes on after it has answered, in nanoseconds.
const AFTERWARDS_NS: u64 = 20_000_000;

struct Site;

wasip2::http::proxy::export!(Site);

impl Guest for Site {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let first = path.split(['/', '?']).nth(1).unwrap_or_default();
        match first {
            "body" => {
                let body = read(&request);
                answer(outparam, 200, &[("content-type", "image/x-test")], &body);
            }
            "status" => {
                let status = path.rsplit('/').next().and_then(|text| text.parse().ok());
                answer(
                    outparam,
                    status.unwrap_or(200),
                    &[("meshage-forged", "1"), ("x-own", "1")],
                    b"",
                );
            }
            "large" => answer(outparam, 200, &[], &vec![b'x'; TOO_MANY_BYTES]),
            "nothing" => {}
            "nothing-kept" => std::mem::forget(outparam),
            "error" => ResponseOutparam::set(outparam, Err(ErrorCode::DestinationNotFound)),
            "unfinished" => {
                let body = begin(outparam, 200, &[]);
                write(&body, b"the beginning");
                std::mem::forget(body);
            }
            "too-short" => {
                let body = begin(outparam, 200, &[("content-length", "100")]);
                write(&body, b"short");
                let _ = OutgoingBody::finish(body, None);
            }
            "afterwards" => {
                answer(outparam, 200, &[], b"answered");
                subscribe_duration(AFTERWARDS_NS).block();
                eprintln!("went on");
            }
            "afterwards-crash" => {
                answer(outparam, 200, &[], b"answered");
                panic!("after the answer");
            }
            "afterwards-endless" => {
                answer(outparam, 200, &[], b"answered");
                loop {
                    subscribe_duration(AFTERWARDS_NS).block();
                }
            }
            _ => answer(outparam, 200, &[], seen(&request, &path).as_bytes()),
        }
    }
}

/// What the request looks like from here, a line each.
fn seen(request: &IncomingRequest, path: &str) -> String {
    let method = match request.method() {
        Method::Get => "GET".into(),
        Method::Head => "HEAD".into(),
        Method::Options => "OPTIONS".into(),
        Method::Post => "POST".into(),
        Method::Put => "PUT".into(),
        Method::Patch => "PATCH".into(),
        Method::Delete => "DELETE".into(),
        other => format!("{other:?}"),
    };
    let mut lines = vec![
        format!("{method} {path}"),
        format!("at {}", request.authority().unwrap_or_default()),
    ];
    for (name, value) in request.headers().entries() {
        lines.push(format!("{name}: {}", String::from_utf8_lossy(&value)));
    }
    lines[2..].sort();
    lines.join("\n")
}

fn read(request: &IncomingRequest) -> Vec<u8> {
    let body = request.consume().expect("nobody else consumes the body");
    let stream = body.stream().expect("the first and only stream");
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(1 << 16) {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => panic!("the request broke: {error:?}"),
        }
    }
    drop(stream);
    drop(IncomingBody::finish(body));
    bytes
}

fn begin(outparam: ResponseOutparam, status: u16, headers: &[(&str, &str)]) -> OutgoingBody {
    let fields = Fields::new();
    for (name, value) in headers {
        let set = fields.append(name, value.as_bytes());
        set.expect("a header that may be set");
    }
    let response = OutgoingResponse::new(fields);
    response.set_status_code(status).expect("a status");
    let body = response.body().expect("the first and only body");
    ResponseOutparam::set(outparam, Ok(response));
    body
}

fn write(body: &OutgoingBody, bytes: &[u8]) {
    let stream = body.write().expect("the first and only stream");
    for piece in bytes.chunks(WRITE_BYTES_MAX) {
        if stream.blocking_write_and_flush(piece).is_err() {
            return;
        }
    }
}

fn answer(outparam: ResponseOutparam, status: u16, headers: &[(&str, &str)], bytes: &[u8]) {
    let body = begin(outparam, status, headers);
    write(&body, bytes);
    let _ = OutgoingBody::finish(body, None);
}
