//! How values are shown to people and programs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// A value with its name and size: as JSON if it is the shortest form of some, else as text, else in
/// base64. So it can be restored byte by byte.
pub fn shown(name: &str, value: &[u8]) -> Value {
    let bytes = value.len();
    if let Ok(json) = serde_json::from_slice::<Value>(value)
        && json.to_string().as_bytes() == value
    {
        return json!({ "name": name, "bytes": bytes, "json": json });
    }
    match std::str::from_utf8(value) {
        Ok(text) => json!({ "name": name, "bytes": bytes, "text": text }),
        Err(_) => json!({ "name": name, "bytes": bytes, "base64": STANDARD.encode(value) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_shown_in_a_form_from_which_it_can_be_restored() {
        for (value, expected) in [
            (
                &br#"{"b":1,"a":[]}"#[..],
                json!({ "name": "n", "bytes": 14, "json": { "b": 1, "a": [] } }),
            ),
            (b"{ }", json!({ "name": "n", "bytes": 3, "text": "{ }" })),
            (
                b"123456789012345678901234567890",
                json!({ "name": "n", "bytes": 30, "text": "123456789012345678901234567890" }),
            ),
            (b"", json!({ "name": "n", "bytes": 0, "text": "" })),
            (
                b"\xff\x00",
                json!({ "name": "n", "bytes": 2, "base64": "/wA=" }),
            ),
        ] {
            assert_eq!(shown("n", value), expected);
        }
    }
}
