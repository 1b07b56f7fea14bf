//! Settings of the log.

use super::setting::{ConfigError, DefaultValue, Setting};
use super::written::Settings;
use crate::telemetry::LogFormat;

const LOG: Setting = Setting {
    name: "log",
    variables: &["MESHAGE_LOG"],
    value: "FILTER",
    help: "What is logged: a level (error, warn, info, debug, trace), or directives as `info,guest=debug`",
    default: DefaultValue::Value("info"),
    expected: "a level (error, warn, info, debug, trace), or directives as info,guest=debug",
    is_switch: false,
};

pub(super) const LOG_FORMAT: Setting = Setting {
    name: "log_format",
    variables: &["MESHAGE_LOG_FORMAT"],
    value: "FORMAT",
    help: "Logs as `text` or `json`",
    default: DefaultValue::Value("text"),
    expected: "text or json",
    is_switch: false,
};

const ACCESS_LOG: Setting = Setting {
    name: "access_log",
    variables: &["MESHAGE_ACCESS_LOG"],
    value: "true|false",
    help: "Write a line for each request to stdout, in the format of the log",
    default: DefaultValue::Value("false"),
    expected: "true or false",
    is_switch: true,
};

pub(super) const SETTINGS: &[&Setting] = &[&LOG, &LOG_FORMAT, &ACCESS_LOG];

#[derive(Debug, Clone)]
pub struct Log {
    pub filter: String,
    /// The format of the access log; `None`: there is none.
    pub access: Option<LogFormat>,
}

impl Log {
    pub(super) fn read(settings: &Settings) -> Result<Self, ConfigError> {
        // `Written` has it already.
        let format = format(settings)?;
        let has_access_log: bool = settings.parse(&ACCESS_LOG)?;
        Ok(Self {
            filter: settings.text(&LOG).to_owned(),
            access: has_access_log.then_some(format),
        })
    }

    /// The error for a log filter, which only the logger can check.
    pub fn filter_error(&self) -> ConfigError {
        ConfigError::new(&LOG, &self.filter, LOG.expected)
    }
}

pub(super) fn format(settings: &Settings) -> Result<LogFormat, ConfigError> {
    match settings.text(&LOG_FORMAT) {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(settings.unexpected(&LOG_FORMAT)),
    }
}
