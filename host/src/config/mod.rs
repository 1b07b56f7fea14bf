//! The configuration: turns raw settings (flags, environment, file) into typed ones, with one file
//! per section. Nothing else reads the environment.

mod access;
mod clients;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod log;
mod mesh;
mod network;
mod plugins;
mod setting;
mod state;
mod traces;
mod written;

use std::env;
use std::net::SocketAddr;

use crate::message::NodeId;
use crate::security::HostTrust;
use crate::telemetry::LogFormat;
use written::{Environment, Settings, add_environment, complete};

pub use access::Access;
pub use clients::Clients;
pub use files::FromFiles;
pub use log::Log;
pub use mesh::Mesh;
pub use network::{AdvertisedHost, Network};
pub use plugins::{PluginTerms, Plugins, Sharing};
pub use setting::{ConfigError, DefaultValue, Setting};
pub use state::{State, StateTerms};
pub use traces::Traces;
pub use written::Values;

/// The path of the file that can hold all settings; not a setting itself.
pub const CONFIG: Setting = Setting {
    name: written::CONFIG_NAME,
    variables: &["MESHAGE_CONFIG"],
    value: "FILE",
    help: "A TOML file with any of these settings",
    default: DefaultValue::None,
    expected: "a file in TOML",
    is_switch: false,
};

/// Every setting, in the order of the documentation.
pub fn settings() -> Vec<&'static Setting> {
    let sections: [&[&'static Setting]; 8] = [
        network::SETTINGS,
        mesh::SETTINGS,
        plugins::SETTINGS,
        state::SETTINGS,
        access::SETTINGS,
        clients::SETTINGS,
        log::SETTINGS,
        traces::SETTINGS,
    ];
    sections.concat()
}

/// The raw settings from flags, environment and configuration file. Read only once, as the file may
/// be a pipe.
pub struct Written {
    settings: Result<Settings, ConfigError>,
    /// The log format, as far as it can be determined even if another setting is invalid, so that
    /// the error is logged in that format.
    pub log_format: LogFormat,
}

impl Written {
    /// Combines the flags with the environment, and with the configuration file if one is named.
    pub fn new(flags: Values) -> Self {
        Self::with(flags, |variable| env::var_os(variable))
    }

    fn with(flags: Values, environment: Environment) -> Self {
        // The error may be in the file; then determine the log format without it.
        let mut without_file = flags.clone();
        let settings = complete(flags, environment, &settings(), &CONFIG);
        let known = match &settings {
            Ok(settings) => log::format(settings),
            Err(_) => {
                without_file.remove(CONFIG.name);
                let format: &[_] = &[&log::LOG_FORMAT];
                let without_file = add_environment(without_file, environment, format);
                without_file.and_then(|values| log::format(&Settings(values)))
            }
        };
        Self {
            settings,
            log_format: known.unwrap_or(LogFormat::Text),
        }
    }
}

impl PluginTerms {
    /// Reads only the settings of this section, and ignores the others.
    ///
    /// # Errors
    /// The first invalid one of these settings.
    pub fn new(written: Written) -> Result<Self, ConfigError> {
        Self::read(&written.settings?)
    }
}

/// Where to ask the node of these settings how it is.
#[derive(Debug, Clone, Copy)]
pub struct HealthTerms {
    pub admin: SocketAddr,
}

impl HealthTerms {
    /// Reads only the settings of addresses and ports, and ignores the others.
    ///
    /// # Errors
    /// The first invalid one of these settings.
    pub fn new(written: Written) -> Result<Self, ConfigError> {
        let settings = written.settings?;
        let admin = Network::read(&settings)?.asked_at(&settings)?;
        Ok(Self { admin })
    }
}

/// How to have the node of these settings do something.
#[derive(Debug, Clone)]
pub struct AdminTerms {
    pub admin: SocketAddr,
    /// The first token that the node takes, if it takes any.
    pub token: Option<String>,
}

impl AdminTerms {
    /// Reads only the settings of addresses, ports and tokens, and ignores the others.
    ///
    /// # Errors
    /// The first invalid one of these settings.
    pub fn new(written: Written) -> Result<Self, ConfigError> {
        let settings = written.settings?;
        let admin = Network::read(&settings)?.asked_at(&settings)?;
        let token = access::first_token(&settings)?;
        Ok(Self { admin, token })
    }
}

impl StateTerms {
    /// Reads only the settings that the commands for state need; `from` and `to` are their
    /// arguments.
    ///
    /// # Errors
    /// The first invalid one.
    pub fn new(
        written: Written,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<Self, ConfigError> {
        Self::read(&written.settings?, from, to)
    }
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub network: Network,
    pub mesh: Mesh,
    pub plugins: Plugins,
    pub state: State,
    pub access: Access,
    pub clients: Clients,
    pub log: Log,
    pub traces: Traces,
}

impl Config {
    /// Validates the raw settings.
    ///
    /// # Errors
    /// The first invalid setting.
    pub fn new(written: Written) -> Result<Self, ConfigError> {
        Self::read(&written.settings?)
    }

    fn read(settings: &Settings) -> Result<Self, ConfigError> {
        let mesh = Mesh::read(settings)?;
        let config = Self {
            network: Network::read(settings)?,
            state: State::read(settings, &mesh)?,
            mesh,
            access: Access::read(settings)?,
            clients: Clients::read(settings)?,
            log: Log::read(settings)?,
            traces: Traces::read(settings, |name| {
                Some(env::var_os(name)?.to_string_lossy().into())
            })?,
            plugins: Plugins::read(settings)?,
        };
        config.check_exposure(settings)?;
        if let Some(node_id) = &config.mesh.node_id {
            config.check_certificate_of(node_id)?;
        }
        Ok(config)
    }

    /// Checks that ports that are reachable over a network require authentication, or that the
    /// operator has declared that they need not.
    fn check_exposure(&self, settings: &Settings) -> Result<(), ConfigError> {
        let Self {
            network, access, ..
        } = self;
        if !network.bind.is_loopback() && access.secret.is_none() && !access.is_insecure {
            let expected = "a loopback address, as there is no secret that keeps strangers out; for a network set secret_file \
                            (`meshage-host secret` makes one), or insecure if strangers cannot reach the cluster port";
            return Err(settings.error(&network::BIND, expected));
        }
        if !network.admin_bind.is_loopback() && access.tokens.is_none() && !access.is_insecure {
            let expected = "a loopback address, as there is no token_file (nor insecure): whoever reaches the admin API could use it";
            return Err(settings.error(&network::ADMIN_BIND, expected));
        }
        self.check_sharing(settings)
    }

    /// Checks that plugins are shared only by nodes that can tell whose they are, or whose operator has declared that they
    /// need not.
    fn check_sharing(&self, settings: &Settings) -> Result<(), ConfigError> {
        let Self {
            network, plugins, ..
        } = self;
        if plugins.sharing == Sharing::Off {
            return Ok(());
        }
        let is_open = plugins.sharing == Sharing::On { unsigned: false }
            && plugins.terms.trusted_keys.is_none();
        if is_open && !network.bind.is_loopback() {
            let expected = "trusted_keys as well, as nodes on a network run what any of them is given; or share_unsigned, if whoever can put a \
                            file into the directory of one may run it on all";
            return Err(settings.error(&plugins::SHARE_PLUGINS, expected));
        }
        if plugins.data_dir.is_none() {
            let expected = "data_dir as well: what the mesh shares is kept there";
            return Err(settings.error(&plugins::SHARE_PLUGINS, expected));
        }
        Ok(())
    }

    /// Checks that the operator's own certificate between nodes, if there is one, is that of this
    /// node. A separate step, as the id may not be known before the ports are bound.
    ///
    /// # Errors
    /// Which setting is invalid: the certificate, or the id.
    pub fn check_certificate_of(&self, node_id: &NodeId) -> Result<(), ConfigError> {
        self.access
            .peer_certificates
            .iter()
            .try_for_each(|own| access::check_certificate_of(node_id, own))
    }

    /// How far the `Host` of a request to the public API is to be trusted.
    pub fn host_trust(&self) -> HostTrust {
        if self.access.tokens.is_some() || self.access.certificate.is_some() {
            HostTrust::Safe
        } else if self.network.bind.is_loopback() {
            HostTrust::Checked
        } else {
            HostTrust::OfBrowsers
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::written::fill_from_file;
    use super::*;
    use crate::cli::Cli;
    use crate::security::new_secret;

    fn config(flags: &[&str]) -> Result<Config, ConfigError> {
        Config::new(written(&[&["--plugins", "."], flags].concat()))
    }

    /// Ignores the environment of the test process.
    fn written(flags: &[&str]) -> Written {
        let cli = Cli::parse([&["meshage-host"], flags].concat()).unwrap();
        Written::with(cli.flags, |_| None)
    }

    #[test]
    fn an_error_is_logged_in_the_format_of_the_environment() {
        let json = |variable: &str| (variable == "MESHAGE_LOG_FORMAT").then(|| "json".into());
        let flags = Values::from([("config", "/missing.toml".into())]);
        let written = Written::with(flags, json);
        assert_eq!(written.log_format, LogFormat::Json);
        assert!(Config::new(written).is_err());
    }

    #[test]
    fn a_flag_beats_its_variable_and_one_that_is_not_text_is_named() {
        use std::os::unix::ffi::OsStringExt;
        let environment = |variable: &str| match variable {
            "SERVICE_PORT" => Some("82".into()),
            "CLUSTER_PORT" => Some(std::ffi::OsString::from_vec(vec![0xff])),
            _ => None,
        };
        let flags = |cluster_port: &'static str| {
            let flags = ["--plugins", ".", "--cluster-port", cluster_port];
            Cli::parse([&["meshage-host"][..], &flags].concat())
                .unwrap()
                .flags
        };
        let config = Config::new(Written::with(flags("9000"), environment)).unwrap();
        assert_eq!(
            (config.network.http_port, config.network.cluster_port),
            (82, 9000)
        );
        let error = Config::new(Written::with(flags(""), environment)).unwrap_err();
        assert!(
            error.to_string().contains("expected text in UTF-8"),
            "{error}"
        );
    }

    #[track_caller]
    fn check_error(flags: &[&str], expected: &[&str]) {
        let error = config(flags).unwrap_err().to_string();
        assert!(!error.contains('\n'), "more than a line: {error}");
        for part in expected {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let config = config(&[]).unwrap();
        let (network, mesh, clients) = (&config.network, &config.mesh, &config.clients);
        assert_eq!((network.http_port, network.cluster_port), (8080, 9742));
        assert_eq!(network.admin_addr(8080), "127.0.0.1:9080".parse().unwrap());
        assert!(network.bind.is_loopback() && network.advertise.is_none());
        assert_eq!((mesh.cluster_id.as_str(), mesh.seeds.len()), ("meshage", 0));
        assert_eq!(
            (clients.body_bytes_max, clients.timeout),
            (1 << 20, Duration::from_secs(30))
        );
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_value_and_what_is_right() {
        check_error(
            &["--http-port", "99999"],
            &[
                "http_port",
                "99999",
                "0 (any free one) to 65535",
                "HTTP_PORT",
            ],
        );
        check_error(
            &["--http-port", "65000"],
            &["http_port", "65000", "admin_port"],
        );
        check_error(
            &["--seeds", "10.0.0.1"],
            &["seeds", "10.0.0.1", "host:port"],
        );
        check_error(&["--seeds", "a:1,b:0"], &["seeds", "b:0"]);
        check_error(&["--seeds", "::1:9742"], &["seeds", "::1:9742"]);
        check_error(&["--seeds", "http://a:9742"], &["seeds", "http://a:9742"]);
        check_error(
            &["--http-port", "8742"],
            &["http_port", "8742", "cluster port is the admin port"],
        );
        check_error(
            &["--service-port", "abc"],
            &["http_port", "abc", "SERVICE_PORT"],
        );
        check_error(
            &["--bind", "localhost"],
            &["bind", "localhost", "IP address"],
        );
        check_error(
            &["--advertise", "0.0.0.0"],
            &["advertise", "0.0.0.0", "other nodes can reach"],
        );
        check_error(
            &["--bind", "192.0.2.1"],
            &[
                "bind",
                "192.0.2.1",
                "secret_file",
                "meshage-host secret",
                "insecure",
            ],
        );
        check_error(
            &["--secret-file", "/missing"],
            &["secret_file", "/missing", "cannot be read"],
        );
        check_error(
            &["--insecure", "maybe"],
            &["insecure", "maybe", "true or false"],
        );
        check_error(&["--node-id", "a b"], &["node_id", "a b", "' '"]);
        check_error(
            &["--allowed-origins", "app.example.com"],
            &["allowed_origins", "https://app.example.com", "or *"],
        );
        check_error(&["--max-body", "0"], &["max_body", "1 to 67108864 bytes"]);
        check_error(&["--timeout", "soon"], &["timeout", "soon", "30s"]);
        check_error(
            &["--log-format", "xml"],
            &["log_format", "xml", "text or json", "--log-format"],
        );
        check_error(&["--config", "/missing.toml"], &["config", "/missing.toml"]);
        let error = Config::new(written(&["--plugins", "/missing"]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/missing") && error.contains("create it"),
            "{error}"
        );
    }

    #[test]
    fn a_network_needs_a_secret_or_a_word_that_it_does_not() {
        assert!(config(&["--bind", "192.0.2.1", "--insecure"]).is_ok());
        assert!(config(&["--bind", "192.0.2.1", "--insecure", "false"]).is_err());
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        fs::write(&file, new_secret()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let config = config(&[
            "--bind",
            "192.0.2.1",
            "--secret-file",
            file.to_str().unwrap(),
        ])
        .unwrap();
        assert_eq!(config.access.secret.unwrap().first.count(), 1);
    }

    #[test]
    fn durations_have_units_or_are_milliseconds() {
        assert_eq!(
            config(&["--timeout", "1500"]).unwrap().clients.timeout,
            Duration::from_millis(1500)
        );
        assert_eq!(
            config(&["--timeout", "2s"]).unwrap().clients.timeout,
            Duration::from_secs(2)
        );
    }

    #[test]
    fn the_older_name_of_the_port_counts_when_the_newer_is_not_set() {
        assert_eq!(
            config(&["--service-port", "81"]).unwrap().network.http_port,
            81
        );
        assert_eq!(
            config(&["--service-port", "81", "--http-port", "82"])
                .unwrap()
                .network
                .http_port,
            82
        );
    }

    fn row(setting: &Setting) -> String {
        let variables: Vec<String> = setting
            .variables
            .iter()
            .map(|variable| format!("`{variable}`"))
            .collect();
        let default = match setting.default {
            DefaultValue::Value(default) | DefaultValue::Described(default) => default,
            DefaultValue::None => "none",
        };
        format!(
            "| `--{}` | {} | {} | {default} |",
            setting.flag(),
            variables.join(", "),
            setting.help
        )
    }

    #[test]
    fn the_readme_has_every_setting_as_it_is_described() {
        let rows: Vec<String> = settings().into_iter().chain([&CONFIG]).map(row).collect();
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
            .into_iter()
            .flat_map(|setting| setting.variables.iter().copied().chain([setting.name]))
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_file_fills_what_is_not_set_otherwise() {
        let mut values = Values::from([("http_port", "1".into())]);
        let file = "http_port = 2\ncluster_port = 3\nseeds = [\"a:1\", \"b:2\"]\n";
        fill_from_file(&mut values, file, &settings()).unwrap();
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
        let settings = complete(flags, |_| None, &settings(), &CONFIG).unwrap();
        let taken = ["http_port", "node_id", "cluster_id", "log", "timeout"];
        assert_eq!(
            taken.map(|name| settings.0.get(name).map(String::as_str)),
            [
                Some("81"),
                Some("n1"),
                Some("prod"),
                Some("info"),
                Some("2s")
            ]
        );
        // An empty setting counts as not set, except for `seeds`, which may be empty.
        assert_eq!(settings.0.get("plugins"), None);
        assert_eq!(settings.0.get("seeds").map(String::as_str), Some(""));
    }

    #[test]
    fn a_file_that_is_wrong_says_where() {
        let mut values = Values::new();
        let error = fill_from_file(&mut values, "http-port = 1", &settings()).unwrap_err();
        assert!(
            error.contains("http-port") && error.contains("http_port"),
            "{error}"
        );
        for (file, part) in [
            ("seeds = 1.5", "seeds"),
            ("\n\nhttp_port 1", "line 3"),
            ("log = 1\nlog = 2", "line 2"),
        ] {
            let error = fill_from_file(&mut values, file, &settings()).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
