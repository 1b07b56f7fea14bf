//! Raw settings: from flags, then environment variables, then the configuration file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use super::setting::{ConfigError, DefaultValue, Setting};
use crate::setting_file;

/// Upper bound for timeouts: no client waits for longer than an hour.
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// The name of the file with all settings, which is not in that file.
pub(super) const CONFIG_NAME: &str = "config";

/// Raw values by the setting's name.
pub type Values = BTreeMap<&'static str, String>;

/// All raw settings, with functions to parse them and to make errors. Values are trimmed here, so
/// that the value that is checked is the value that is used.
#[derive(Debug)]
pub(super) struct Settings(pub(super) Values);

impl Settings {
    /// The raw value, or the default if that is a value.
    pub(super) fn optional(&self, setting: &Setting) -> Option<&str> {
        let written = self.0.get(setting.name).map(String::as_str);
        written.or(match setting.default {
            DefaultValue::Value(value) => Some(value),
            DefaultValue::Described(_) | DefaultValue::None => None,
        })
    }

    /// The text of a setting whose default is a value.
    pub(super) fn text(&self, setting: &Setting) -> &str {
        self.optional(setting).expect("its default is a value")
    }

    pub(super) fn parse_optional<T: FromStr>(
        &self,
        setting: &Setting,
    ) -> Result<Option<T>, ConfigError> {
        let text = self.optional(setting);
        text.map(|text| text.parse().map_err(|_| self.unexpected(setting)))
            .transpose()
    }

    /// The value of a setting whose default is a value.
    pub(super) fn parse<T: FromStr>(&self, setting: &Setting) -> Result<T, ConfigError> {
        let text = self.text(setting);
        text.parse().map_err(|_| self.unexpected(setting))
    }

    /// A number from 1 to `max`.
    pub(super) fn number(&self, setting: &Setting, max: usize) -> Result<usize, ConfigError> {
        let number = self.parse(setting)?;
        if (1..=max).contains(&number) {
            Ok(number)
        } else {
            Err(self.unexpected(setting))
        }
    }

    /// A duration with its unit, or in milliseconds.
    pub(super) fn duration(&self, setting: &Setting) -> Result<Duration, ConfigError> {
        self.duration_up_to(TIMEOUT_MAX, setting)
    }

    pub(super) fn duration_up_to(
        &self,
        max: Duration,
        setting: &Setting,
    ) -> Result<Duration, ConfigError> {
        let text = self.text(setting);
        let millis = text.parse().map(Duration::from_millis).ok();
        match millis.or_else(|| humantime::parse_duration(text).ok()) {
            Some(duration) if !duration.is_zero() && duration <= max => Ok(duration),
            _ => Err(self.unexpected(setting)),
        }
    }

    /// The error for a value that does not match the setting's description.
    pub(super) fn unexpected(&self, setting: &Setting) -> ConfigError {
        self.error(setting, setting.expected)
    }

    pub(super) fn error(&self, setting: &Setting, expected: &str) -> ConfigError {
        ConfigError::new(
            setting,
            self.optional(setting).unwrap_or_default(),
            expected,
        )
    }
}

/// Looks up a variable: in the process environment, except in tests.
pub(super) type Environment = fn(&str) -> Option<OsString>;

/// Adds values from variables and from the configuration file to the flags. `config` names that
/// file, and is not a setting itself.
pub(super) fn complete(
    flags: Values,
    environment: Environment,
    settings: &[&'static Setting],
    config: &'static Setting,
) -> Result<Settings, ConfigError> {
    let with_config: Vec<_> = settings.iter().copied().chain([config]).collect();
    let mut values = add_environment(flags, environment, &with_config)?;
    if let Some(file) = values.remove(config.name) {
        let text = setting_file::text_of(Path::new(&file)).map_err(|error| ConfigError::File {
            file: file.clone(),
            problem: error.to_string(),
        })?;
        fill_from_file(&mut values, &text, settings)
            .map_err(|problem| ConfigError::File { file, problem })?;
    }
    Ok(Settings(values))
}

/// Adds values from variables to the flags. An empty flag does not override a variable.
pub(super) fn add_environment(
    flags: Values,
    environment: Environment,
    settings: &[&'static Setting],
) -> Result<Values, ConfigError> {
    let mut values: Values = flags
        .into_iter()
        .filter_map(|(name, text)| Some((name, meant(name, &text)?)))
        .collect();
    for setting in settings {
        if values.contains_key(setting.name) {
            continue;
        }
        let variables = setting.variables.iter();
        for value in variables.filter_map(|variable| environment(variable)) {
            let text = value
                .to_str()
                .ok_or_else(|| not_text(setting, &value.to_string_lossy()))?;
            if let Some(text) = meant(setting.name, text) {
                values.entry(setting.name).or_insert(text);
            }
        }
    }
    Ok(values)
}

fn not_text(setting: &Setting, value: &str) -> ConfigError {
    let expected = "text in UTF-8";
    if setting.name != CONFIG_NAME {
        return ConfigError::new(setting, value, expected);
    }
    let problem = format!(
        "expected {expected} (set by {})",
        setting.variables.join(", ")
    );
    let file = value.to_owned();
    ConfigError::File { file, problem }
}

/// Normalizes a raw value: spaces and line ends around it come from shells, env files and templates
/// and are removed, and an empty setting counts as not set, except that empty seeds are a valid
/// setting.
fn meant(name: &str, text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() || name == "seeds").then(|| text.to_owned())
}

/// Adds the settings that neither a flag nor a variable has set.
pub(super) fn fill_from_file(
    values: &mut Values,
    text: &str,
    settings: &[&'static Setting],
) -> Result<(), String> {
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| one_line(&error, text))?;
    for (key, value) in table {
        let Some(setting) = settings.iter().find(|setting| setting.name == key) else {
            let known: Vec<&str> = settings.iter().map(|setting| setting.name).collect();
            let known = known.join(", ");
            return Err(format!("unknown key {key:?}; the keys are {known}"));
        };
        let value = written(&value).ok_or_else(|| {
            format!(
                "{key} is a {}; expected a text, a number, true or false, or a list of texts",
                value.type_str()
            )
        })?;
        if let Some(text) = meant(&key, &value) {
            values.entry(setting.name).or_insert(text);
        }
    }
    Ok(())
}

/// A value of the file in the notation of a flag.
fn written(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(is_so) => Some(is_so.to_string()),
        toml::Value::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            texts.map(|texts| texts.join(","))
        }
        _ => None,
    }
}

fn one_line(error: &toml::de::Error, text: &str) -> String {
    let line = error
        .span()
        .map_or(1, |span| text[..span.start].matches('\n').count() + 1);
    format!("line {line}: {}", error.message())
}
