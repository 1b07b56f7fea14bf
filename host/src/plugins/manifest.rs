//! A plugin's manifest, `<stream>.toml`: what it may see and how much it may take.

use std::time::Duration;

use http::HeaderName;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE};
use serde::Deserialize;

use crate::message::CONNECTION_HEADERS;
use crate::runtime::Limits;

/// The manifest as it is written. Absent keys mean the defaults of [`Limits`].
#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Request headers that the handler may see, besides `content-type`.
    #[serde(default)]
    headers: Vec<String>,
    /// Longest duration of one call.
    timeout_ms: Option<u64>,
    /// Largest linear memory of one instance.
    memory_mb: Option<usize>,
    /// Calls that run at once.
    concurrency: Option<usize>,
    /// Calls that wait; the next is refused.
    queue: Option<usize>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not TOML, an unknown key, or a value of another type. The text names place and key.
    #[error("{0}")]
    Toml(String),
    #[error("{key} = {value}: {expected}")]
    Value { key: &'static str, value: String, expected: &'static str },
}

/// What 32-bit memory can be.
const MEMORY_MB_MAX: usize = 4_096;

/// More than this and the node's own limit on instances comes first.
const CONCURRENCY_MAX: usize = 1_000;

/// A longer queue than this only keeps callers waiting for a refusal.
const QUEUE_MAX: usize = 1_000_000;

impl Manifest {
    /// Reads a manifest and says what it allows; `default_timeout` is the node's,
    /// which no plugin exceeds: the node that was asked waits no longer.
    ///
    /// # Errors
    /// Names the key, its value, and what would be right.
    pub fn read(text: &str, default_timeout: Duration) -> Result<Limits, ManifestError> {
        let manifest: Self =
            toml::from_str(text).map_err(|error| ManifestError::Toml(error.to_string().trim_end().to_owned()))?;
        let timeout_ms_max = u64::try_from(default_timeout.as_millis()).unwrap_or(u64::MAX);
        let timeout_ms = check(
            "timeout_ms",
            manifest.timeout_ms,
            1,
            timeout_ms_max,
            "1 or more milliseconds, and at most the node's --timeout",
        )?;
        let memory_mb = check("memory_mb", manifest.memory_mb, 1, MEMORY_MB_MAX, "1 to 4096 MiB")?;
        let concurrency = check("concurrency", manifest.concurrency, 1, CONCURRENCY_MAX, "1 to 1000 calls")?;
        let queue = check("queue", manifest.queue, 0, QUEUE_MAX, "0 to 1000000 calls")?;
        Ok(Limits {
            headers: manifest.headers.iter().map(|name| header_name(name)).collect::<Result<_, _>>()?,
            timeout: timeout_ms.map_or(default_timeout, Duration::from_millis),
            memory_bytes_max: memory_mb.map_or(Limits::MEMORY_BYTES_MAX, |mb| mb << 20),
            concurrency: concurrency.unwrap_or(Limits::CONCURRENCY),
            queue: queue.unwrap_or(Limits::QUEUE),
        })
    }
}

fn check<T: PartialOrd + Copy + ToString>(
    key: &'static str,
    value: Option<T>,
    min: T,
    max: T,
    expected: &'static str,
) -> Result<Option<T>, ManifestError> {
    match value {
        Some(found) if found < min || found > max => {
            Err(ManifestError::Value { key, value: found.to_string(), expected })
        }
        _ => Ok(value),
    }
}

fn header_name(name: &str) -> Result<HeaderName, ManifestError> {
    let wrong = |expected| ManifestError::Value { key: "headers", value: format!("{name:?}"), expected };
    match HeaderName::from_bytes(name.as_bytes()) {
        Err(_) => Err(wrong("expected the name of a header, such as \"authorization\"")),
        Ok(name) if CONNECTION_HEADERS.contains(&name) => Err(wrong("it speaks of a connection, not of the message")),
        Ok(name) if name == CONTENT_TYPE => Err(wrong("every handler sees it; leave it out")),
        Ok(name) => Ok(name),
    }
}

/// Whether a declared header carries credentials: worth a word in the log when a plugin asks for it.
pub(super) fn is_credential(name: &HeaderName) -> bool {
    *name == AUTHORIZATION || *name == COOKIE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Limits, ManifestError> {
        Manifest::read(text, Duration::from_secs(30))
    }

    #[track_caller]
    fn check_error(text: &str, expected: &[&str]) {
        let error = read(text).unwrap_err().to_string();
        for part in expected {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }

    #[test]
    fn an_empty_manifest_means_the_defaults() {
        let limits = read("").unwrap();
        assert_eq!(limits.timeout, Duration::from_secs(30));
        assert_eq!(limits.memory_bytes_max, 64 << 20);
        assert_eq!((limits.concurrency, limits.queue), (64, 1024));
    }

    #[test]
    fn every_key_is_read() {
        let limits =
            read("headers = [\"Authorization\"]\ntimeout_ms = 5000\nmemory_mb = 8\nconcurrency = 2\nqueue = 0\n")
                .unwrap();
        assert_eq!(limits.headers, [AUTHORIZATION]);
        assert_eq!(limits.timeout, Duration::from_secs(5));
        assert_eq!(limits.memory_bytes_max, 8 << 20);
        assert_eq!((limits.concurrency, limits.queue), (2, 0));
    }

    #[test]
    fn errors_name_key_value_and_what_is_right() {
        check_error("timeout = 5", &["timeout", "timeout_ms", "unknown field"]);
        check_error("timeout_ms = 0", &["timeout_ms = 0", "1 or more"]);
        check_error("timeout_ms = 30001", &["timeout_ms = 30001", "at most the node's --timeout"]);
        check_error("memory_mb = 5000", &["memory_mb = 5000", "1 to 4096"]);
        check_error("queue = \"many\"", &["queue", "invalid type"]);
        check_error("headers = [\"a b\"]", &["headers", "a b", "authorization"]);
        check_error("headers = [\"Connection\"]", &["speaks of a connection"]);
        check_error("headers = [\"Content-Type\"]", &["every handler sees it"]);
    }
}
