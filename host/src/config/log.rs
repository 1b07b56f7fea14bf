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

pub(super) const SETTINGS: &[&Setting] = &[&LOG, &LOG_FORMAT];

#[derive(Debug, Clone)]
pub struct Log {
    pub filter: String,
}

impl Log {
    pub(super) fn read(settings: &Settings) -> Result<Self, ConfigError> {
        // `Written` has it already.
        format(settings)?;
        Ok(Self {
            filter: settings.text(&LOG).to_owned(),
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
