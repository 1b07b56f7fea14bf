//! The description of a setting, from which come its flag, its line of `--help`, its variables, its
//! key in the configuration file, what errors say, and its row of the README's table. Each section
//! of the configuration describes its own.

/// One setting.
pub struct Setting {
    /// The key in the configuration file. The flag is the same with dashes.
    pub name: &'static str,
    /// Environment variables: the first one that is set counts.
    pub variables: &'static [&'static str],
    /// What stands for the value in `--help`.
    pub value: &'static str,
    /// What it is.
    pub help: &'static str,
    pub default: Default,
    /// What a value must be, for errors.
    pub expected: &'static str,
    /// Whether the flag alone means `true`.
    pub is_switch: bool,
}

/// What holds where nothing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// This, as if it had been written.
    Value(&'static str),
    /// What these words say.
    Described(&'static str),
}

impl Setting {
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// What `--help` says.
    pub fn help_text(&self) -> String {
        let mut text = self.help.to_owned();
        match self.default {
            Default::Described("none") => {}
            Default::Value(default) | Default::Described(default) => {
                text += &format!(" [default: {default}]");
            }
        }
        text + &format!(" [env: {}]", self.variables.join(", "))
    }
}

/// A setting that cannot be. One line: the setting, its value, what would be right.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("invalid {name} {value:?}: expected {expected} (set by --{flag}, {variables} or {name} in the config file)",
        flag = name.replace('_', "-"))]
    Setting {
        name: &'static str,
        variables: String,
        value: String,
        expected: String,
    },
    #[error("invalid config {file:?}: {problem}")]
    File { file: String, problem: String },
}

impl ConfigError {
    pub(super) fn new(setting: &Setting, value: &str, expected: &str) -> Self {
        Self::Setting {
            name: setting.name,
            variables: setting.variables.join(", "),
            value: value.to_owned(),
            expected: expected.to_owned(),
        }
    }
}
