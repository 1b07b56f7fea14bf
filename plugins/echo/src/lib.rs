//! The stream `echo`: answers every message with itself.

use meshage_sdk::{Failure, Json, Message, Value, json};

#[meshage_sdk::handler]
fn echo(message: Message) -> Result<Json<Value>, Failure> {
    Ok(Json(json!({ "echoed": message.merged()? })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echoes_the_merged_message() {
        let message = Message::new("echo", "4985").with_json(&json!({ "hello": "world" }));
        let Json(reply) = echo(message).unwrap();
        assert_eq!(
            reply.to_string(),
            r#"{"echoed":{"stream":"echo","partitionKey":"4985","hello":"world"}}"#
        );
    }
}
