//! Traces: by the variables of OpenTelemetry, as its specification has them. The library reads the other ones itself
//! (headers, compression, attributes of the resource, batches, limits).

use std::time::Duration;

use super::setting::{ConfigError, DefaultValue, Setting};
use super::written::Settings;
use crate::telemetry::{Sampler, TracesConfig};

const TRACE_KEYS: Setting = Setting {
    name: "trace_keys",
    variables: &["MESHAGE_TRACE_KEYS"],
    value: "true|false",
    help: "Put partition keys into traces, which are sent where the variables of OpenTelemetry say",
    default: DefaultValue::Value("false"),
    expected: "true or false",
    is_switch: true,
};

pub(super) const SETTINGS: &[&Setting] = &[&TRACE_KEYS];

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// Where OTLP over HTTP is spoken, and over gRPC.
const PROTOCOL: &str = "http/protobuf";

#[derive(Debug, Clone)]
pub struct Traces(pub Option<TracesConfig>);

impl Traces {
    pub(super) fn read(
        settings: &Settings,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let has_keys = settings.parse(&TRACE_KEYS)?;
        // An empty variable is none.
        let read = |name: &'static str| {
            let value = variable(name).map(|value| value.trim().to_owned());
            value.filter(|value| !value.is_empty())
        };
        let is_on = is_on(&read)?;
        if !is_on {
            return Ok(Self(None));
        }
        check_protocol(&read)?;
        Ok(Self(Some(TracesConfig {
            sampler: sampler(&read)?,
            timeout: timeout(&read)?,
            has_keys,
        })))
    }
}

/// Traces are sent if it is said where to, unless it is said that they are not.
fn is_on(read: &impl Fn(&'static str) -> Option<String>) -> Result<bool, ConfigError> {
    let is_disabled = read("OTEL_SDK_DISABLED").is_some_and(|it| it.eq_ignore_ascii_case("true"));
    let has_endpoint = read("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").is_some()
        || read("OTEL_EXPORTER_OTLP_ENDPOINT").is_some();
    let exporter = read("OTEL_TRACES_EXPORTER");
    let is_on = match exporter.as_deref() {
        Some("none") => false,
        Some("otlp") => true,
        Some(other) => return Err(unexpected("OTEL_TRACES_EXPORTER", other, "otlp or none")),
        None => has_endpoint,
    };
    Ok(is_on && !is_disabled)
}

fn check_protocol(read: &impl Fn(&'static str) -> Option<String>) -> Result<(), ConfigError> {
    for name in [
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
    ] {
        if let Some(protocol) = read(name) {
            if protocol == PROTOCOL {
                return Ok(());
            }
            let expected = "http/protobuf, which collectors take at port 4318; grpc and http/json are not spoken";
            return Err(unexpected(name, &protocol, expected));
        }
    }
    Ok(())
}

fn sampler(read: &impl Fn(&'static str) -> Option<String>) -> Result<Sampler, ConfigError> {
    let Some(name) = read("OTEL_TRACES_SAMPLER") else {
        return Ok(Sampler::default());
    };
    let argument = read("OTEL_TRACES_SAMPLER_ARG");
    Sampler::parse(&name, argument.as_deref()).map_err(|expected| {
        let value = match &argument {
            Some(argument) => format!("{name} {argument}"),
            None => name.clone(),
        };
        unexpected("OTEL_TRACES_SAMPLER", &value, expected)
    })
}

fn timeout(read: &impl Fn(&'static str) -> Option<String>) -> Result<Duration, ConfigError> {
    for name in [
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
        "OTEL_EXPORTER_OTLP_TIMEOUT",
    ] {
        if let Some(value) = read(name) {
            let millis = value
                .parse()
                .map_err(|_| unexpected(name, &value, "a whole number of milliseconds"))?;
            return Ok(Duration::from_millis(millis));
        }
    }
    Ok(TIMEOUT_DEFAULT)
}

fn unexpected(name: &'static str, value: &str, expected: &str) -> ConfigError {
    ConfigError::Variable {
        name,
        value: value.to_owned(),
        expected: expected.to_owned(),
    }
}
