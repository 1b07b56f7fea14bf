//! For tests: counts the requests to each key, but for GETs, which read the count; `GET /write` tries
//! to write it.
#![allow(unsafe_code, reason = "of the generated bindings")]

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "package meshage:visits; world visits { import meshage:mesh/state@0.1.0; }",
    world: "meshage:visits/visits",
    generate_all,
});

use meshage::mesh::state;

const COUNT: &str = "count";

struct Visits;

wasip2::http::proxy::export!(Visits);

impl Guest for Visits {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let mut count = state::get(COUNT).map_or(0, |bytes| u64::from(bytes[0]));
        let is_write = request.path_with_query().as_deref() == Some("/write");
        if is_write || !matches!(request.method(), Method::Get) {
            count += 1;
            let byte = u8::try_from(count).expect("a test sends fewer");
            state::set(COUNT, &[byte]);
        }
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("the first and only body");
        ResponseOutparam::set(outparam, Ok(response));
        let stream = body.write().expect("the first and only stream");
        let text = count.to_string();
        let written = stream.blocking_write_and_flush(text.as_bytes());
        written.expect("the host takes the answer");
        drop(stream);
        OutgoingBody::finish(body, None).expect("a whole body");
        if request.path_with_query().as_deref() == Some("/crash") {
            panic!("after the answer");
        }
    }
}
