//! The description of a setting, from which come its flag, its line of `--help`, its variables, its
//! key in the configuration file, what errors say, and its row of the README's table. Each section
//! of the configuration describes its own.

use super::{access, clients, log, mesh, network, plugins};

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

/// There is one file with all settings; it is named by this, which is no setting itself.
pub const CONFIG: Setting = Setting {
    name: "config",
    variables: &["MESHAGE_CONFIG"],
    value: "FILE",
    help: "A TOML file with any of these settings",
    default: Default::Described("none"),
    expected: "a file in TOML",
    is_switch: false,
};

/// Every setting, in the order in which people read them.
pub fn settings() -> impl Iterator<Item = &'static Setting> {
    let sections: [&'static [Setting]; 6] = [
        network::SETTINGS,
        mesh::SETTINGS,
        plugins::SETTINGS,
        access::SETTINGS,
        clients::SETTINGS,
        log::SETTINGS,
    ];
    sections.into_iter().flatten()
}

impl Setting {
    pub(super) fn of(name: &str) -> &'static Self {
        settings()
            .find(|setting| setting.name == name)
            .expect("every setting that is asked for is in a section")
    }

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
    pub(super) fn new(name: &str, value: &str, expected: &str) -> Self {
        let setting = Setting::of(name);
        Self::Setting {
            name: setting.name,
            variables: setting.variables.join(", "),
            value: value.to_owned(),
            expected: expected.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(setting: &Setting) -> String {
        let variables: Vec<String> = setting
            .variables
            .iter()
            .map(|variable| format!("`{variable}`"))
            .collect();
        let (Default::Value(default) | Default::Described(default)) = setting.default;
        format!(
            "| `--{}` | {} | {} | {default} |",
            setting.flag(),
            variables.join(", "),
            setting.help
        )
    }

    #[test]
    fn the_readme_has_every_setting_as_it_is_described() {
        let rows: Vec<String> = settings().chain([&CONFIG]).map(row).collect();
        let expected = rows.join("\n");
        let readme = include_str!("../../../README.md");
        assert!(
            readme.contains(&expected),
            "the table of settings in README.md is to be:\n\n{expected}\n"
        );
    }

    #[test]
    fn names_and_variables_are_there_once() {
        let mut names: Vec<&str> = settings()
            .flat_map(|setting| setting.variables.iter().copied().chain([setting.name]))
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
