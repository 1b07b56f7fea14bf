//! The message that a handler gets.

use std::fmt;

use serde::Serialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::json_body;
use crate::{Failure, FromMessage, Json};

/// The fields of a merged message that a body cannot set.
const STREAM: &str = "stream";
const PARTITION_KEY: &str = "partitionKey";

/// Initial capacity of a merged message, in fields.
const FIELDS_USUAL: usize = 8;

/// One message, addressed to the entity (`stream`, `partition_key`).
///
/// The host makes it; a test makes its own with [`Message::new`] and the `with_…` functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub(crate) id: String,
    pub(crate) stream: String,
    pub(crate) partition_key: String,
    pub(crate) method: String,
    pub(crate) query: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// A `POST` without query, headers or body, for tests.
    pub fn new(stream: impl Into<String>, partition_key: impl Into<String>) -> Self {
        Self {
            id: "test".into(),
            stream: stream.into(),
            partition_key: partition_key.into(),
            method: "POST".into(),
            query: String::new(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Sets the method: `GET`, `POST`, `PUT`, `PATCH` or `DELETE`.
    #[must_use]
    pub fn with_method(mut self, method: impl Into<String>) -> Self {
        self.method = method.into();
        self
    }

    /// Sets the query: encoded, without the leading `?`.
    #[must_use]
    pub fn with_query(mut self, query: impl Into<String>) -> Self {
        self.query = query.into();
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the body to the value as JSON, and the content type to `application/json`.
    ///
    /// # Panics
    /// If the value cannot be written as JSON, such as a map whose keys are not strings.
    #[must_use]
    pub fn with_json(mut self, value: &impl Serialize) -> Self {
        self.headers.retain(|(name, _)| name != "content-type");
        let body = serde_json::to_vec(value).expect("the value can be written as JSON");
        self.with_header("content-type", "application/json")
            .with_body(body)
    }

    /// Unique for each message in the whole mesh; the host's log lines carry it too.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name under which this handler is offered.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The entity within the stream, percent-decoded.
    pub fn partition_key(&self) -> &str {
        &self.partition_key
    }

    /// `GET`, `POST`, `PUT`, `PATCH` or `DELETE`.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The query as it was sent, without the leading `?` and not decoded; empty if there was none.
    pub fn query(&self) -> &str {
        &self.query
    }

    /// The first header of that name, which may be in upper or lower case; a name may come more
    /// than once. A handler gets `content-type`, and the headers that the plugin's manifest names.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.header_values(name).next()
    }

    /// The values of all headers of that name, which may be in upper or lower case, in the order in
    /// which they came.
    pub fn header_values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers()
            .filter(move |(candidate, _)| candidate.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Every header, as (name, value). A name may come more than once.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The body as it was sent.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body as it was sent, without a copy.
    pub fn into_body(self) -> Vec<u8> {
        self.body
    }

    /// The body, read as JSON; like the argument [`Json`](crate::Json), for a handler that needs it
    /// for some methods only.
    ///
    /// # Errors
    /// [`Failure::Invalid`] if it cannot be read as a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        Json::from_message(self).map(|Json(value)| value)
    }

    /// The merged message: `{stream, partitionKey, …body}`, in that order.
    ///
    /// The fields of a JSON object follow the two names, which a body cannot override. Any other
    /// JSON value becomes the field `body`. An empty body adds nothing. The content type does not
    /// matter. Of repeated fields, the last one counts. [`Json`](crate::Json) says how values are
    /// read, and which are refused rather than changed.
    ///
    /// # Errors
    /// [`Failure::Invalid`] if there is a body and it cannot be read: it is not JSON, is nested
    /// deeper than 127 levels, or has a number that would be changed.
    pub fn merged(&self) -> Result<Value, Failure> {
        let mut merged = Map::with_capacity(FIELDS_USUAL);
        merged.insert(STREAM.into(), self.stream.as_str().into());
        merged.insert(PARTITION_KEY.into(), self.partition_key.as_str().into());
        if json_body::without_mark(&self.body)
            .trim_ascii_start()
            .starts_with(b"{")
        {
            json_body::parse_with(&self.body, BodyFields(&mut merged))?;
        } else if !self.body.is_empty() {
            merged.insert("body".into(), json_body::parse(&self.body)?);
        }
        Ok(Value::Object(merged))
    }
}

/// Reads the fields of an object into a merged message, without an object in between.
struct BodyFields<'a>(&'a mut Map<String, Value>);

impl<'de> DeserializeSeed<'de> for BodyFields<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for BodyFields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some((name, value)) = fields.next_entry::<String, Value>()? {
            // Of repeated fields, the last one counts, as in most JSON parsers.
            if name != STREAM && name != PARTITION_KEY {
                self.0.insert(name, value);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_merged(body: &str, expected: &str) {
        let merged = Message::new("echo", "42").with_body(body).merged().unwrap();
        assert_eq!(merged.to_string(), expected, "for the body {body:?}");
    }

    #[test]
    fn merges_every_shape_of_body_behind_the_address() {
        check_merged("", r#"{"stream":"echo","partitionKey":"42"}"#);
        check_merged("{}", r#"{"stream":"echo","partitionKey":"42"}"#);
        check_merged(
            r#"{"z":1,"a":2}"#,
            r#"{"stream":"echo","partitionKey":"42","z":1,"a":2}"#,
        );
        check_merged(
            "[1,2]",
            r#"{"stream":"echo","partitionKey":"42","body":[1,2]}"#,
        );
        check_merged(
            r#""text""#,
            r#"{"stream":"echo","partitionKey":"42","body":"text"}"#,
        );
        check_merged(
            "null",
            r#"{"stream":"echo","partitionKey":"42","body":null}"#,
        );
        check_merged(
            "\n {\"a\":{\"b\":[]}} ",
            r#"{"stream":"echo","partitionKey":"42","a":{"b":[]}}"#,
        );
        check_merged(
            r#"{"a":1,"b":2,"a":3}"#,
            r#"{"stream":"echo","partitionKey":"42","a":3,"b":2}"#,
        );
        check_merged(
            "\u{feff}{\"a\":1}",
            r#"{"stream":"echo","partitionKey":"42","a":1}"#,
        );
        check_merged(
            "\u{feff}17",
            r#"{"stream":"echo","partitionKey":"42","body":17}"#,
        );
    }

    #[test]
    fn numbers_come_back_as_they_were_sent() {
        for number in [
            "18446744073709551615",
            "-9223372036854775808",
            "31.245270191439438",
            "-0.5",
        ] {
            let rest = |name: &str| {
                format!(r#"{{"stream":"echo","partitionKey":"42","{name}":{number}}}"#)
            };
            check_merged(&format!(r#"{{"n":{number}}}"#), &rest("n"));
            check_merged(number, &rest("body"));
        }
    }

    #[test]
    fn a_body_that_would_be_another_is_invalid() {
        let deep = "[".repeat(128) + &"]".repeat(128);
        for (value, problem) in [
            ("18446744073709551616", "the integer `18446744073709551616`"),
            ("1e400", "number out of range"),
            (deep.as_str(), "deeper than 127 levels"),
        ] {
            for body in [value.to_owned(), format!(r#"{{"a":{value}}}"#)] {
                let failure = Message::new("echo", "42")
                    .with_body(body)
                    .merged()
                    .unwrap_err();
                let text = failure.to_string();
                assert!(
                    text.contains(problem) && !text.contains("not JSON"),
                    "{value}: {text}"
                );
            }
        }
    }

    #[test]
    fn a_body_never_overrides_the_address() {
        check_merged(
            r#"{"partitionKey":"7","a":1,"stream":"other"}"#,
            r#"{"stream":"echo","partitionKey":"42","a":1}"#,
        );
    }

    #[test]
    fn a_body_that_is_no_json_is_invalid() {
        for body in ["hello", "{", "{}x", r#"{"a":1,}"#, "{1:2}", " "] {
            let failure = Message::new("echo", "42")
                .with_body(body)
                .merged()
                .unwrap_err();
            assert!(
                matches!(&failure, Failure::Invalid(text) if text.contains("not JSON")),
                "{body}: {failure}"
            );
        }
    }

    #[test]
    fn headers_are_found_whatever_their_case() {
        let message = Message::new("echo", "42").with_header("X-Tenant", "a");
        assert_eq!(message.header("x-tenant"), Some("a"));
        assert_eq!(message.header("X-TENANT"), Some("a"));
        assert_eq!(message.header("x-other"), None);
    }

    #[test]
    fn a_header_may_come_more_than_once() {
        let message = Message::new("echo", "42")
            .with_header("X-Tag", "a")
            .with_header("X-Other", "b");
        let message = message.with_header("x-tag", "c");
        assert_eq!(message.header("X-Tag"), Some("a"));
        assert!(message.header_values("X-Tag").eq(["a", "c"]));
        assert_eq!(message.header_values("x-none").next(), None);
    }
}
