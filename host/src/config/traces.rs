//! Traces: by the variables of OpenTelemetry, as its specification has them. The library reads the other ones itself
//! (endpoints, headers, attributes of the resource, batches, limits).

use std::path::Path;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use rustls::pki_types::TrustAnchor;

use super::setting::{ConfigError, DefaultValue, Setting};
use super::written::Settings;
use crate::security::read_authorities;
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

/// As the specification has it.
const QUEUE_MAX_DEFAULT: usize = 2_048;

/// Memory for them is reserved at once.
const QUEUE_MAX: usize = 1_000_000;

/// What the library reads as a number, and ignores if it is none.
const NUMBERS: [&str; 9] = [
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
];

/// Headers that say how the connection is used.
const OF_THE_CONNECTION: [HeaderName; 4] = [CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING];

/// What is spoken: OTLP over HTTP.
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
        let read = |name: &str| {
            let value = variable(name).map(|value| value.trim().to_owned());
            value.filter(|value| !value.is_empty())
        };
        if !is_on(&read)? {
            return Ok(Self(None));
        }
        check_protocol(&read)?;
        check_unread(&read)?;
        check_endpoint(&read)?;
        check_lists(&read)?;
        check_numbers(&read)?;
        Ok(Self(Some(TracesConfig {
            sampler: sampler(&read)?,
            timeout: timeout(&read)?,
            collector_roots: roots(&read)?,
            queue_max: queue_max(&read)?,
            has_keys,
        })))
    }
}

/// Traces are sent if it is said where to, unless it is said that they are not.
fn is_on(read: &impl Fn(&str) -> Option<String>) -> Result<bool, ConfigError> {
    match read("OTEL_SDK_DISABLED") {
        Some(value) if value.eq_ignore_ascii_case("true") => return Ok(false),
        Some(value) if !value.eq_ignore_ascii_case("false") => {
            return Err(unexpected("OTEL_SDK_DISABLED", &value, "true or false"));
        }
        _ => {}
    }
    let Some(exporters) = read("OTEL_TRACES_EXPORTER") else {
        return Ok(of_traces(read, "ENDPOINT").is_some());
    };
    let mut is_on = false;
    for exporter in exporters.split(',') {
        match exporter.trim() {
            "otlp" => is_on = true,
            "none" => {}
            _ => {
                let expected = "otlp or none";
                return Err(unexpected("OTEL_TRACES_EXPORTER", &exporters, expected));
            }
        }
    }
    Ok(is_on)
}

/// A variable of OTLP: that of traces is before that of all signals. Also returns its name.
fn of_traces(
    read: &impl Fn(&str) -> Option<String>,
    name: &'static str,
) -> Option<(String, String)> {
    let names = [
        format!("OTEL_EXPORTER_OTLP_TRACES_{name}"),
        format!("OTEL_EXPORTER_OTLP_{name}"),
    ];
    names
        .into_iter()
        .find_map(|name| read(&name).map(|value| (name, value)))
}

fn check_protocol(read: &impl Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
    match of_traces(read, "PROTOCOL") {
        Some((name, protocol)) if protocol != PROTOCOL => {
            let expected = "http/protobuf, which collectors take at port 4318; grpc and http/json are not spoken";
            Err(unexpected(&name, &protocol, expected))
        }
        _ => Ok(()),
    }
}

/// Checks what the library would pass over in silence.
fn check_unread(read: &impl Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
    if let Some((name, value)) = of_traces(read, "COMPRESSION")
        && !["gzip", "none"].contains(&&*value)
    {
        return Err(unexpected(&name, &value, "gzip or none"));
    }
    for name in ["CLIENT_KEY", "CLIENT_CERTIFICATE"] {
        if let Some((name, value)) = of_traces(read, name) {
            let expected = "nothing: the node shows the collector no certificate; OTEL_EXPORTER_OTLP_HEADERS can carry a token";
            return Err(unexpected(&name, &value, expected));
        }
    }
    let name = "OTEL_PROPAGATORS";
    match read(name) {
        // What others say of a message goes on with it, as a header does.
        Some(value)
            if !value
                .split(',')
                .all(|it| ["tracecontext", "baggage"].contains(&it.trim())) =>
        {
            Err(unexpected(name, &value, "tracecontext, and baggage"))
        }
        _ => Ok(()),
    }
}

fn check_endpoint(read: &impl Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
    let Some((name, endpoint)) = of_traces(read, "ENDPOINT") else {
        return Ok(());
    };
    let uri: Option<Uri> = endpoint.parse().ok();
    let is_good = |uri: Uri| {
        let port = uri.authority().map(|at| at.as_str().rsplit_once(':'));
        let is_port = |port: &str| port.ends_with(']') || port.parse::<u16>().is_ok();
        matches!(uri.scheme_str(), Some("http" | "https"))
            && port.is_some_and(|port| port.is_none_or(|(_, port)| is_port(port)))
    };
    if uri.is_some_and(is_good) {
        return Ok(());
    }
    let expected = "the URL of a collector, such as http://localhost:4318";
    Err(unexpected(&name, &endpoint, expected))
}

/// Checks lists of `key=value`, of which the library leaves out what it does not understand.
fn check_lists(read: &impl Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
    let pairs = |list: &str| -> Option<Vec<(String, String)>> {
        let pairs = list.split(',').map(str::trim).filter(|it| !it.is_empty());
        let decoded = |value: &str| percent_decode_str(value).decode_utf8().ok().map(Into::into);
        pairs
            .map(|pair| {
                let (key, value) = pair.split_once('=')?;
                Some((key.trim().to_owned(), decoded(value.trim())?))
            })
            .collect()
    };
    if let Some((name, list)) = of_traces(read, "HEADERS") {
        let is_header = |(key, value): &(String, String)| {
            HeaderName::try_from(key).is_ok_and(|key| !OF_THE_CONNECTION.contains(&key))
                && HeaderValue::try_from(value).is_ok()
        };
        if !pairs(&list).is_some_and(|pairs| pairs.iter().all(is_header)) {
            let expected = "name=value,name=value, of headers that do not belong to the connection";
            // It may have a password in it.
            return Err(unexpected(&name, "(not shown)", expected));
        }
    }
    let name = "OTEL_RESOURCE_ATTRIBUTES";
    match read(name) {
        Some(list) if pairs(&list).is_none() => Err(unexpected(name, &list, "key=value,key=value")),
        _ => Ok(()),
    }
}

fn check_numbers(read: &impl Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
    for name in NUMBERS {
        if let Some(value) = read(name) {
            let number = value.parse::<u32>().ok();
            if !number.is_some_and(|number| number > 0 || name.ends_with("_LIMIT")) {
                return Err(unexpected(name, &value, "a whole number from 1 up"));
            }
        }
    }
    Ok(())
}

fn sampler(read: &impl Fn(&str) -> Option<String>) -> Result<Sampler, ConfigError> {
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

fn timeout(read: &impl Fn(&str) -> Option<String>) -> Result<Duration, ConfigError> {
    of_traces(read, "TIMEOUT").map_or(Ok(TIMEOUT_DEFAULT), |(name, value)| {
        let millis = value.parse().ok().filter(|millis| *millis > 0);
        let expected = "a whole number of milliseconds, from 1 up";
        millis
            .map(Duration::from_millis)
            .ok_or_else(|| unexpected(&name, &value, expected))
    })
}

fn roots(
    read: &impl Fn(&str) -> Option<String>,
) -> Result<Option<Vec<TrustAnchor<'static>>>, ConfigError> {
    let Some((name, file)) = of_traces(read, "CERTIFICATE") else {
        return Ok(None);
    };
    let roots = read_authorities(Path::new(&file));
    let expected = |error| format!("a PEM file of the collector's authorities: {error}");
    let roots = roots.map_err(|error| unexpected(&name, &file, &expected(error)))?;
    Ok(Some(roots))
}

fn queue_max(read: &impl Fn(&str) -> Option<String>) -> Result<usize, ConfigError> {
    let name = "OTEL_BSP_MAX_QUEUE_SIZE";
    read(name).map_or(Ok(QUEUE_MAX_DEFAULT), |value| {
        let max = value.parse().ok();
        let max = max.filter(|max| (1..=QUEUE_MAX).contains(max));
        let expected = format!("a number of spans from 1 to {QUEUE_MAX}");
        max.ok_or_else(|| unexpected(name, &value, &expected))
    })
}

fn unexpected(name: &str, value: &str, expected: &str) -> ConfigError {
    ConfigError::Variable {
        name: name.to_owned(),
        value: value.to_owned(),
        expected: expected.to_owned(),
    }
}
