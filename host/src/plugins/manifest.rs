//! A plugin's manifest, `<stream>.toml`: what it may see and how much it may take. Each key has its
//! type and its bounds here, and an error for everything else.

use std::time::Duration;

use http::HeaderName;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE};
use toml::Value;

use crate::message::{CONNECTION_HEADERS, IDEMPOTENCY_KEY};
use crate::runtime::{Instances, Limits};

/// What 32-bit memory can be.
const MEMORY_MB_MAX: u64 = 4_096;

/// Calls of one plugin that run at once; the node's instances are for all of its plugins.
const CONCURRENCY_MAX: u64 = 500;

/// A longer queue than this only keeps callers waiting for a refusal.
const QUEUE_MAX: u64 = 1_000_000;

/// More than any limit of TOML's integers needs to be: in effect, for ever.
const CALLS_PER_INSTANCE_MAX: u64 = 1_000_000_000_000;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("it is not TOML: line {line}: {problem}")]
    Toml { line: usize, problem: String },
    #[error("unknown key {0:?}; the keys are {KEYS}")]
    Key(String),
    #[error("{key} = {value}: expected {expected}")]
    Value {
        key: String,
        value: String,
        expected: String,
    },
}

const KEYS: &str = "headers, idempotency_keys, timeout_ms, memory_mb, concurrency, queue, instances, max_calls_per_instance, env, allowed_hosts";

/// Reads a manifest; `timeout_max` is the node's, which no plugin exceeds: the node that was asked
/// waits no longer.
///
/// # Errors
/// Names the key, its value, and what would be right.
pub fn read_manifest(text: &str, timeout_max: Duration) -> Result<Limits, ManifestError> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error
            .span()
            .and_then(|span| text.get(..span.start))
            .unwrap_or_default();
        ManifestError::Toml {
            line: before.matches('\n').count() + 1,
            problem: error.message().to_owned(),
        }
    })?;
    let mut limits = Limits::with_timeout(timeout_max);
    let mut calls_max = None;
    let mut fresh = false;
    for (key, value) in &table {
        let entry = Entry { key, value };
        match key.as_str() {
            "headers" => {
                limits.headers =
                    entry.list("a list of names, such as [\"authorization\"]", header_name)?
            }
            "idempotency_keys" => limits.takes_idempotency_keys = entry.is_true()?,
            "timeout_ms" => limits.timeout = entry.timeout(timeout_max)?,
            "memory_mb" => {
                limits.memory_bytes_max = (entry.integer(1, MEMORY_MB_MAX, "MiB")? as usize) << 20
            }
            "concurrency" => {
                limits.concurrency = entry.integer(1, CONCURRENCY_MAX, "calls")? as usize
            }
            "queue" => limits.queue = entry.integer(0, QUEUE_MAX, "calls")? as usize,
            "instances" => fresh = entry.is_fresh()?,
            "max_calls_per_instance" => {
                calls_max = Some(entry.integer(1, CALLS_PER_INSTANCE_MAX, "calls")?)
            }
            "env" => limits.env = entry.environment()?,
            "allowed_hosts" => {
                let expected =
                    "a list of hosts with their ports, such as [\"api.example.com:443\"]";
                limits.allowed_hosts = entry.list(expected, |host| {
                    host.parse().map_err(|_| expected.to_owned())
                })?;
            }
            _ => return Err(ManifestError::Key(key.clone())),
        }
    }
    if limits.takes_idempotency_keys && !limits.headers.contains(&IDEMPOTENCY_KEY) {
        limits.headers.push(IDEMPOTENCY_KEY);
    }
    limits.instances = match (fresh, calls_max) {
        (true, None) => Instances::Fresh,
        (true, Some(calls)) => {
            let expected =
                "no such key beside instances = \"fresh\", which runs one call on each".to_owned();
            return Err(ManifestError::Value {
                key: "max_calls_per_instance".into(),
                value: calls.to_string(),
                expected,
            });
        }
        (false, calls_max) => Instances::Reuse {
            calls_max: calls_max.unwrap_or(Limits::CALLS_PER_INSTANCE_MAX),
        },
    };
    Ok(limits)
}

/// One key with its value.
struct Entry<'a> {
    key: &'a str,
    value: &'a Value,
}

impl Entry<'_> {
    fn error(&self, value: &Value, expected: impl Into<String>) -> ManifestError {
        ManifestError::Value {
            key: self.key.to_owned(),
            value: one_line(value),
            expected: expected.into(),
        }
    }

    fn integer(&self, min: u64, max: u64, unit: &str) -> Result<u64, ManifestError> {
        self.value
            .as_integer()
            .and_then(|number| u64::try_from(number).ok())
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| {
                self.error(
                    self.value,
                    format!("a whole number of {unit}, from {min} to {max}"),
                )
            })
    }

    fn timeout(&self, max: Duration) -> Result<Duration, ManifestError> {
        let max_ms = u64::try_from(max.as_millis()).unwrap_or(u64::MAX);
        let timeout_ms = self.integer(1, max_ms, "milliseconds (at most the node's --timeout)")?;
        Ok(Duration::from_millis(timeout_ms))
    }

    fn is_true(&self) -> Result<bool, ManifestError> {
        self.value
            .as_bool()
            .ok_or_else(|| self.error(self.value, "true or false"))
    }

    fn is_fresh(&self) -> Result<bool, ManifestError> {
        match self.value.as_str() {
            Some("fresh") => Ok(true),
            Some("reuse") => Ok(false),
            _ => Err(self.error(self.value, "\"reuse\" or \"fresh\"")),
        }
    }

    /// A list of texts, each of which is read by a function that says what it expected.
    fn list<T>(
        &self,
        expected: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ManifestError> {
        let values = self
            .value
            .as_array()
            .ok_or_else(|| self.error(self.value, expected))?;
        values
            .iter()
            .map(|value| {
                let text = value.as_str().ok_or_else(|| self.error(value, expected))?;
                read(text).map_err(|expected| self.error(value, expected))
            })
            .collect()
    }

    fn environment(&self) -> Result<Vec<(String, String)>, ManifestError> {
        let expected = "a table of texts, such as { GREETING = \"hello\" }";
        let table = self
            .value
            .as_table()
            .ok_or_else(|| self.error(self.value, expected))?;
        table
            .iter()
            .map(|(name, value)| {
                let named = Entry {
                    key: &format!("env.{name}"),
                    value,
                };
                let text = value.as_str().filter(|text| !text.contains('\0'));
                let text = text.ok_or_else(|| named.error(value, "a text, such as \"hello\""))?;
                if name.is_empty() || name.contains(['=', '\0']) {
                    return Err(named.error(value, "a name that is not empty and without '='"));
                }
                Ok((name.clone(), text.to_owned()))
            })
            .collect()
    }
}

/// A value as TOML has it, but for texts of several lines.
fn one_line(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string().replace('\n', "\\n"),
    }
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    match HeaderName::from_bytes(name.as_bytes()) {
        Err(_) => Err("the name of a header, such as \"authorization\"".into()),
        Ok(name) if CONNECTION_HEADERS.contains(&name) => {
            Err("a header of the message; this one speaks of a connection".into())
        }
        Ok(name) if name == CONTENT_TYPE => {
            Err("other headers than this, which every handler sees".into())
        }
        Ok(name) => Ok(name),
    }
}

/// Whether a declared header carries credentials: worth a word in the log when a plugin asks for
/// it.
pub(super) fn is_credential(name: &HeaderName) -> bool {
    *name == AUTHORIZATION || *name == COOKIE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Limits, ManifestError> {
        read_manifest(text, Duration::from_secs(30))
    }

    #[track_caller]
    fn check_error(text: &str, expected: &str) {
        assert_eq!(read(text).unwrap_err().to_string(), expected);
    }

    #[test]
    fn an_empty_manifest_means_the_defaults() {
        assert_eq!(
            read("").unwrap(),
            Limits::with_timeout(Duration::from_secs(30))
        );
    }

    #[test]
    fn every_key_is_read() {
        let limits = read(
            r#"
            headers = ["Authorization"]
            idempotency_keys = true
            timeout_ms = 5000
            memory_mb = 8
            concurrency = 2
            queue = 0
            instances = "reuse"
            max_calls_per_instance = 7
            env = { GREETING = "hello" }
            allowed_hosts = ["api.example.com:443"]
            "#,
        );
        let expected = Limits {
            headers: vec![AUTHORIZATION, IDEMPOTENCY_KEY],
            takes_idempotency_keys: true,
            timeout: Duration::from_secs(5),
            memory_bytes_max: 8 << 20,
            concurrency: 2,
            queue: 0,
            instances: Instances::Reuse { calls_max: 7 },
            env: vec![("GREETING".into(), "hello".into())],
            allowed_hosts: vec!["api.example.com:443".parse().unwrap()],
        };
        assert_eq!(limits.unwrap(), expected);
        assert_eq!(
            read("instances = \"fresh\"").unwrap().instances,
            Instances::Fresh
        );
    }

    #[test]
    fn errors_name_key_value_and_what_is_right() {
        check_error(
            "timeout = 5",
            &format!("unknown key \"timeout\"; the keys are {KEYS}"),
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
