//! What was written of settings: flags, then environment variables, then the configuration file.
//! The only place that reads the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use super::setting::{ConfigError, Default, Setting};
use crate::setting_file;

/// No client waits for longer than an hour.
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// What was written, by name.
pub type Values = BTreeMap<&'static str, String>;

/// All that was written, and the way to say that it is wrong. Values have no spaces around them, so
/// that what is checked is what is used.
#[derive(Debug)]
pub(super) struct Settings(pub(super) Values);

impl Settings {
    /// What was written, or the default if that is a value.
    pub(super) fn optional(&self, setting: &Setting) -> Option<&str> {
        let written = self.0.get(setting.name).map(String::as_str);
        written.or(match setting.default {
            Default::Value(value) => Some(value),
            Default::Described(_) => None,
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

    /// A number from 1 to this.
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
        let text = self.text(setting);
        let millis = text.parse().map(Duration::from_millis).ok();
        match millis.or_else(|| humantime::parse_duration(text).ok()) {
            Some(duration) if !duration.is_zero() && duration <= TIMEOUT_MAX => Ok(duration),
            _ => Err(self.unexpected(setting)),
        }
    }

    /// The error for a value that is not what the setting's description says.
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

/// Where variables are looked up: in the environment, but in tests.
pub(super) type Environment = fn(&str) -> Option<OsString>;

/// Adds to the flags what variables and the configuration file have. `config` names that file, and
/// is no setting itself.
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

/// Adds to the flags what variables have. A flag that is empty hides no variable.
fn add_environment(
    flags: Values,
    environment: Environment,
    settings: &[&'static Setting],
) -> Result<Values, ConfigError> {
    let mut values: Values = flags
        .into_iter()
        .filter_map(|(name, text)| Some((name, meant(name, &text)?)))
        .collect();
    for setting in settings {
        let variables = setting.variables.iter();
        for value in variables.filter_map(|variable| environment(variable)) {
            let text = value.to_str().ok_or_else(|| {
                ConfigError::new(setting, &value.to_string_lossy(), "text in UTF-8")
            })?;
            if let Some(text) = meant(setting.name, text) {
                values.entry(setting.name).or_insert(text);
            }
        }
    }
    Ok(values)
}

/// What somebody means who writes this: spaces and line ends around a value come from shells, files
/// of variables and templates, and an empty setting is one that is not set; but no seeds are a
/// setting, too.
fn meant(name: &str, text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() || name == "seeds").then(|| text.to_owned())
}

/// Fills what neither flag nor variable has set.
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

/// A value of the file as a flag would have it.
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
