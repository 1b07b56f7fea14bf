//! Which hosts a plugin may send requests to.

use std::collections::BTreeSet;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Uri, uri};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use tokio::sync::Semaphore;
use tracing::warn;

use super::tls::OutboundTls;
use crate::message::StreamName;

/// Maximum of requests in flight for one plugin; a further one is refused.
pub(super) const REQUESTS_MAX: usize = 64;

/// How many hosts are logged per version of a plugin: a guest can make up any number of them.
const LOGGED_MAX: usize = 32;

/// A host that a plugin may send requests to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AllowedHost {
    /// Lower case; an IPv6 address is in brackets.
    name: String,
    port: u16,
}

/// The text is not `host:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a host and its port")]
pub(super) struct NotAHost;

impl FromStr for AllowedHost {
    type Err = NotAHost;

    fn from_str(text: &str) -> Result<Self, NotAHost> {
        let authority: uri::Authority = text.parse().map_err(|_| NotAHost)?;
        match authority.port_u16() {
            Some(port)
                if port > 0 && !text.contains(['@', '*']) && !authority.host().is_empty() =>
            {
                Ok(Self {
                    name: authority.host().to_ascii_lowercase(),
                    port,
                })
            }
            _ => Err(NotAHost),
        }
    }
}

impl std::fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

/// The allowed hosts of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::runtime) struct AllowedHosts(pub(super) Vec<AllowedHost>);

impl Serialize for AllowedHosts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hosts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("allowedHosts", &hosts)?;
        map.end()
    }
}

/// Hosts that have been logged; each is logged once.
type Logged = Mutex<BTreeSet<String>>;

fn host_of(uri: &Uri) -> &str {
    uri.authority().map_or("", |authority| authority.as_str())
}

fn is_new(logged: &Logged, host: &str) -> bool {
    let mut logged = logged.lock().unwrap_or_else(PoisonError::into_inner);
    logged.len() < LOGGED_MAX && logged.insert(host.to_owned())
}

/// The hosts that the instances of one plugin may send requests to, and the state that the
/// instances share for that.
pub(in crate::runtime) struct Access {
    stream: StreamName,
    allowed: Vec<AllowedHost>,
    pub(super) tls: OutboundTls,
    /// One permit per request in flight.
    pub(super) permits: Arc<Semaphore>,
    denied: Logged,
    tls_failed: Logged,
}

impl Access {
    pub(super) fn new(stream: StreamName, allowed: Vec<AllowedHost>, tls: OutboundTls) -> Self {
        Self {
            stream,
            allowed,
            tls,
            permits: Arc::new(Semaphore::new(REQUESTS_MAX)),
            denied: Logged::default(),
            tls_failed: Logged::default(),
        }
    }

    /// Logs a host that is not allowed: the plugin's author may have forgotten to list it.
    pub(super) fn log_denied(&self, uri: &Uri) {
        let host = host_of(uri);
        if is_new(&self.denied, host) {
            let (stream, scheme) = (&self.stream, uri.scheme_str());
            warn!(event = "host-denied", %stream, host, scheme, "a handler may not ask this host: its manifest does not name it (allowed_hosts)");
        }
    }

    /// Logs a failed TLS handshake. The usual cause is the host's certificate: the operator may
    /// have to configure its certificate authority.
    pub(super) fn log_tls_failed(&self, uri: &Uri, error: &io::Error) {
        let host = host_of(uri);
        if is_new(&self.tls_failed, host) {
            warn!(event = "host-tls-failed", stream = %self.stream, host, %error, "no HTTPS with a host that a handler asks; authorities beside those of browsers are named by --outbound-ca");
        }
    }

    pub(super) fn allows(&self, uri: &Uri) -> bool {
        let Some(authority) = uri.authority() else {
            return false;
        };
        let default_port = if uri.scheme() == Some(&uri::Scheme::HTTPS) {
            443
        } else {
            80
        };
        let port = authority.port_u16().unwrap_or(default_port);
        // User information in a URL mostly serves to disguise the real host.
        !authority.as_str().contains('@')
            && self
                .allowed
                .iter()
                .any(|host| host.port == port && host.name.eq_ignore_ascii_case(authority.host()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(allowed: &str, uri: &str, expected: bool) {
        let access = Access::new(
            StreamName::try_from("s").unwrap(),
            vec![allowed.parse().unwrap()],
            OutboundTls::new(&[]).unwrap(),
        );
        assert_eq!(
            access.allows(&uri.parse().unwrap()),
            expected,
            "{allowed} {uri}"
        );
    }

    #[test]
    fn only_the_named_host_and_port_are_allowed() {
        check("api.example.com:443", "https://api.example.com/a?b", true);
        check("api.example.com:443", "https://API.example.com:443/", true);
        check("api.example.com:443", "http://api.example.com/", false);
        check("api.example.com:80", "http://api.example.com/", true);
        check(
            "api.example.com:443",
            "https://api.example.com:8443/",
            false,
        );
        check(
            "api.example.com:443",
            "https://api.example.com.evil.org/",
            false,
        );
        check(
            "api.example.com:443",
            "https://evil.api.example.com/",
            false,
        );
        check(
            "api.example.com:443",
            "https://api.example.com@evil.org/",
            false,
        );
        check(
            "api.example.com:443",
            "https://evil.org@api.example.com/",
            false,
        );
        check("[::1]:8080", "http://[::1]:8080/", true);
    }

    #[test]
    fn a_host_has_a_port() {
        for wrong in [
            "",
            "api.example.com",
            "api.example.com:0",
            "*.example.com:443",
            "a@b:443",
            "http://a:443",
            ":443",
        ] {
            assert_eq!(wrong.parse::<AllowedHost>(), Err(NotAHost), "{wrong}");
        }
        assert_eq!(
            "API.example.com:443"
                .parse::<AllowedHost>()
                .unwrap()
                .to_string(),
            "api.example.com:443"
        );
    }
}
