//! What was written of settings: flags, then environment variables, then the configuration file.
//! The only place that reads the environment.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use super::log;
use super::setting::{CONFIG, ConfigError, Default, Setting, settings};
use crate::setting_file;
use crate::telemetry::LogFormat;

/// No client waits for longer than an hour.
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// What was written, by name.
pub type Values = BTreeMap<&'static str, String>;

/// What was written: flags, environment, and the configuration file, which may be a pipe and so can
/// be read only once.
pub struct Written {
    pub(super) settings: Result<Settings, ConfigError>,
    /// How the log is written, as far as that can be known: who starts with a wrong setting is told
    /// so in the log's format.
    pub log_format: LogFormat,
}

impl Written {
    /// Takes the flags, and reads the environment, and the configuration file if one is named.
    pub fn new(flags: Values) -> Self {
        Self::with(flags, |variable| env::var_os(variable))
    }

    pub(super) fn with(flags: Values, environment: fn(&str) -> Option<OsString>) -> Self {
        // The file may be what is wrong.
        let mut without_file = flags.clone();
        let settings = complete(flags, environment);
        let known = match &settings {
            Ok(settings) => log::format(settings),
            Err(_) => {
                without_file.remove(CONFIG.name);
                let without_file = add_environment(without_file, environment).map(Settings);
                without_file.and_then(|settings| log::format(&settings))
            }
        };
        Self {
            settings,
            log_format: known.unwrap_or(LogFormat::Text),
        }
    }
}

/// All that was written, and the way to say that it is wrong. Values have no spaces around them, so
/// that what is checked is what is used.
#[derive(Debug)]
pub(super) struct Settings(pub(super) Values);

impl Settings {
    /// What was written, or the default if that is a value.
    pub(super) fn optional(&self, name: &str) -> Option<&str> {
        let written = self.0.get(name).map(String::as_str);
        written.or(match Setting::of(name).default {
            Default::Value(value) => Some(value),
            Default::Described(_) => None,
        })
    }

    /// The text of a setting whose default is a value.
    pub(super) fn text(&self, name: &str) -> &str {
        self.optional(name).expect("its default is a value")
    }

    pub(super) fn parse_optional<T: FromStr>(&self, name: &str) -> Result<Option<T>, ConfigError> {
        let text = self.optional(name);
        text.map(|text| text.parse().map_err(|_| self.unexpected(name)))
            .transpose()
    }

    /// The value of a setting whose default is a value.
    pub(super) fn parse<T: FromStr>(&self, name: &str) -> Result<T, ConfigError> {
        let text = self.text(name);
        text.parse().map_err(|_| self.unexpected(name))
    }

    /// A number from 1 to this.
    pub(super) fn number(&self, name: &str, max: usize) -> Result<usize, ConfigError> {
        let number = self.parse(name)?;
        if (1..=max).contains(&number) {
            Ok(number)
        } else {
            Err(self.unexpected(name))
        }
    }

    /// A duration with its unit, or in milliseconds.
    pub(super) fn duration(&self, name: &str) -> Result<Duration, ConfigError> {
        let text = self.text(name);
        let millis = text.parse().map(Duration::from_millis).ok();
        match millis.or_else(|| humantime::parse_duration(text).ok()) {
            Some(duration) if !duration.is_zero() && duration <= TIMEOUT_MAX => Ok(duration),
            _ => Err(self.unexpected(name)),
        }
    }

    /// The error for a value that is not what the setting's description says.
    pub(super) fn unexpected(&self, name: &str) -> ConfigError {
        self.error(name, Setting::of(name).expected)
    }

    pub(super) fn error(&self, name: &str, expected: &str) -> ConfigError {
        ConfigError::new(name, self.optional(name).unwrap_or_default(), expected)
    }
}

/// Adds to the flags what variables and the configuration file have.
fn complete(
    flags: Values,
    environment: fn(&str) -> Option<OsString>,
) -> Result<Settings, ConfigError> {
    let mut values = add_environment(flags, environment)?;
    if let Some(file) = values.remove(CONFIG.name) {
        let text = setting_file::text_of(Path::new(&file)).map_err(|error| ConfigError::File {
            file: file.clone(),
            problem: error.to_string(),
        })?;
        fill_from_file(&mut values, &text)
            .map_err(|problem| ConfigError::File { file, problem })?;
    }
    Ok(Settings(values))
}

/// A flag that is empty hides no variable.
fn add_environment(
    flags: Values,
    environment: fn(&str) -> Option<OsString>,
) -> Result<Values, ConfigError> {
    let mut values: Values = flags
        .into_iter()
        .filter_map(|(name, text)| Some((name, meant(name, &text)?)))
        .collect();
    for setting in settings().chain([&CONFIG]) {
        let variables = setting.variables.iter();
        for value in variables.filter_map(|variable| environment(variable)) {
            let text = value.to_str().ok_or_else(|| not_text(setting, &value))?;
            if let Some(text) = meant(setting.name, text) {
                values.entry(setting.name).or_insert(text);
            }
        }
    }
    Ok(values)
}

fn not_text(setting: &Setting, value: &OsStr) -> ConfigError {
    let value = value.to_string_lossy().into_owned();
    if setting.name == CONFIG.name {
        ConfigError::File {
            file: value,
            problem: "expected text in UTF-8 (set by MESHAGE_CONFIG)".into(),
        }
    } else {
        ConfigError::new(setting.name, &value, "text in UTF-8")
    }
}

/// What somebody means who writes this: spaces and line ends around a value come from shells, files
/// of variables and templates, and an empty setting is one that is not set; but no seeds are a
/// setting, too.
fn meant(name: &str, text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() || name == "seeds").then(|| text.to_owned())
}

/// Fills what neither flag nor variable has set.
pub(super) fn fill_from_file(values: &mut Values, text: &str) -> Result<(), String> {
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| one_line(&error, text))?;
    for (key, value) in table {
        let Some(setting) = settings().find(|setting| setting.name == key) else {
            let known: Vec<&str> = settings().map(|setting| setting.name).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_fills_what_is_not_set_otherwise() {
        let mut values = Values::from([("http_port", "1".into())]);
        let file = "http_port = 2\ncluster_port = 3\nseeds = [\"a:1\", \"b:2\"]\n";
        fill_from_file(&mut values, file).unwrap();
        let expected = [
            ("cluster_port", "3"),
            ("http_port", "1"),
            ("seeds", "a:1,b:2"),
        ];
        let found: Vec<_> = values
            .iter()
            .map(|(name, text)| (*name, text.as_str()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn spaces_around_a_value_are_no_part_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("meshage.toml");
        std::fs::write(
            &file,
            "cluster_id = \" prod\\n\"\nplugins = \"\"\nlog = \"debug\"\ntimeout = \" 2s \"\n",
        )
        .unwrap();
        let flags = Values::from([
            ("http_port", " 81\r\n".into()),
            ("node_id", "\tn1 ".into()),
            ("seeds", " ".into()),
            ("log", "info ".into()),
            ("config", format!(" {} ", file.display())),
        ]);
        let settings = complete(flags, |_| None).unwrap();
        let taken = ["http_port", "node_id", "cluster_id", "log", "timeout"];
        assert_eq!(
            taken.map(|name| settings.optional(name)),
            [
                Some("81"),
                Some("n1"),
                Some("prod"),
                Some("info"),
                Some("2s")
            ]
        );
        // What is empty is not set, but for seeds, of which there can be none.
        assert_eq!(settings.text("plugins"), "./plugins");
        assert_eq!(settings.0.get("seeds").map(String::as_str), Some(""));
    }

    #[test]
    fn a_file_that_is_wrong_says_where() {
        let mut values = Values::new();
        let error = fill_from_file(&mut values, "http-port = 1").unwrap_err();
        assert!(
            error.contains("http-port") && error.contains("http_port"),
            "{error}"
        );
        for (file, part) in [
            ("seeds = 1.5", "seeds"),
            ("\n\nhttp_port 1", "line 3"),
            ("log = 1\nlog = 2", "line 2"),
        ] {
            let error = fill_from_file(&mut values, file).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
