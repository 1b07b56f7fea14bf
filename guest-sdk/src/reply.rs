//! Typed results: what a handler can return.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Failure, Json};

/// A handler's complete answer: status, headers, body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// A reply of this status (200 to 599), without headers or body.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// Sets the body and its content type.
    #[must_use]
    pub fn with_body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.headers.retain(|(name, _)| name != "content-type");
        self.body = body.into();
        self.with_header("content-type", content_type)
    }

    /// Sets the body to the value as JSON, and the content type to `application/json`.
    ///
    /// # Errors
    /// [`Failure::Internal`] if the value cannot be written as JSON, such as a map whose keys are
    /// not strings.
    pub fn with_json(self, value: &impl Serialize) -> Result<Self, Failure> {
        let body = serde_json::to_vec(value).map_err(|error| {
            Failure::internal(format_args!("the reply cannot be JSON: {error}"))
        })?;
        Ok(self.with_body("application/json", body))
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The first header of that name, which may be in upper or lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers()
            .find(|(candidate, _)| candidate.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Every header, as (name, value).
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body of another entity's reply, read as JSON.
    ///
    /// # Errors
    /// [`Failure::Internal`] if it is not JSON of this type; the text says where.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let mut reader = serde_json::Deserializer::from_slice(&self.body);
        serde_path_to_error::deserialize(&mut reader)
            .map_err(|error| Failure::internal(format_args!("the reply of the call: {error}")))
    }
}

/// A handler's result: a type that a reply or a failure can be made from.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "no reply can be made of this",
    note = "a handler returns `Json<T>`, `String`, `&'static str`, `Vec<u8>`, `()`, `Reply`, or a `Result` of \
            one of them and a `meshage_sdk::Failure`",
    note = "for a type of your own, return `Json<{Self}>` and derive `serde::Serialize` for it"
)]
pub trait IntoReply {
    /// Makes the reply.
    ///
    /// # Errors
    /// The failure that the caller gets instead of a reply.
    fn into_reply(self) -> Result<Reply, Failure>;
}

impl IntoReply for Reply {
    fn into_reply(self) -> Result<Reply, Failure> {
        Ok(self)
    }
}

impl<T: Serialize> IntoReply for Json<T> {
    fn into_reply(self) -> Result<Reply, Failure> {
        Reply::new(200).with_json(&self.0)
    }
}

impl IntoReply for String {
    fn into_reply(self) -> Result<Reply, Failure> {
        Ok(Reply::new(200).with_body("text/plain; charset=utf-8", self))
    }
}

impl IntoReply for &'static str {
    fn into_reply(self) -> Result<Reply, Failure> {
        self.to_owned().into_reply()
    }
}

impl IntoReply for Vec<u8> {
    fn into_reply(self) -> Result<Reply, Failure> {
        Ok(Reply::new(200).with_body("application/octet-stream", self))
    }
}

impl IntoReply for () {
    fn into_reply(self) -> Result<Reply, Failure> {
        Ok(Reply::new(204))
    }
}

impl<T: IntoReply, E: Into<Failure>> IntoReply for Result<T, E> {
    fn into_reply(self) -> Result<Reply, Failure> {
        self.map_err(Into::into)?.into_reply()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(result: impl IntoReply, status: u16, content_type: Option<&str>, body: &str) {
        let reply = result.into_reply().unwrap();
        assert_eq!(
            (reply.status(), reply.header("Content-Type")),
            (status, content_type)
        );
        assert_eq!(reply.body(), body.as_bytes());
    }

    #[test]
    fn every_result_has_its_status_and_content_type() {
        check(Json([1, 2]), 200, Some("application/json"), "[1,2]");
        check("hello", 200, Some("text/plain; charset=utf-8"), "hello");
        check(vec![b'x'], 200, Some("application/octet-stream"), "x");
        check((), 204, None, "");
        check(
            Reply::new(201).with_body("text/csv", "a,b"),
            201,
            Some("text/csv"),
            "a,b",
        );
        check(
            Ok::<_, Failure>("fine"),
            200,
            Some("text/plain; charset=utf-8"),
            "fine",
        );
    }

    #[test]
    fn a_failure_stays_one() {
        let result: Result<(), _> = Err(Failure::conflict("taken"));
        assert_eq!(result.into_reply(), Err(Failure::Conflict("taken".into())));
    }

    #[test]
    fn what_cannot_be_json_is_an_internal_failure() {
        let keyed = std::collections::HashMap::from([((1, 2), 3)]);
        assert!(matches!(
            Json(keyed).into_reply(),
            Err(Failure::Internal(_))
        ));
    }
}
