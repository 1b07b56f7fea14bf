//! What clients may take.

use std::time::Duration;

use super::setting::{ConfigError, Default, Setting};
use super::written::Settings;
use crate::message::BODY_BYTES_MAX;

/// Connections of clients at once.
const CONNECTIONS_MAX: usize = 1_000_000;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "max_body",
        variables: &["MESHAGE_MAX_BODY"],
        value: "BYTES",
        help: "Longest body of a request, in bytes",
        default: Default::Value("1048576"),
        expected: "1 to 67108864 bytes",
        is_switch: false,
    },
    Setting {
        name: "max_connections",
        variables: &["MESHAGE_MAX_CONNECTIONS"],
        value: "NUMBER",
        help: "Connections of clients at once; later ones wait",
        default: Default::Value("10000"),
        expected: "1 to 1000000 connections",
        is_switch: false,
    },
    Setting {
        name: "request_timeout",
        variables: &["MESHAGE_REQUEST_TIMEOUT"],
        value: "DURATION",
        help: "Longest time for a request's head to arrive, and again for its body, and for a connection to be idle",
        default: Default::Value("30s"),
        expected: DURATION,
        is_switch: false,
    },
    Setting {
        name: "timeout",
        variables: &["MESHAGE_TIMEOUT"],
        value: "DURATION",
        help: "Longest time for a message: `500ms`, `30s`, or milliseconds",
        default: Default::Value("30s"),
        expected: DURATION,
        is_switch: false,
    },
];

const DURATION: &str = "a duration such as 500ms, 30s or 5000 (milliseconds), up to 1h";

#[derive(Debug, Clone)]
pub struct Clients {
    /// Longest body of a request.
    pub body_bytes_max: usize,
    /// Connections at once.
    pub connections_max: usize,
    pub request_timeout: Duration,
    /// From a request's arrival to its answer.
    pub timeout: Duration,
}

impl Clients {
    pub(super) fn read(settings: &Settings) -> Result<Self, ConfigError> {
        Ok(Self {
            body_bytes_max: settings.number("max_body", BODY_BYTES_MAX)?,
            connections_max: settings.number("max_connections", CONNECTIONS_MAX)?,
            request_timeout: settings.duration("request_timeout")?,
            timeout: settings.duration("timeout")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_those_that_errors_name() {
        let says = |name, max: usize| Setting::of(name).expected.contains(&format!("to {max} "));
        assert!(says("max_body", BODY_BYTES_MAX) && says("max_connections", CONNECTIONS_MAX));
    }
}
