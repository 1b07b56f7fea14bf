//! The stream `caller` of the tests, which has no state: calls an entity, or sends to one.

use meshage_sdk::{Failure, Json, Mesh, Message, Reply, Value};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    stream: String,
    key: String,
    body: Value,
    /// Sends it instead of calling.
    #[serde(default)]
    send: bool,
    /// Calls with GET.
    #[serde(default)]
    get: bool,
}

#[meshage_sdk::handler]
fn handle(message: Message, mesh: Mesh, Json(wanted): Json<Wanted>) -> Result<Reply, Failure> {
    if wanted.stream.is_empty() {
        let trace = message.header("traceparent").unwrap_or_default();
        return Reply::new(200).with_json(&trace);
    }
    if wanted.send {
        mesh.send(wanted.stream, wanted.key, &wanted.body)?;
        return Ok(Reply::new(202));
    }
    if wanted.get {
        return mesh.get(wanted.stream, wanted.key, "");
    }
    mesh.call(wanted.stream, wanted.key, &wanted.body)
}
