use std::net::IpAddr;

use super::settings::{Settings, fill_from_file};
use super::{Config, ConfigError};
use crate::cli::Cli;

/// Reads a configuration file. What is taken must be good to start a node with; what is not must be
/// said in one line.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut cli = Cli::default();
    if let Err(problem) = fill_from_file(&mut cli, text) {
        let error = ConfigError::File {
            file: "meshage.toml".into(),
            problem,
        };
        assert!(!error.to_string().trim_end().contains('\n'), "{error}");
    }
    // No file is to be read but this one.
    let mut settings = Settings(&mut cli);
    for file in [
        "secret_file",
        "peer_cert",
        "peer_key",
        "peer_ca",
        "tls_cert",
        "tls_key",
        "token_file",
        "trusted_keys",
        "outbound_ca",
    ] {
        settings.take(file);
    }
    cli.plugins = Some(".".into());
    match Config::check(cli) {
        Ok(config) => {
            assert!(config.advertise != IpAddr::from([0, 0, 0, 0]));
            assert!(
                config.body_bytes_max > 0
                    && config.connections_max > 0
                    && !config.timeout.is_zero()
            );
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
}
