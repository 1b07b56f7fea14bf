//! The description of a setting, from which its flag, its line of `--help`, its variables, its key
//! in the configuration file, its error texts and its row of the README's table are generated. Each
//! section of the configuration describes its own.

/// One setting.
pub struct Setting {
    /// The key in the configuration file. The flag is the same with dashes.
    pub name: &'static str,
    /// Environment variables: the first one that is set counts.
    pub variables: &'static [&'static str],
    /// The placeholder for the value in `--help`.
    pub value: &'static str,
    /// The description in `--help`.
    pub help: &'static str,
    pub default: DefaultValue,
    /// What a value must be, for errors.
    pub expected: &'static str,
    /// Whether the flag alone means `true`.
    pub is_switch: bool,
}

/// The default of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultValue {
    /// This value, as if it had been set.
    Value(&'static str),
    /// Determined by the node, as these words describe.
    Described(&'static str),
    /// The setting is then not set.
    None,
}

impl Setting {
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The text of `--help` for this setting.
    pub fn help_text(&self) -> String {
        let mut text = self.help.to_owned();
        match self.default {
            DefaultValue::None => {}
            DefaultValue::Value(default) | DefaultValue::Described(default) => {
                text += &format!(" [default: {default}]");
            }
        }
        text + &format!(" [env: {}]", self.variables.join(", "))
    }
}

fn sources(name: &str, variables: &str) -> String {
    let flag = name.replace('_', "-");
    if variables.is_empty() {
        return format!("--{flag}");
    }
    format!("--{flag}, {variables} or {name} in the config file")
}

/// An invalid setting. The text is one line: the setting, its value, what is expected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "invalid {name} {value:?}: expected {expected} (set by {})",
        sources(name, variables)
    )]
    Setting {
        name: &'static str,
        variables: String,
        value: String,
        expected: String,
    },
    /// A variable that is no setting of this program alone.
    #[error("invalid {name} {value:?}: expected {expected}")]
    Variable {
        name: String,
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
