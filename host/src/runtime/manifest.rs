//! A plugin's manifest, `<stream>.toml`: its limits and grants. Each key has a type and bounds;
//! anything else is an error. A capability reads its own keys.

use std::time::Duration;

use http::HeaderName;
use http::header::CONTENT_TYPE;

use super::entry::{Entry, ManifestError};
use super::host::{self, Grants};
use super::limits::{Instances, Limits};
use super::visible::EVERY;
use crate::message::{CONNECTION_HEADERS, IDEMPOTENCY_KEY};

/// The largest 32-bit memory.
const MEMORY_MB_MAX: u64 = 4_096;

/// Maximum concurrency of one plugin; the plugins of a node share its 1,000 instances.
const CONCURRENCY_MAX: u64 = 500;

/// A longer queue than this only keeps callers waiting for a refusal.
const QUEUE_MAX: u64 = 1_000_000;

/// Effectively no limit.
const CALLS_PER_INSTANCE_MAX: u64 = 1_000_000_000_000;

/// The keys that this file reads, for error texts.
const KEYS: [&str; 9] = [
    "headers",
    "idempotency_keys",
    "timeout_ms",
    "memory_mb",
    "concurrency",
    "queue",
    "queue_per_key",
    "instances",
    "max_calls_per_instance",
];

/// The contents of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub limits: Limits,
    pub grants: Grants,
}

impl Manifest {
    /// The defaults, with the node's timeout.
    pub fn with_timeout(timeout: Duration) -> Self {
        Self {
            limits: Limits::with_timeout(timeout),
            grants: Grants::default(),
        }
    }

    /// Reads a manifest. `timeout_max` is the node's timeout, which no plugin may exceed: the node
    /// that received the request waits no longer than that.
    ///
    /// # Errors
    /// Names the key, its value, and what is allowed.
    pub fn read(text: &str, timeout_max: Duration) -> Result<Self, ManifestError> {
        let table: toml::Table = text.parse().map_err(|error| toml_error(text, &error))?;
        let mut manifest = Self::with_timeout(timeout_max);
        let limits = &mut manifest.limits;
        let mut calls_max = None;
        let mut is_fresh = None;
        for (key, value) in &table {
            let entry = Entry::new(key, value);
            match key.as_str() {
                "instances" => is_fresh = Some(entry.is_first_of(["fresh", "reuse"])?),
                "max_calls_per_instance" => {
                    calls_max = Some(entry.integer(1, CALLS_PER_INSTANCE_MAX, "calls")?)
                }
                key => {
                    let is_known =
                        read_limit(limits, entry, timeout_max)? || manifest.grants.read(entry)?;
                    if !is_known {
                        let (key, keys) = (key.to_owned(), keys());
                        return Err(ManifestError::Key { key, keys });
                    }
                }
            }
        }
        if limits.takes_idempotency_keys && !limits.headers.names.contains(&IDEMPOTENCY_KEY) {
            limits.headers.names.push(IDEMPOTENCY_KEY);
        }
        limits.instances = instances(is_fresh, calls_max)?;
        Ok(manifest)
    }
}

fn toml_error(text: &str, error: &toml::de::Error) -> ManifestError {
    let before = error
        .span()
        .and_then(|span| text.get(..span.start))
        .unwrap_or_default();
    ManifestError::Toml {
        line: before.matches('\n').count() + 1,
        problem: error.message().to_owned(),
    }
}

/// Reads a key that sets a limit. Returns `false` if the key is not one of those.
fn read_limit(
    limits: &mut Limits,
    entry: Entry<'_>,
    timeout_max: Duration,
) -> Result<bool, ManifestError> {
    match entry.key() {
        "headers" => {
            let expected = "a list of names, such as [\"authorization\"]";
            let names = entry.list(expected, header_name)?;
            limits.headers.every = names.contains(&None);
            limits.headers.names = names.into_iter().flatten().collect();
        }
        "idempotency_keys" => limits.takes_idempotency_keys = entry.boolean()?,
        "timeout_ms" => {
            let max_ms = u64::try_from(timeout_max.as_millis()).unwrap_or(u64::MAX);
            let unit = "milliseconds (at most the node's --timeout)";
            limits.timeout = Duration::from_millis(entry.integer(1, max_ms, unit)?);
        }
        "memory_mb" => {
            limits.memory_bytes_max = (entry.integer(1, MEMORY_MB_MAX, "MiB")? as usize) << 20
        }
        "concurrency" => limits.concurrency = entry.integer(1, CONCURRENCY_MAX, "calls")? as usize,
        "queue_per_key" => limits.queue_per_key = entry.integer(1, QUEUE_MAX, "messages")? as usize,
        "queue" => limits.queue = entry.integer(0, QUEUE_MAX, "calls")? as usize,
        _ => return Ok(false),
    }
    Ok(true)
}

fn instances(
    is_fresh: Option<bool>,
    calls_max: Option<u64>,
) -> Result<Option<Instances>, ManifestError> {
    match (is_fresh, calls_max) {
        (None, None) => Ok(None),
        (Some(true), None) => Ok(Some(Instances::Fresh)),
        (Some(true), Some(calls)) => Err(ManifestError::Value {
            key: "max_calls_per_instance".into(),
            value: calls.to_string(),
            expected: "no such key beside instances = \"fresh\", which runs one call on each"
                .into(),
        }),
        (_, None) => Ok(Some(Instances::REUSE)),
        (_, Some(calls_max)) => Ok(Some(Instances::Reuse { calls_max })),
    }
}

/// All keys, for error texts.
fn keys() -> String {
    let keys: Vec<&str> = KEYS.into_iter().chain(host::manifest_keys()).collect();
    keys.join(", ")
}

/// `None`: all but credentials.
fn header_name(name: &str) -> Result<Option<HeaderName>, String> {
    if name == EVERY {
        return Ok(None);
    }
    match HeaderName::from_bytes(name.as_bytes()) {
        Err(_) => Err("the name of a header, such as \"authorization\"".into()),
        Ok(name) if CONNECTION_HEADERS.contains(&name) => {
            Err("a header of the message; this one speaks of a connection".into())
        }
        Ok(name) if name == CONTENT_TYPE => {
            Err("other headers than this, which every handler sees".into())
        }
        Ok(name) => Ok(Some(name)),
    }
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;

    use super::*;
    use crate::runtime::visible::Visible;

    fn read(text: &str) -> Result<Manifest, ManifestError> {
        Manifest::read(text, Duration::from_secs(30))
    }

    #[track_caller]
    fn check_error(text: &str, expected: &str) {
        assert_eq!(read(text).unwrap_err().to_string(), expected);
    }

    #[test]
    fn an_empty_manifest_means_the_defaults() {
        assert_eq!(
            read("").unwrap(),
            Manifest::with_timeout(Duration::from_secs(30))
        );
    }

    #[test]
    fn every_key_is_read() {
        let manifest = read(
            r#"
            headers = ["Authorization", "*"]
            idempotency_keys = true
            timeout_ms = 5000
            memory_mb = 8
            concurrency = 2
            queue = 0
            queue_per_key = 3
            instances = "reuse"
            max_calls_per_instance = 7
            env = { GREETING = "hello" }
            allowed_hosts = ["api.example.com:443"]
            "#,
        );
        let expected = Limits {
            headers: Visible {
                names: vec![AUTHORIZATION, IDEMPOTENCY_KEY],
                every: true,
            },
            takes_idempotency_keys: true,
            timeout: Duration::from_secs(5),
            memory_bytes_max: 8 << 20,
            concurrency: 2,
            queue: 0,
            queue_per_key: 3,
            instances: Some(Instances::Reuse { calls_max: 7 }),
        };
        let manifest = manifest.unwrap();
        assert_eq!(manifest.limits, expected);
        let grants = serde_json::json!({
            "env": ["GREETING"],
            "allowedHosts": ["api.example.com:443"],
        });
        assert_eq!(serde_json::to_value(&manifest.grants).unwrap(), grants);
        assert_eq!(
            read("instances = \"fresh\"").unwrap().limits.instances,
            Some(Instances::Fresh)
        );
    }

    #[test]
    fn errors_name_key_value_and_what_is_right() {
        check_error(
            "timeout = 5",
            "unknown key \"timeout\"; the keys are headers, idempotency_keys, timeout_ms, memory_mb, concurrency, queue, queue_per_key, instances, max_calls_per_instance, env, allowed_hosts",
        );
        let expected =
            "a whole number of milliseconds (at most the node's --timeout), from 1 to 30000";
        check_error(
            "timeout_ms = 0",
            &format!("timeout_ms = 0: expected {expected}"),
        );
        check_error(
            "timeout_ms = 30001",
            &format!("timeout_ms = 30001: expected {expected}"),
        );
        check_error(
            "memory_mb = 5000",
            "memory_mb = 5000: expected a whole number of MiB, from 1 to 4096",
        );
        check_error(
            "queue = \"many\"",
            "queue = \"many\": expected a whole number of calls, from 0 to 1000000",
        );
        check_error(
            "queue = -1",
            "queue = -1: expected a whole number of calls, from 0 to 1000000",
        );
        check_error(
            "headers = \"a\"",
            "headers = \"a\": expected a list of names, such as [\"authorization\"]",
        );
        check_error(
            "headers = [\"a b\"]",
            "headers = \"a b\": expected the name of a header, such as \"authorization\"",
        );
        check_error(
            "headers = [\"Connection\"]",
            "headers = \"Connection\": expected a header of the message; this one speaks of a connection",
        );
        check_error(
            "headers = [\"Content-Type\"]",
            "headers = \"Content-Type\": expected other headers than this, which every handler sees",
        );
        check_error(
            "idempotency_keys = 1",
            "idempotency_keys = 1: expected true or false",
        );
        check_error(
            "instances = \"new\"",
            "instances = \"new\": expected \"reuse\" or \"fresh\"",
        );
        check_error(
            "instances = \"fresh\"\nmax_calls_per_instance = 2",
            "max_calls_per_instance = 2: expected no such key beside instances = \"fresh\", which runs one call on each",
        );
        check_error(
            "instances = \"a\\nb\"",
            "instances = \"a\\nb\": expected \"reuse\" or \"fresh\"",
        );
        check_error(
            "env = { A = 1 }",
            "env.A = 1: expected a text, such as \"hello\"",
        );
        check_error(
            "allowed_hosts = [\"example.com\"]",
            "allowed_hosts = \"example.com\": expected a list of hosts with their ports, such as [\"api.example.com:443\"]",
        );
    }
}
