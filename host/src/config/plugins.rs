//! Settings for plugins: where they are, and what they may do.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use etcetera::BaseStrategy;
use rustls::pki_types::TrustAnchor;

use super::clients;
use super::files;
use super::setting::{ConfigError, DefaultValue, Setting};
use super::written::Settings;
use crate::security::{TrustedKeys, read_authorities};

/// How long to wait for the file system to check the plugins directory. Network file systems take
/// some milliseconds.
const DIRECTORY_ANSWER_MAX: Duration = Duration::from_secs(2);

const PLUGINS: Setting = Setting {
    name: "plugins",
    variables: &["MESHAGE_PLUGINS"],
    value: "DIR",
    help: "Directory of the plugins",
    default: DefaultValue::Value("./plugins"),
    expected: "a directory of .wasm files; there is none, so create it or name another",
    is_switch: false,
};

const DATA_DIR: Setting = Setting {
    name: "data_dir",
    variables: &["MESHAGE_DATA_DIR"],
    value: "DIR",
    help: "Directory for the compile cache, and for what the mesh shares; nodes on one host may use the same. Where it cannot be written, each start compiles every plugin",
    default: DefaultValue::Described("the platform's cache directory"),
    expected: "a directory",
    is_switch: false,
};

const TRUSTED_KEYS: Setting = Setting {
    name: "trusted_keys",
    variables: &["MESHAGE_TRUSTED_KEYS"],
    value: "FILE",
    help: "File with public keys of minisign, one a line: only plugins that one of them has signed are loaded",
    default: DefaultValue::None,
    expected: "a file of keys",
    is_switch: false,
};

const OUTBOUND_CA: Setting = Setting {
    name: "outbound_ca",
    variables: &["MESHAGE_OUTBOUND_CA"],
    value: "PEM FILE",
    help: "Authorities that handlers trust in their HTTPS requests, besides those that browsers trust",
    default: DefaultValue::None,
    expected: "a file of certificates in PEM form",
    is_switch: false,
};

pub(super) const SHARE_PLUGINS: Setting = Setting {
    name: "share_plugins",
    variables: &["MESHAGE_SHARE_PLUGINS"],
    value: "true|false",
    help: "Run what is put into the plugins directory of one node on all of them (docs/plugins.md); beyond loopback it needs --trusted-keys",
    default: DefaultValue::Value("false"),
    expected: "true or false",
    is_switch: true,
};

const SHARE_UNSIGNED: Setting = Setting {
    name: "share_unsigned",
    variables: &["MESHAGE_SHARE_UNSIGNED"],
    value: "true|false",
    help: "Share plugins that nobody has signed: whoever can put a file into the directory of one node runs it on all",
    default: DefaultValue::Value("false"),
    expected: "true or false",
    is_switch: true,
};

pub(super) const SETTINGS: &[&Setting] = &[
    &PLUGINS,
    &SHARE_PLUGINS,
    &SHARE_UNSIGNED,
    &DATA_DIR,
    &TRUSTED_KEYS,
    &OUTBOUND_CA,
];

#[derive(Debug, Clone)]
pub struct Plugins {
    pub directory: PathBuf,
    /// `None`: there is no home directory for the default, so there is no compile cache.
    pub data_dir: Option<PathBuf>,
    /// Certificate authorities that handlers trust in HTTPS requests, in addition to the public
    /// ones.
    pub outbound_authorities: Vec<TrustAnchor<'static>>,
    pub terms: PluginTerms,
    pub sharing: Sharing,
}

/// Whether the mesh shares its plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Each node has what is in its own directory.
    Off,
    /// What is in the directory of one node runs on all; `unsigned`: whoever has made it.
    On { unsigned: bool },
}

/// Requirements that the settings place on plugins.
#[derive(Debug, Clone)]
pub struct PluginTerms {
    /// The node's timeout, the maximum for a plugin's own.
    pub timeout_max: Duration,
    /// `None`: signatures are not required.
    pub trusted_keys: Option<TrustedKeys>,
}

impl Plugins {
    pub(super) fn read(settings: &Settings) -> Result<Self, ConfigError> {
        let directory = PathBuf::from(settings.text(&PLUGINS));
        if !may_be_directory(&directory) {
            return Err(settings.unexpected(&PLUGINS));
        }
        let authorities = files::read(settings, &OUTBOUND_CA, read_authorities)?;
        Ok(Self {
            directory,
            data_dir: data_dir(settings)?,
            sharing: Sharing::read(settings)?,
            outbound_authorities: authorities.map(|read| read.first).unwrap_or_default(),
            terms: PluginTerms::read(settings)?,
        })
    }
}

impl Sharing {
    fn read(settings: &Settings) -> Result<Self, ConfigError> {
        let unsigned = settings.parse(&SHARE_UNSIGNED)?;
        let is_on: bool = settings.parse(&SHARE_PLUGINS)?;
        Ok(if is_on {
            Self::On { unsigned }
        } else {
            Self::Off
        })
    }
}

impl PluginTerms {
    pub(super) fn read(settings: &Settings) -> Result<Self, ConfigError> {
        let timeout_max = settings.duration(&clients::TIMEOUT)?;
        let trusted_keys = files::read(settings, &TRUSTED_KEYS, TrustedKeys::read)?;
        Ok(Self {
            timeout_max,
            trusted_keys: trusted_keys.map(|read| read.first),
        })
    }
}

/// Whether the path may be a directory. It may be if the file system does not answer in time: the
/// node then logs that, and waits for it.
fn may_be_directory(path: &Path) -> bool {
    let (answer, answered) = mpsc::channel();
    let path = path.to_owned();
    // If the answer comes too late, the receiver is gone.
    let asking = thread::Builder::new().spawn(move || answer.send(path.is_dir()));
    asking.is_err() || answered.recv_timeout(DIRECTORY_ANSWER_MAX).unwrap_or(true)
}

fn data_dir(settings: &Settings) -> Result<Option<PathBuf>, ConfigError> {
    match settings.optional(&DATA_DIR) {
        Some(text) => std::path::absolute(text)
            .map(Some)
            .map_err(|error| settings.error(&DATA_DIR, &format!("a directory, but {error}"))),
        None => Ok(etcetera::choose_base_strategy()
            .map(|base| base.cache_dir().join("meshage"))
            .ok()),
    }
}
