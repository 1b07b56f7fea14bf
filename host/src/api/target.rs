//! Parses the target of a request of the public API. Pure.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::message::{
    NameError, PARTITION_KEY_BYTES_MAX, PartitionKey, RESERVED_STREAM, StreamName,
};

/// What a request is addressed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) stream: StreamName,
    pub(super) partition_key: PartitionKey,
    /// What comes after the key, from its `/` on; empty if nothing does.
    pub(super) path: String,
    pub(super) broadcast: bool,
}

/// Why a path is not a valid target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TargetError {
    #[error(
        "no route: the API is /api/{{stream}}/{{partitionKey}} and /api/broadcast/{{stream}}/{{partitionKey}}; a '/' \
         within a key is written %2F"
    )]
    NoRoute,
    #[error("the path segment {0:?} is not percent-encoded UTF-8")]
    Encoding(String),
    #[error("the partition key is empty")]
    EmptyKey,
    #[error("the partition key has U+0000 in it, which is not allowed")]
    ZeroInKey,
    #[error("the partition key has {0} bytes; the limit is {PARTITION_KEY_BYTES_MAX}")]
    LongKey(usize),
    /// The name is not a valid stream name, so no plugin can have it.
    #[error("no node offers the stream {0:?}")]
    NoStream(String),
}

/// An invalid path, with the parts that could be parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadTarget {
    pub(super) error: TargetError,
    pub(super) stream: Option<String>,
    pub(super) partition_key: Option<String>,
}

impl From<TargetError> for BadTarget {
    fn from(error: TargetError) -> Self {
        Self {
            error,
            stream: None,
            partition_key: None,
        }
    }
}

/// Parses a path: `/api/{stream}/{partitionKey}`, or with `broadcast` in front of the two.
pub(super) fn parse(path: &str) -> Result<Target, BadTarget> {
    let path = path.strip_prefix("/api/").ok_or(TargetError::NoRoute)?;
    let (broadcast, rest) = match path
        .strip_prefix(RESERVED_STREAM)
        .and_then(|rest| rest.strip_prefix('/'))
    {
        Some(rest) => (true, rest),
        None => (false, path),
    };
    let (stream, key) = rest.split_once('/').ok_or(TargetError::NoRoute)?;
    let (key, path) = key.split_at(key.find('/').unwrap_or(key.len()));
    if stream.is_empty() {
        return Err(TargetError::NoRoute.into());
    }
    let stream = decode(stream)?;
    let in_stream = |error| BadTarget {
        error,
        stream: Some(stream.to_string()),
        partition_key: None,
    };
    let key = decode(key).map_err(in_stream)?;
    let partition_key = check_key(&key).map_err(in_stream)?;
    let stream = StreamName::try_from(&*stream).map_err(|_| BadTarget {
        partition_key: Some(key.to_string()),
        ..in_stream(TargetError::NoStream(stream.to_string()))
    })?;
    Ok(Target {
        stream,
        partition_key,
        path: path.to_owned(),
        broadcast,
    })
}

fn check_key(key: &str) -> Result<PartitionKey, TargetError> {
    PartitionKey::try_from(key).map_err(|error| match error {
        NameError::TooLong { bytes, .. } => TargetError::LongKey(bytes),
        NameError::Zero => TargetError::ZeroInKey,
        NameError::Empty | NameError::Character(_) | NameError::Reserved => TargetError::EmptyKey,
    })
}

/// Decodes a segment. Unlike the library, it treats a `%` without two hexadecimal digits as an
/// error.
fn decode(segment: &str) -> Result<Cow<'_, str>, TargetError> {
    if !segment.contains('%') {
        return Ok(Cow::Borrowed(segment));
    }
    let wrong = || TargetError::Encoding(segment.to_owned());
    let mut escapes = segment.split('%').skip(1);
    let is_escape =
        |text: &str| text.len() >= 2 && text.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    if !escapes.all(is_escape) {
        return Err(wrong());
    }
    percent_decode_str(segment)
        .decode_utf8()
        .map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, stream: &str, key: &str, broadcast: bool) {
        let target = parse(path).unwrap();
        assert_eq!(
            (
                target.stream.as_str(),
                target.partition_key.as_str(),
                target.broadcast
            ),
            (stream, key, broadcast),
            "{path}"
        );
    }

    #[track_caller]
    fn check_error(path: &str, expected: TargetError) {
        assert_eq!(
            parse(path).map_err(|rejected| rejected.error),
            Err(expected),
            "{path}"
        );
    }

    #[test]
    fn sends_and_broadcasts_are_told_apart() {
        check("/api/echo/4985", "echo", "4985", false);
        check("/api/echo/4985/", "echo", "4985", false);
        check("/api/broadcast/echo/4985", "echo", "4985", true);
        check("/api/count/broadcast", "count", "broadcast", false);
        check("/api/broadcasts/1", "broadcasts", "1", false);
    }

    #[test]
    fn what_comes_after_the_key_stays_as_it_is() {
        for path in ["", "/", "/a", "/a%20b/", "//", "/a/b%zz"] {
            let target = parse(&format!("/api/echo/1{path}")).unwrap();
            assert_eq!((target.partition_key.as_str(), &*target.path), ("1", path));
        }
        let target = parse("/api/broadcast/echo/1/a").unwrap();
        assert_eq!((target.broadcast, &*target.path), (true, "/a"));
    }

    #[test]
    fn segments_are_decoded_one_by_one() {
        check("/api/echo/a%2Fb", "echo", "a/b", false);
        check("/api/echo/%C3%BC%20+", "echo", "ü +", false);
        check("/api/e%63ho/1", "echo", "1", false);
        check("/api/echo/%25", "echo", "%", false);
        for segment in ["%", "%2", "%zz", "%ff", "a%C3", "%+1"] {
            check_error(
                &format!("/api/echo/{segment}"),
                TargetError::Encoding(segment.into()),
            );
        }
    }

    #[test]
    fn keys_have_a_length() {
        check_error("/api/echo/", TargetError::EmptyKey);
        check_error("/api/echo//", TargetError::EmptyKey);
        check_error("/api/broadcast/echo/", TargetError::EmptyKey);
        check_error("/api/echo/a%00b", TargetError::ZeroInKey);
        let longest = "k".repeat(1024);
        check(&format!("/api/echo/{longest}"), "echo", &longest, false);
        check_error(&format!("/api/echo/{longest}k"), TargetError::LongKey(1025));
    }

    #[test]
    fn what_could_be_read_is_told() {
        let rejected = parse("/api/echo/%zz").unwrap_err();
        assert_eq!(
            (rejected.stream.as_deref(), rejected.partition_key),
            (Some("echo"), None)
        );
        let rejected = parse("/api/a%20b/1").unwrap_err();
        assert_eq!(
            (
                rejected.stream.as_deref(),
                rejected.partition_key.as_deref()
            ),
            (Some("a b"), Some("1"))
        );
    }

    #[test]
    fn other_paths_lead_nowhere() {
        for path in [
            "/",
            "/api",
            "/api/",
            "/api/echo",
            "/api//1",
            "/v1/echo/1",
            "/api/broadcast/echo",
        ] {
            check_error(path, TargetError::NoRoute);
        }
        check_error("/api/a%20b/1", TargetError::NoStream("a b".into()));
    }
}
