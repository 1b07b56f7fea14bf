//! The configuration: from what was written (flags, environment, file) to what is meant. Nothing
//! below this reads the environment.

mod advertise;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod settings;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use etcetera::BaseStrategy;
use rustls::pki_types::TrustAnchor;

use crate::cli::Cli;
use crate::message::{BODY_BYTES_MAX, NodeId};
use crate::security::{
    Keyring, Names, PeerCertificates, PeerTls, ServerCertificate, ServerTls, Sites, Tokens,
    TrustedKeys,
};
use crate::telemetry::LogFormat;
use settings::{Settings, complete};

pub use files::FromFiles;
pub use settings::{ConfigError, not_text};

/// What is added to the public API's port to get the admin API's.
const ADMIN_PORT_OFFSET: u16 = 1_000;

/// For a request to arrive, and for a message to be answered.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// No client waits for longer than an hour.
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// For a file system to say whether it has the plugins directory. Those over networks take some
/// milliseconds.
const DIRECTORY_ANSWER_MAX: Duration = Duration::from_secs(2);

/// Connections of clients at once.
const CONNECTIONS_DEFAULT: usize = 10_000;
const CONNECTIONS_MAX: usize = 1_000_000;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// 0 means any free port, here and below.
    pub http_port: u16,
    pub cluster_port: u16,
    /// `None`: the public API's port as it was bound, plus 1000.
    pub admin_port: Option<u16>,
    pub admin_bind: IpAddr,
    pub seeds: Vec<String>,
    pub bind: IpAddr,
    pub advertise: IpAddr,
    /// `None`: the host's name and the cluster port as it was bound.
    pub node_id: Option<NodeId>,
    pub cluster_id: String,
    pub plugins: PathBuf,
    /// `None`: there is no home directory in which it could be, and no compile cache.
    pub data_dir: Option<PathBuf>,
    /// The secrets of the mesh; `None`: the cluster port takes whoever reaches it.
    pub secret: Option<FromFiles<PathBuf, Keyring>>,
    /// Certificates between nodes that are not made of the secret.
    pub peer_certificates: Option<FromFiles<PeerCertificates, PeerTls>>,
    /// `None`: the public API speaks plain HTTP.
    pub certificate: Option<FromFiles<ServerCertificate, ServerTls>>,
    /// `None`: whoever reaches the APIs may use them.
    pub tokens: Option<FromFiles<PathBuf, Tokens>>,
    pub body_bytes_max: usize,
    /// Whose pages may use the public API.
    pub sites: Sites,
    /// Connections of clients at once.
    pub connections_max: usize,
    pub request_timeout: Duration,
    pub timeout: Duration,
    pub plugin_terms: PluginTerms,
    /// Whom handlers trust in their HTTPS requests, besides the public authorities.
    pub outbound_authorities: Vec<TrustAnchor<'static>>,
    pub log_format: LogFormat,
    pub log_filter: String,
}

impl Config {
    /// Makes a configuration of what was written.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub fn new(written: Written) -> Result<Self, ConfigError> {
        Self::check(written.settings?)
    }

    fn check(mut cli: Cli) -> Result<Self, ConfigError> {
        let mut settings = Settings(&mut cli);
        let port = "a port number from 0 (any free one) to 65535";
        let http_port = settings.parse("http_port", port)?.unwrap_or(8080);
        let cluster_port = settings.parse("cluster_port", port)?.unwrap_or(9742);
        let admin_port: Option<u16> = settings.parse("admin_port", port)?;
        if admin_port.is_none() && http_port > u16::MAX - ADMIN_PORT_OFFSET {
            return Err(settings.error(
                "http_port",
                &http_port.to_string(),
                "at most 64535, or admin_port as well",
            ));
        }
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let bind = settings
            .parse("bind", "an IP address of this host, or 0.0.0.0")?
            .unwrap_or(loopback);
        let advertise = match settings
            .parse::<IpAddr>("advertise", "an IP address that other nodes can reach")?
        {
            Some(address) if address.is_unspecified() => {
                return Err(settings.error(
                    "advertise",
                    &address.to_string(),
                    "an IP address that other nodes can reach",
                ));
            }
            Some(address) => address,
            None if bind.is_unspecified() => {
                advertise::private_address(bind).map_err(|problem| {
                    let expected = format!(
                        "advertise as well, with the IP that other nodes reach, as {problem}"
                    );
                    settings.error("bind", &bind.to_string(), &expected)
                })?
            }
            None => bind,
        };
        let node_id = settings
            .take("node_id")
            .map(|text| {
                NodeId::try_from(text.as_str()).map_err(|error| {
                    settings.error(
                        "node_id",
                        &text,
                        &format!("a name of letters, digits, '-', '_' and '.', but {error}"),
                    )
                })
            })
            .transpose()?;
        let secret = files::secret(&mut settings)?;
        let insecure = settings
            .parse("insecure", "true or false")?
            .unwrap_or(false);
        if !bind.is_loopback() && secret.is_none() && !insecure {
            let expected = "a loopback address, as there is no secret that keeps strangers out; for a network set secret_file \
                            (`meshage-host secret` makes one), or insecure if strangers cannot reach the cluster port";
            return Err(settings.error("bind", &bind.to_string(), expected));
        }
        let plugins = PathBuf::from(
            settings
                .take("plugins")
                .unwrap_or_else(|| "./plugins".into()),
        );
        if !may_be_directory(&plugins) {
            let expected =
                "a directory of .wasm files; there is none, so create it or name another";
            return Err(settings.error("plugins", &plugins.display().to_string(), expected));
        }
        let max_body = format!("1 to {BODY_BYTES_MAX} bytes");
        let body_bytes_max = settings.parse("max_body", &max_body)?.unwrap_or(1 << 20);
        if !(1..=BODY_BYTES_MAX).contains(&body_bytes_max) {
            return Err(settings.error("max_body", &body_bytes_max.to_string(), &max_body));
        }
        let max_connections = format!("1 to {CONNECTIONS_MAX} connections");
        let connections_max = settings
            .parse("max_connections", &max_connections)?
            .unwrap_or(CONNECTIONS_DEFAULT);
        if !(1..=CONNECTIONS_MAX).contains(&connections_max) {
            return Err(settings.error(
                "max_connections",
                &connections_max.to_string(),
                &max_connections,
            ));
        }
        let tokens = files::tokens(&mut settings)?;
        let admin_bind = settings
            .parse("admin_bind", "an IP address of this host")?
            .unwrap_or(loopback);
        if !admin_bind.is_loopback() && tokens.is_none() && !insecure {
            let expected = "a loopback address, as there is no token_file (nor insecure): whoever reaches the admin API could use it";
            return Err(settings.error("admin_bind", &admin_bind.to_string(), expected));
        }
        let plugin_terms = PluginTerms::check(&mut settings)?;
        let config = Self {
            http_port,
            cluster_port,
            admin_port,
            admin_bind,
            seeds: seeds(&mut settings)?,
            bind,
            advertise,
            node_id,
            cluster_id: settings
                .take("cluster_id")
                .unwrap_or_else(|| "meshage".into()),
            plugins,
            data_dir: data_dir(&mut settings)?,
            certificate: files::certificate(&mut settings)?,
            tokens,
            peer_certificates: files::peer_certificates(&mut settings, secret.is_some())?,
            secret,
            sites: sites(&mut settings)?,
            body_bytes_max,
            connections_max,
            request_timeout: duration("request_timeout", &mut settings)?,
            timeout: plugin_terms.timeout_max,
            plugin_terms,
            outbound_authorities: files::outbound_authorities(&mut settings)?,
            log_format: check_log_format(&mut settings)?,
            log_filter: settings.take("log").unwrap_or_else(|| "info".into()),
        };
        if let Some([one, other]) = config.colliding_ports() {
            let expected = format!("three different ports, but the {one} port is the {other} port");
            return Err(settings.error("http_port", &http_port.to_string(), &expected));
        }
        if let Some(node_id) = &config.node_id {
            config.check_certificate_of(node_id)?;
        }
        Ok(config)
    }

    /// Makes sure that the operator's own certificate between nodes, if there is one, is that of
    /// this node: its id may not be known before its ports are bound.
    ///
    /// # Errors
    /// Which setting is wrong: the certificate, or the id.
    pub fn check_certificate_of(&self, node_id: &NodeId) -> Result<(), ConfigError> {
        self.peer_certificates
            .iter()
            .try_for_each(|own| files::check_certificate_of(node_id, own))
    }

    /// What the name is worth by which a client calls the public API.
    pub fn names(&self) -> Names {
        if self.tokens.is_some() || self.certificate.is_some() {
            Names::Safe
        } else if self.bind.is_loopback() {
            Names::Checked
        } else {
            Names::OfBrowsers
        }
    }

    /// Two of the ports that are one, on one address.
    fn colliding_ports(&self) -> Option<[&'static str; 2]> {
        let http = ("HTTP", self.bind, self.http_port);
        let cluster = ("cluster", self.bind, self.cluster_port);
        let admin = (
            "admin",
            self.admin_bind,
            self.admin_addr(self.http_port).port(),
        );
        [(http, cluster), (http, admin), (cluster, admin)]
            .into_iter()
            .find(|((_, ip, port), (_, other_ip, other_port))| {
                let one_address =
                    ip == other_ip || ip.is_unspecified() || other_ip.is_unspecified();
                *port != 0 && port == other_port && one_address
            })
            .map(|((one, ..), (other, ..))| [one, other])
    }

    /// The error for a log filter, which only the logger can check.
    pub fn log_filter_error(&self) -> ConfigError {
        let expected =
            "a level (error, warn, info, debug, trace), or directives as info,guest=debug";
        settings::error("log", &self.log_filter, expected)
    }

    /// The admin API's address, given the public API's real port.
    pub fn admin_addr(&self, http_port: u16) -> SocketAddr {
        let port = self.admin_port.unwrap_or_else(|| {
            // With port 0 the system may choose a port that leaves no room above it.
            if self.http_port == 0 {
                0
            } else {
                http_port.saturating_add(ADMIN_PORT_OFFSET)
            }
        });
        SocketAddr::new(self.admin_bind, port)
    }
}

/// What was written: flags, environment, and the configuration file, which may be a pipe and so can
/// be read only once.
pub struct Written {
    settings: Result<Cli, ConfigError>,
    /// How the log is written, as far as that can be known: who starts with a wrong setting is told
    /// so in the log's format.
    pub log_format: LogFormat,
}

impl Written {
    /// Reads the configuration file, if one is named.
    pub fn new(cli: Cli) -> Self {
        // The file may be what is wrong.
        let without_file = Cli {
            config: None,
            ..cli.clone()
        };
        let settings = complete(cli);
        let mut known = settings
            .as_ref()
            .ok()
            .cloned()
            .or_else(|| complete(without_file).ok())
            .unwrap_or_default();
        let log_format = check_log_format(&mut Settings(&mut known)).unwrap_or(LogFormat::Text);
        Self {
            settings,
            log_format,
        }
    }
}

/// What the settings demand of plugins.
#[derive(Debug, Clone)]
pub struct PluginTerms {
    /// The longest time for a message, which bounds what a manifest may say.
    pub timeout_max: Duration,
    /// `None`: no plugin needs a signature.
    pub trusted_keys: Option<TrustedKeys>,
}

impl PluginTerms {
    /// Of what was written, whatever else is written there.
    ///
    /// # Errors
    /// The first setting of these that cannot be.
    pub fn new(written: Written) -> Result<Self, ConfigError> {
        Self::check(&mut Settings(&mut written.settings?))
    }

    fn check(settings: &mut Settings<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            timeout_max: duration("timeout", settings)?,
            trusted_keys: files::trusted_keys(settings)?,
        })
    }
}

/// Whether there is a directory, as far as its file system says: one that does not answer in time
/// is left to the node, which goes on without it, and says so.
fn may_be_directory(path: &Path) -> bool {
    let (answer, answered) = mpsc::channel();
    let path = path.to_owned();
    // When it comes too late nobody waits for it.
    let asking = thread::Builder::new().spawn(move || answer.send(path.is_dir()));
    asking.is_err() || answered.recv_timeout(DIRECTORY_ANSWER_MAX).unwrap_or(true)
}

fn seeds(settings: &mut Settings<'_>) -> Result<Vec<String>, ConfigError> {
    let text = settings.take("seeds").unwrap_or_default();
    let seeds: Vec<String> = text
        .split(',')
        .map(|seed| seed.trim().to_owned())
        .filter(|seed| !seed.is_empty())
        .collect();
    for seed in &seeds {
        let is_seed = match seed.rsplit_once(':') {
            Some((host, port)) => is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0),
            None => false,
        };
        if !is_seed {
            return Err(settings.error(
                "seeds",
                seed,
                "host:port, comma-separated, such as 10.0.0.1:9742",
            ));
        }
    }
    Ok(seeds)
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(host: &str) -> bool {
    let unbracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match unbracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && !host.contains(|c: char| c.is_whitespace() || [':', '/'].contains(&c))
        }
    }
}

fn sites(settings: &mut Settings<'_>) -> Result<Sites, ConfigError> {
    let Some(text) = settings.take("allowed_origins") else {
        return Ok(Sites::default());
    };
    Sites::parse(text.split(',').map(str::trim).filter(|origin| !origin.is_empty())).map_err(|_| {
        let expected =
            "origins, comma-separated, such as https://app.example.com or http://localhost:3000, or * for all";
        settings.error("allowed_origins", &text, expected)
    })
}

fn data_dir(settings: &mut Settings<'_>) -> Result<Option<PathBuf>, ConfigError> {
    match settings.take("data_dir") {
        Some(text) => std::path::absolute(&text).map(Some).map_err(|error| {
            settings.error("data_dir", &text, &format!("a directory, but {error}"))
        }),
        None => Ok(etcetera::choose_base_strategy()
            .map(|base| base.cache_dir().join("meshage"))
            .ok()),
    }
}

fn duration(name: &'static str, settings: &mut Settings<'_>) -> Result<Duration, ConfigError> {
    let Some(text) = settings.take(name) else {
        return Ok(TIMEOUT_DEFAULT);
    };
    let millis = text.parse().map(Duration::from_millis).ok();
    match millis.or_else(|| humantime::parse_duration(&text).ok()) {
        Some(timeout) if !timeout.is_zero() && timeout <= TIMEOUT_MAX => Ok(timeout),
        _ => Err(settings.error(
            name,
            &text,
            "a duration such as 500ms, 30s or 5000 (milliseconds), up to 1h",
        )),
    }
}

fn check_log_format(settings: &mut Settings<'_>) -> Result<LogFormat, ConfigError> {
    match settings.take("log_format").as_deref() {
        None | Some("text") => Ok(LogFormat::Text),
        Some("json") => Ok(LogFormat::Json),
        Some(other) => Err(settings.error("log_format", other, "text or json")),
    }
}

#[cfg(test)]
mod tests {
    use clap::builder::Resettable;
    use clap::{CommandFactory, FromArgMatches};

    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::security::new_secret;

    fn config(flags: &[&str]) -> Result<Config, ConfigError> {
        Config::new(Written::new(cli(&[&["--plugins", "."], flags].concat())))
    }

    /// The flags, without the environment of whoever runs the tests.
    fn cli(flags: &[&str]) -> Cli {
        let command = Cli::command().mut_args(|argument| argument.env(Resettable::Reset));
        let matches = command.get_matches_from([&["meshage-host"], flags].concat());
        Cli::from_arg_matches(&matches).unwrap()
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
        assert_eq!((config.http_port, config.cluster_port), (8080, 9742));
        assert_eq!(config.admin_addr(8080), "127.0.0.1:9080".parse().unwrap());
        assert_eq!(config.bind, config.advertise);
        assert_eq!(
            (config.cluster_id.as_str(), config.seeds.len()),
            ("meshage", 0)
        );
        assert_eq!(
            (config.body_bytes_max, config.timeout),
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
        let error = Config::new(Written::new(cli(&["--plugins", "/missing"])))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/missing") && error.contains("create it"),
            "{error}"
        );
    }

    #[test]
    fn who_listens_everywhere_is_reached_at_the_private_address_of_the_host_if_it_has_one() {
        let flags = ["--bind", "0.0.0.0", "--insecure"];
        match advertise::private_address(IpAddr::from([0, 0, 0, 0])) {
            Ok(address) => assert_eq!(config(&flags).unwrap().advertise, address),
            Err(problem) => {
                check_error(&flags, &["bind", "0.0.0.0", "advertise as well", &problem])
            }
        }
        let named = config(&[
            "--bind",
            "0.0.0.0",
            "--insecure",
            "--advertise",
            "192.0.2.1",
        ])
        .unwrap();
        assert_eq!(named.advertise.to_string(), "192.0.2.1");
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
        assert_eq!(config.secret.unwrap().first.count(), 1);
    }

    #[test]
    fn durations_have_units_or_are_milliseconds() {
        assert_eq!(
            config(&["--timeout", "1500"]).unwrap().timeout,
            Duration::from_millis(1500)
        );
        assert_eq!(
            config(&["--timeout", "2s"]).unwrap().timeout,
            Duration::from_secs(2)
        );
    }

    #[test]
    fn the_older_name_of_the_port_counts_when_the_newer_is_not_set() {
        assert_eq!(config(&["--service-port", "81"]).unwrap().http_port, 81);
        assert_eq!(
            config(&["--service-port", "81", "--http-port", "82"])
                .unwrap()
                .http_port,
            82
        );
    }
}
