//! For benchmarks: answers a request with its body, as an HTTP component of WASI 0.2.
#![allow(unsafe_code, reason = "of the generated bindings")]

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::streams::StreamError;

/// The most that WASI lets a guest write in one call.
const WRITE_BYTES_MAX: usize = 4096;

const READ_BYTES_MAX: u64 = 64 * 1024;

struct Echo;

wasip2::http::proxy::export!(Echo);

impl Guest for Echo {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let body = read(request.consume().expect("nobody else consumes the body"));
        let headers = Fields::new();
        let length = body.len().to_string().into_bytes();
        headers
            .append("content-length", &length)
            .expect("a header that may be set");
        let response = OutgoingResponse::new(headers);
        let sending = response.body().expect("the first and only body");
        ResponseOutparam::set(outparam, Ok(response));
        let stream = sending.write().expect("the first and only stream");
        for piece in body.chunks(WRITE_BYTES_MAX) {
            stream
                .blocking_write_and_flush(piece)
                .expect("the client takes the answer");
        }
        drop(stream);
        OutgoingBody::finish(sending, None).expect("as many bytes as were announced");
    }
}

fn read(body: IncomingBody) -> Vec<u8> {
    let stream = body.stream().expect("the first and only stream");
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(READ_BYTES_MAX) {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(StreamError::Closed) => return bytes,
            Err(StreamError::LastOperationFailed(error)) => panic!("the request broke: {error:?}"),
        }
    }
}
