//! Limits for clients.

use std::time::Duration;

use super::setting::{ConfigError, DefaultValue, Setting};
use super::written::Settings;
use crate::message::BODY_BYTES_MAX;

/// Upper bound for the setting `max_connections`.
const CONNECTIONS_MAX: usize = 1_000_000;

const MAX_BODY: Setting = Setting {
    name: "max_body",
    variables: &["MESHAGE_MAX_BODY"],
    value: "BYTES",
    help: "Longest body of a request, in bytes",
    default: DefaultValue::Value("1048576"),
    expected: "1 to 67108864 bytes",
    is_switch: false,
};

const MAX_CONNECTIONS: Setting = Setting {
    name: "max_connections",
    variables: &["MESHAGE_MAX_CONNECTIONS"],
    value: "NUMBER",
    help: "Connections of clients at once; later ones wait",
    default: DefaultValue::Value("10000"),
    expected: "1 to 1000000 connections",
    is_switch: false,
};

const REQUEST_TIMEOUT: Setting = Setting {
    name: "request_timeout",
    variables: &["MESHAGE_REQUEST_TIMEOUT"],
    value: "DURATION",
    help: "Longest time for a request's head to arrive, and again for its body, and for a connection to be idle",
    default: DefaultValue::Value("30s"),
    expected: DURATION,
    is_switch: false,
};

pub(super) const TIMEOUT: Setting = Setting {
    name: "timeout",
    variables: &["MESHAGE_TIMEOUT"],
    value: "DURATION",
    help: "Longest time for a message: `500ms`, `30s`, or milliseconds",
    default: DefaultValue::Value("30s"),
    expected: DURATION,
    is_switch: false,
};

pub(super) const SETTINGS: &[&Setting] = &[&MAX_BODY, &MAX_CONNECTIONS, &REQUEST_TIMEOUT, &TIMEOUT];

const DURATION: &str = "a duration such as 500ms, 30s or 5000 (milliseconds), up to 1h";

#[derive(Debug, Clone)]
pub struct Clients {
    /// Maximum size of a request body.
    pub body_bytes_max: usize,
    /// Maximum of concurrent connections.
    pub connections_max: usize,
    pub request_timeout: Duration,
    /// Maximum time from a request's arrival to its answer.
    pub timeout: Duration,
}

impl Clients {
    pub(super) fn read(settings: &Settings) -> Result<Self, ConfigError> {
        Ok(Self {
            body_bytes_max: settings.number(&MAX_BODY, BODY_BYTES_MAX)?,
            connections_max: settings.number(&MAX_CONNECTIONS, CONNECTIONS_MAX)?,
            request_timeout: settings.duration(&REQUEST_TIMEOUT)?,
            timeout: settings.duration(&TIMEOUT)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_those_that_errors_name() {
        let says = |setting: &Setting, max: usize| setting.expected.contains(&format!("to {max} "));
        assert!(says(&MAX_BODY, BODY_BYTES_MAX) && says(&MAX_CONNECTIONS, CONNECTIONS_MAX));
    }
}
