//! Settings for the state of entities.

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcetera::BaseStrategy;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::mesh::Mesh;
use super::setting::{ConfigError, DefaultValue, Setting};
use super::written::Settings;
use crate::entities::StateLocation;

/// Upper bound for the setting `state_cache`.
const CACHE_BYTES_MAX: usize = 1 << 40;

/// What may be in a file name; other characters of a cluster id are percent-encoded.
const NOT_IN_FILE_NAMES: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

const STATE: Setting = Setting {
    name: "state",
    variables: &["MESHAGE_STATE"],
    value: "LOCATION",
    help: "Where entities keep their state: `sqlite:FILE` (nodes of one host share it), `postgres://USER:PASSWORD@HOST/DATABASE`, or `none`",
    default: DefaultValue::Described(
        "SQLite in the platform's state directory, a file for each cluster id",
    ),
    expected: "sqlite:FILE, postgres://USER:PASSWORD@HOST/DATABASE or none",
    is_switch: false,
};

const STATE_CACHE: Setting = Setting {
    name: "state_cache",
    variables: &["MESHAGE_STATE_CACHE"],
    value: "BYTES",
    help: "Memory for the state of entities, in bytes",
    default: DefaultValue::Value("134217728"),
    expected: "1 to 1099511627776 bytes",
    is_switch: false,
};

const IDEMPOTENCY_TTL: Setting = Setting {
    name: "idempotency_ttl",
    variables: &["MESHAGE_IDEMPOTENCY_TTL"],
    value: "DURATION",
    help: "How long the reply to a request with an `Idempotency-Key` is kept for its repetitions, on stateful streams",
    default: DefaultValue::Value("24h"),
    expected: "a duration such as 30s, 24h or 5000 (milliseconds), up to 30d",
    is_switch: false,
};

/// Upper bound for the setting `idempotency_ttl`.
const IDEMPOTENCY_TTL_MAX: Duration = Duration::from_secs(30 * 86_400);

pub(super) const SETTINGS: &[&Setting] = &[&STATE, &STATE_CACHE, &IDEMPOTENCY_TTL];

/// Arguments of the commands for state.
const FROM: Setting = Setting {
    name: "from",
    variables: &[],
    ..STATE
};
const TO: Setting = Setting {
    name: "to",
    variables: &[],
    ..STATE
};

#[derive(Debug, Clone)]
pub struct State {
    pub location: StateLocation,
    pub cache_bytes_max: usize,
    pub idempotency_ttl: Duration,
}

/// What the commands for state need of the configuration.
#[derive(Debug, Clone)]
pub struct StateTerms {
    pub cluster_id: String,
    pub from: StateLocation,
    pub to: Option<StateLocation>,
}

impl StateTerms {
    /// Where the command says that state is, else where the node's settings say.
    pub(super) fn read(
        settings: &Settings,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<Self, ConfigError> {
        let mesh = Mesh::read(settings)?;
        Ok(Self {
            from: match from {
                Some(from) => location(&FROM, from)?,
                None => State::read(settings, &mesh)?.location,
            },
            to: to.map(|to| location(&TO, to)).transpose()?,
            cluster_id: mesh.cluster_id,
        })
    }
}

impl State {
    pub(super) fn read(settings: &Settings, mesh: &Mesh) -> Result<Self, ConfigError> {
        let location = match settings.optional(&STATE) {
            Some(text) => location(&STATE, text)?,
            None => default_location(&mesh.cluster_id),
        };
        Ok(Self {
            location,
            cache_bytes_max: settings.number(&STATE_CACHE, CACHE_BYTES_MAX)?,
            idempotency_ttl: settings.duration_up_to(IDEMPOTENCY_TTL_MAX, &IDEMPOTENCY_TTL)?,
        })
    }
}

fn location(setting: &Setting, text: &str) -> Result<StateLocation, ConfigError> {
    if text == "none" {
        return Ok(StateLocation::Nowhere("--state is none"));
    }
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        let url = text.parse().map_err(|problem| {
            // The value may have a password in it.
            let expected = format!("postgres://USER:PASSWORD@HOST/DATABASE, but {problem}");
            ConfigError::new(setting, "postgres://…", &expected)
        });
        return url.map(Box::new).map(StateLocation::Postgres);
    }
    let path = text.strip_prefix("sqlite:").filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| {
        // It may be a URL with a password, misspelt.
        let shown = match text.split_once("://") {
            Some((scheme, _)) => scheme,
            None if text.contains('@') || text.contains("password") => "…",
            None => text,
        };
        ConfigError::new(setting, shown, setting.expected)
    })?;
    std::path::absolute(path)
        .map(StateLocation::Sqlite)
        .map_err(|error| ConfigError::new(setting, text, &format!("sqlite:FILE, but {error}")))
}

fn default_location(cluster_id: &str) -> StateLocation {
    let Ok(base) = etcetera::choose_base_strategy() else {
        return StateLocation::Nowhere("there is no home directory for it; set --state");
    };
    let directory: PathBuf = base.state_dir().unwrap_or_else(|| base.data_dir());
    let name = utf8_percent_encode(cluster_id, NOT_IN_FILE_NAMES).to_string();
    StateLocation::Sqlite(directory.join("meshage").join(Path::new(&(name + ".db"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_those_that_errors_name() {
        let max = format!("to {CACHE_BYTES_MAX} ");
        assert!(STATE_CACHE.expected.contains(&max));
    }

    #[test]
    fn every_cluster_has_a_file_of_its_own() {
        let of = |cluster| match default_location(cluster) {
            StateLocation::Sqlite(path) => path,
            other => panic!("{other:?}"),
        };
        assert!(of("meshage").ends_with("meshage/meshage.db"));
        assert!(of("../a/b").ends_with("meshage/..%2Fa%2Fb.db"));
    }

    #[test]
    fn what_may_be_a_password_is_not_shown() {
        for text in [
            "postgres:/u:hunter2@h/d",
            "u:hunter2@h/d",
            "host=h password=hunter2",
            "mysql://u:hunter2@h/d",
        ] {
            let error = location(&STATE, text).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let error = location(&STATE, "carts.db").unwrap_err().to_string();
        assert!(error.contains("carts.db"), "{error}");
    }
}
