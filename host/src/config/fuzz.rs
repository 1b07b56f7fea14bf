use std::net::Ipv4Addr;

use super::written::{Settings, fill_from_file};
use super::{AdvertisedHost, Config, ConfigError, Values, settings};

/// Reads a configuration file. An accepted one must be good enough to start a node with; the error
/// for any other must be one line.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut values = Values::new();
    if let Err(problem) = fill_from_file(&mut values, text, &settings()) {
        let error = ConfigError::File {
            file: "meshage.toml".into(),
            problem,
        };
        assert!(!error.to_string().trim_end().contains('\n'), "{error}");
    }
    // The fuzzer must not read files that the input names.
    for setting in settings() {
        if setting.value.contains("FILE") {
            values.remove(setting.name);
        }
    }
    values.insert("plugins", ".".into());
    match Config::read(&Settings(values)) {
        Ok(Config {
            network, clients, ..
        }) => {
            let nowhere = AdvertisedHost::Address(Ipv4Addr::UNSPECIFIED.into());
            assert!(network.advertise.is_none_or(|it| it.host != nowhere));
            assert!(
                clients.body_bytes_max > 0
                    && clients.connections_max > 0
                    && !clients.timeout.is_zero()
            );
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
}
