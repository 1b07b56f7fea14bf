//! What was written of settings (flags, environment, file), by name, and the way to say that it is
//! wrong.

use std::env;
use std::path::Path;
use std::str::FromStr;

use crate::cli::Cli;
use crate::setting_file;

/// A setting that cannot be. One line: the setting, its value, what would be right.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("invalid {name} {value:?}: expected {expected} (set by --{flag}, {variable} or {name} in the config file)",
        flag = name.replace('_', "-"))]
    Setting {
        name: &'static str,
        variable: &'static str,
        value: String,
        expected: String,
    },
    #[error("invalid config {file:?}: {problem}")]
    File { file: String, problem: String },
}

/// The settings: name in the file, variable, and the place in [`Cli`]. The flag is the name with
/// dashes.
type Setting = (
    &'static str,
    &'static str,
    fn(&mut Cli) -> &mut Option<String>,
);

const SETTINGS: [Setting; 28] = [
    ("http_port", "HTTP_PORT, SERVICE_PORT", |cli| {
        &mut cli.http_port
    }),
    ("cluster_port", "CLUSTER_PORT", |cli| &mut cli.cluster_port),
    ("admin_port", "ADMIN_PORT", |cli| &mut cli.admin_port),
    ("admin_bind", "MESHAGE_ADMIN_BIND", |cli| {
        &mut cli.admin_bind
    }),
    ("seeds", "SEEDS", |cli| &mut cli.seeds),
    ("bind", "MESHAGE_BIND", |cli| &mut cli.bind),
    ("advertise", "MESHAGE_ADVERTISE", |cli| &mut cli.advertise),
    ("node_id", "MESHAGE_NODE_ID", |cli| &mut cli.node_id),
    ("cluster_id", "MESHAGE_CLUSTER_ID", |cli| {
        &mut cli.cluster_id
    }),
    ("plugins", "MESHAGE_PLUGINS", |cli| &mut cli.plugins),
    ("data_dir", "MESHAGE_DATA_DIR", |cli| &mut cli.data_dir),
    ("secret_file", "MESHAGE_SECRET_FILE", |cli| {
        &mut cli.secret_file
    }),
    ("peer_cert", "MESHAGE_PEER_CERT", |cli| &mut cli.peer_cert),
    ("peer_key", "MESHAGE_PEER_KEY", |cli| &mut cli.peer_key),
    ("peer_ca", "MESHAGE_PEER_CA", |cli| &mut cli.peer_ca),
    ("insecure", "MESHAGE_INSECURE", |cli| &mut cli.insecure),
    ("tls_cert", "MESHAGE_TLS_CERT", |cli| &mut cli.tls_cert),
    ("tls_key", "MESHAGE_TLS_KEY", |cli| &mut cli.tls_key),
    ("token_file", "MESHAGE_TOKEN_FILE", |cli| {
        &mut cli.token_file
    }),
    ("trusted_keys", "MESHAGE_TRUSTED_KEYS", |cli| {
        &mut cli.trusted_keys
    }),
    ("outbound_ca", "MESHAGE_OUTBOUND_CA", |cli| {
        &mut cli.outbound_ca
    }),
    ("allowed_origins", "MESHAGE_ALLOWED_ORIGINS", |cli| {
        &mut cli.allowed_origins
    }),
    ("max_body", "MESHAGE_MAX_BODY", |cli| &mut cli.max_body),
    ("max_connections", "MESHAGE_MAX_CONNECTIONS", |cli| {
        &mut cli.max_connections
    }),
    ("request_timeout", "MESHAGE_REQUEST_TIMEOUT", |cli| {
        &mut cli.request_timeout
    }),
    ("timeout", "MESHAGE_TIMEOUT", |cli| &mut cli.timeout),
    ("log_format", "MESHAGE_LOG_FORMAT", |cli| {
        &mut cli.log_format
    }),
    ("log", "MESHAGE_LOG", |cli| &mut cli.log),
];

/// Takes what was written as it is meant, and adds what the configuration file has. Whoever takes a
/// setting after this gets the same text, so that what is checked is what is used.
pub(super) fn complete(mut cli: Cli) -> Result<Cli, ConfigError> {
    for (name, variables, place) in SETTINGS {
        let place = place(&mut cli);
        // A flag that is empty hides no variable.
        let of_environment = || {
            variables
                .split(", ")
                .find_map(|variable| meant(name, &env::var(variable).ok()?))
        };
        *place = place
            .take()
            .and_then(|text| meant(name, &text).or_else(of_environment));
    }
    if cli.http_port.is_none() {
        cli.http_port = cli
            .service_port
            .take()
            .and_then(|text| meant("http_port", &text));
    }
    if let Some(file) = cli.config.take().and_then(|text| meant("config", &text)) {
        let text = setting_file::text_of(Path::new(&file)).map_err(|error| ConfigError::File {
            file: file.clone(),
            problem: error.to_string(),
        })?;
        fill_from_file(&mut cli, &text).map_err(|problem| ConfigError::File { file, problem })?;
    }
    Ok(cli)
}

/// The first variable, if there is one, that is not text.
pub fn not_text() -> Option<ConfigError> {
    let value_of = |variable| env::var_os(variable).filter(|value| value.to_str().is_none());
    let settings = SETTINGS
        .iter()
        .flat_map(|(name, variables, _)| variables.split(", ").map(move |one| (*name, one)));
    let wrong = settings
        .into_iter()
        .find_map(|(name, variable)| Some((name, value_of(variable)?)));
    if let Some((name, value)) = wrong {
        return Some(error(name, &value.to_string_lossy(), "text in UTF-8"));
    }
    let file = value_of("MESHAGE_CONFIG")?.to_string_lossy().into_owned();
    Some(ConfigError::File {
        file,
        problem: "expected text in UTF-8 (set by MESHAGE_CONFIG)".into(),
    })
}

/// What somebody means who writes this: spaces and line ends around a value come from shells, files
/// of variables and templates, and an empty setting is one that is not set; but no seeds are a
/// setting, too.
fn meant(name: &str, text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() || name == "seeds").then(|| text.to_owned())
}

/// What was written, and the way to say that it is wrong.
pub(super) struct Settings<'a>(pub(super) &'a mut Cli);

impl Settings<'_> {
    pub(super) fn take(&mut self, name: &'static str) -> Option<String> {
        let (_, _, place) = setting(name);
        place(self.0).take()
    }

    pub(super) fn parse<T: FromStr>(
        &mut self,
        name: &'static str,
        expected: &str,
    ) -> Result<Option<T>, ConfigError> {
        self.take(name)
            .map(|text| text.parse().map_err(|_| self.error(name, &text, expected)))
            .transpose()
    }

    pub(super) fn error(&self, name: &'static str, value: &str, expected: &str) -> ConfigError {
        error(name, value, expected)
    }
}

pub(super) fn error(name: &'static str, value: &str, expected: &str) -> ConfigError {
    let (name, variable, _) = setting(name);
    ConfigError::Setting {
        name,
        variable,
        value: value.to_owned(),
        expected: expected.to_owned(),
    }
}

fn setting(name: &str) -> Setting {
    *SETTINGS
        .iter()
        .find(|(known, ..)| *known == name)
        .expect("every setting that is asked for is in the table")
}

/// Fills what neither flag nor variable has set.
pub(super) fn fill_from_file(cli: &mut Cli, text: &str) -> Result<(), String> {
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| one_line(&error, text))?;
    for (key, value) in table {
        let Some((_, _, place)) = SETTINGS.iter().find(|(name, ..)| *name == key) else {
            let known: Vec<&str> = SETTINGS.iter().map(|(name, ..)| *name).collect();
            return Err(format!(
                "unknown key {key:?}; the keys are {}",
                known.join(", ")
            ));
        };
        let value = written(&value).ok_or_else(|| {
            format!(
                "{key} is a {}; expected a text, a number, true or false, or a list of texts",
                value.type_str()
            )
        })?;
        let place = place(cli);
        if place.is_none() {
            *place = meant(&key, &value);
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
        let mut cli = Cli {
            http_port: Some("1".into()),
            ..Cli::default()
        };
        let file = "http_port = 2\ncluster_port = 3\nseeds = [\"a:1\", \"b:2\"]\n";
        fill_from_file(&mut cli, file).unwrap();
        assert_eq!(cli.http_port.as_deref(), Some("1"));
        assert_eq!(cli.cluster_port.as_deref(), Some("3"));
        assert_eq!(cli.seeds.as_deref(), Some("a:1,b:2"));
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
        let cli = complete(Cli {
            http_port: Some(" ".into()),
            service_port: Some(" 81\r\n".into()),
            node_id: Some("\tn1 ".into()),
            seeds: Some(" ".into()),
            log: Some("info ".into()),
            config: Some(format!(" {} ", file.display())),
            ..Cli::default()
        });
        let cli = cli.unwrap();
        let taken = [
            &cli.http_port,
            &cli.node_id,
            &cli.cluster_id,
            &cli.log,
            &cli.timeout,
        ];
        assert_eq!(
            taken.map(Option::as_deref),
            [
                Some("81"),
                Some("n1"),
                Some("prod"),
                Some("info"),
                Some("2s")
            ]
        );
        // What is empty is not set, but for seeds, of which there can be none.
        assert_eq!((cli.plugins, cli.seeds.as_deref()), (None, Some("")));
    }

    #[test]
    fn a_file_that_is_wrong_says_where() {
        let mut cli = Cli::default();
        let error = fill_from_file(&mut cli, "http-port = 1").unwrap_err();
        assert!(
            error.contains("http-port") && error.contains("http_port"),
            "{error}"
        );
        assert!(
            fill_from_file(&mut cli, "seeds = 1.5")
                .unwrap_err()
                .contains("seeds")
        );
        assert!(
            fill_from_file(&mut cli, "\n\nhttp_port 1")
                .unwrap_err()
                .contains("line 3")
        );
        assert!(
            fill_from_file(&mut cli, "log = 1\nlog = 2")
                .unwrap_err()
                .contains("line 2")
        );
    }
}
