//! The URL of a database, which is shown without its password.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::CONNECT_MAX;

/// Where a database is, and how to get in.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    pub(super) config: Config,
    /// The certificates that the server's must lead to, in PEM form; `None`: the public ones.
    pub(super) authorities: Option<PathBuf>,
}

/// The parameters that are ours: the library does not know them.
const SSL_ROOT_CERT: &str = "sslrootcert";
const SSL_MODE: &str = "sslmode";

impl FromStr for PostgresUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        // Else a part of the password would be taken for the host, and shown.
        if base.matches('@').count() > 1 || base.contains('#') {
            return Err("its password has one of @ / # ? : % in it, which are written as %40 %2F %23 %3F %3A %25 there".into());
        }
        let mut authorities = None;
        let mut mode = None;
        let mut others = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some((SSL_ROOT_CERT, path)) => {
                    let path = percent_encoding::percent_decode_str(path).decode_utf8();
                    let path = path.map_err(|_| format!("{SSL_ROOT_CERT} is not UTF-8"))?;
                    authorities = Some(PathBuf::from(path.as_ref()));
                }
                Some((SSL_MODE, value)) => mode = Some(value),
                _ => others.push(parameter),
            }
        }
        let rest = format!("{base}?{}", others.join("&"));
        let mut config: Config = rest
            .trim_end_matches('?')
            .parse()
            .map_err(|error: tokio_postgres::Error| problem(&error))?;
        if config.get_hosts().is_empty() {
            return Err("it names no host".into());
        }
        let is_local = config.get_hosts().iter().all(is_local);
        config.ssl_mode(match mode {
            Some("disable") => SslMode::Disable,
            Some("require" | "verify-ca" | "verify-full") => SslMode::Require,
            // Whoever names certificates wants them checked.
            None if is_local && authorities.is_none() => SslMode::Disable,
            None => SslMode::Require,
            Some(other) => {
                return Err(format!(
                    "{SSL_MODE}={other} is not possible: expected disable, or verify-full"
                ));
            }
        });
        // Never a standby, which cannot write.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.application_name("meshage-host");
        if config.get_connect_timeout().is_none() {
            // A host that swallows everything leaves time for the next.
            let attempts = config.get_hosts().len() as u32 + 1;
            config.connect_timeout(CONNECT_MAX / attempts);
        }
        Ok(Self {
            config,
            authorities,
        })
    }
}

fn problem(error: &tokio_postgres::Error) -> String {
    let cause = std::error::Error::source(error);
    cause.map_or_else(|| error.to_string(), ToString::to_string)
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            let name = name.trim_matches(['[', ']']);
            name == "localhost"
                || name
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|address| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        for (i, host) in self.config.get_hosts().iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match host {
                Host::Tcp(name) => f.write_str(name)?,
                #[cfg(unix)]
                Host::Unix(path) => write!(f, "{}", path.display())?,
            }
            let ports = self.config.get_ports();
            if let Some(port) = ports.get(i).or(ports.first()) {
                write!(f, ":{port}")?;
            }
        }
        match self.config.get_dbname() {
            Some(name) => write!(f, "/{name}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, shown: &str, mode: SslMode) {
        let url: PostgresUrl = text.parse().unwrap();
        assert_eq!(
            (url.to_string().as_str(), url.config.get_ssl_mode()),
            (shown, mode)
        );
        assert_eq!(format!("{url:?}"), shown, "no password is shown");
    }

    #[test]
    fn a_url_is_shown_without_its_password() {
        check(
            "postgres://ada:secret@db1:5432,db2:5433/carts?connect_timeout=3",
            "postgres://db1:5432,db2:5433/carts",
            SslMode::Require,
        );
        check(
            "postgres://ada:secret@localhost/carts",
            "postgres://localhost:5432/carts",
            SslMode::Disable,
        );
        check(
            "postgresql://ada@10.0.0.1/carts?sslmode=disable",
            "postgres://10.0.0.1:5432/carts",
            SslMode::Disable,
        );
        check(
            "postgres://ada@127.0.0.1:6000/c?sslrootcert=%2Fetc%2Fca.pem",
            "postgres://127.0.0.1:6000/c",
            SslMode::Require,
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("postgres://", "no host"),
            ("postgres://a/b?sslmode=prefer", "sslmode=prefer"),
            ("postgres://a/b?colour=red", "colour"),
            ("postgres://a:port/b", "port"),
        ] {
            let error = text.parse::<PostgresUrl>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
