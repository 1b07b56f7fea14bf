//! Requests that browsers send for pages of other sites: only an operator can allow them. Pure.
//!
//! A browser sends requests for any page that it shows, to any address that its user can reach,
//! such as a node on the same machine. A page may read an answer only if its headers allow it, and
//! send more than a form could only if the answer to a preflight request does (CORS, Fetch
//! standard).

use std::net::IpAddr;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

pub const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// How long a browser may cache the answer to a preflight request; browsers cap it at ten minutes
/// to two hours.
const PREFLIGHT_SECONDS: &str = "600";

/// Origins whose pages may send requests and read the answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sites {
    any: bool,
    origins: Vec<HeaderValue>,
}

/// The text is not an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an origin")]
pub struct NotAnOrigin;

/// Where a request comes from, according to its headers. Browsers send `Origin` (RFC 6454) and
/// `Sec-Fetch-Site` (W3C Fetch Metadata); tools send neither. To an address that is neither
/// loopback nor HTTPS browsers send no `Sec-Fetch-Site`, and with a GET no `Origin`: such a request
/// cannot be told from a tool's.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestSource<'a> {
    pub host: Option<&'a str>,
    pub origin: Option<&'a str>,
    pub fetch_site: Option<&'a str>,
}

/// How far the host name in `Host` is trusted. A page can make its own name resolve to any address
/// (DNS rebinding); the browser then takes the page for one of that server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostTrust {
    /// Any name is accepted. It proves nothing, but need not: a page of another site has no token,
    /// or the certificate is not valid for its name.
    Safe,
    /// Requests that are recognizably a page's must use an IP address, `localhost` or the host of
    /// an allowed origin.
    OfBrowsers,
    /// All requests must use one of those: a server that only this machine can reach has no other
    /// name.
    Checked,
}

/// An origin that may read the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowedOrigin<'a> {
    Any,
    This(&'a HeaderValue),
}

impl Sites {
    /// Reads `*`, or origins as browsers write them: `https://app.example.com`, with a port if it
    /// is not the default one.
    ///
    /// # Errors
    /// If one of them is not an origin.
    pub fn parse<'a>(origins: impl IntoIterator<Item = &'a str>) -> Result<Self, NotAnOrigin> {
        let mut sites = Self::default();
        for origin in origins {
            if origin == "*" {
                sites.any = true;
            } else {
                sites.origins.push(read_origin(origin).ok_or(NotAnOrigin)?);
            }
        }
        Ok(sites)
    }

    /// Whether a request may be answered. If so, returns the origin whose pages may read the
    /// answer, if there is one.
    ///
    /// # Errors
    /// The reason for the refusal.
    pub fn check(
        &self,
        source: RequestSource<'_>,
        names: HostTrust,
    ) -> Result<Option<AllowedOrigin<'_>>, &'static str> {
        let RequestSource {
            host,
            origin,
            fetch_site,
        } = source;
        if let Some(origin) = origin
            && let Some(allowed) = self.allowed(origin)
        {
            return Ok(Some(allowed));
        }
        if self.any {
            return Ok(None);
        }
        if matches!(fetch_site, Some("cross-site" | "same-site")) {
            return Err("it comes from a page of another site (Sec-Fetch-Site)");
        }
        if !origin.is_none_or(|origin| is_of(host, origin)) {
            return Err("it comes from a page of another site (Origin)");
        }
        let is_of_page = origin.is_some() || matches!(fetch_site, Some(site) if site != "none");
        let needs_address = match names {
            HostTrust::Safe => false,
            HostTrust::OfBrowsers => is_of_page,
            HostTrust::Checked => true,
        };
        let is_known = |host: &str| {
            is_address(host)
                || self
                    .origins
                    .iter()
                    .any(|origin| is_own(host, origin.as_bytes()))
        };
        if needs_address && !host.is_none_or(is_known) {
            return Err(
                "it calls the node by a name (Host), as a page does that has made its own name lead here, and not by an IP address or localhost",
            );
        }
        Ok(None)
    }

    /// Whether answers differ by `Origin`, so that caches must be told (`Vary`).
    pub fn tells_origins_apart(&self) -> bool {
        !self.origins.is_empty()
    }

    fn allowed(&self, origin: &str) -> Option<AllowedOrigin<'_>> {
        if self.any {
            return Some(AllowedOrigin::Any);
        }
        let allowed = self
            .origins
            .iter()
            .find(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin.as_bytes()));
        allowed.map(AllowedOrigin::This)
    }
}

impl AllowedOrigin<'_> {
    /// Adds the CORS headers that let the page read an answer.
    pub fn allow(self, headers: &mut HeaderMap) {
        match self {
            Self::Any => {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            }
            Self::This(origin) => {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            }
        }
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
    }
}

/// Adds the headers that answer a preflight request: allows these methods, and all headers that the
/// request names.
pub fn answer_preflight(asked: &HeaderMap, methods: &'static str, headers: &mut HeaderMap) {
    headers.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static(methods),
    );
    headers.insert(
        ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from_static(PREFLIGHT_SECONDS),
    );
    if let Some(names) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        headers.append(VARY, HeaderValue::from_name(ACCESS_CONTROL_REQUEST_HEADERS));
    }
}

/// Checks a request to the admin API, which only people, tools and the server's own pages may use.
/// `host`, if given, must be an IP address or `localhost`.
///
/// # Errors
/// The reason for the refusal.
pub fn check_admin_request(
    host: Option<&str>,
    source: RequestSource<'_>,
) -> Result<(), &'static str> {
    if matches!(source.fetch_site, Some("cross-site" | "same-site")) {
        return Err("the admin API does not answer requests of other sites (Sec-Fetch-Site)");
    }
    // After DNS rebinding a page of another site is of the same origin to the browser.
    if !host.is_none_or(is_address) {
        return Err(
            "the admin API answers to an IP address or localhost, not to other names (Host)",
        );
    }
    let is_own = source
        .origin
        .is_none_or(|origin| is_of(source.host, origin));
    if is_own {
        Ok(())
    } else {
        Err("the admin API does not answer requests of other sites (Origin)")
    }
}

/// Whether a browser says that it sends the request for a page of this server.
pub fn is_of_own_page(source: RequestSource<'_>) -> bool {
    let RequestSource {
        host,
        origin,
        fetch_site,
    } = source;
    fetch_site.is_none_or(|site| site == "same-origin")
        && origin.is_some_and(|origin| is_of(host, origin))
}

/// Whether an origin is this server, by either scheme: a proxy in front of it may speak HTTPS.
fn is_of(host: Option<&str>, origin: &str) -> bool {
    host.is_some_and(|host| is_own(host, origin.as_bytes()))
}

fn is_own(host: &str, origin: &[u8]) -> bool {
    let schemes = [&b"http://"[..], b"https://"];
    schemes.iter().any(|scheme| {
        origin
            .strip_prefix(*scheme)
            .is_some_and(|at| at.eq_ignore_ascii_case(host.as_bytes()))
    })
}

fn read_origin(text: &str) -> Option<HeaderValue> {
    let uri: Uri = text.parse().ok()?;
    let is_origin = matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.authority().is_some_and(|authority| {
            // No browser sends a wildcard name, or a user in an origin.
            !authority.as_str().contains(['@', '*']) && !authority.host().is_empty()
        })
        && uri.path() == "/"
        && !text.ends_with('/')
        // Browsers omit the default ports.
        && !matches!((uri.scheme_str(), uri.port_u16()), (Some("http"), Some(80)) | (Some("https"), Some(443)))
        && uri.query().is_none();
    if is_origin {
        HeaderValue::from_str(&text.to_ascii_lowercase()).ok()
    } else {
        None
    }
}

fn is_address(host: &str) -> bool {
    let has_port = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = has_port.map_or(host, |(name, _)| name);
    let address = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source<'a>(
        host: &'a str,
        origin: Option<&'a str>,
        fetch_site: Option<&'a str>,
    ) -> RequestSource<'a> {
        RequestSource {
            host: Some(host),
            origin,
            fetch_site,
        }
    }

    const PEOPLE_AND_TOOLS: [(&str, Option<&str>, Option<&str>); 9] = [
        ("127.0.0.1:9080", None, None),
        ("localhost:9080", None, None),
        ("LOCALHOST", None, None),
        ("[::1]:9080", None, None),
        ("10.0.0.7", None, None),
        ("127.0.0.1:9080", None, Some("none")),
        (
            "localhost:1",
            Some("http://localhost:1"),
            Some("same-origin"),
        ),
        ("localhost:1", Some("http://localhost:1"), None),
        ("localhost:1", None, Some("same-origin")),
    ];

    const OTHER_SITES: [(&str, Option<&str>, Option<&str>); 8] = [
        ("localhost:1", Some("http://evil.example"), None),
        ("localhost:1", Some("http://localhost:2"), None),
        ("localhost:1", Some("null"), None),
        ("localhost:1", None, Some("cross-site")),
        ("localhost:1", None, Some("same-site")),
        (
            "localhost:1",
            Some("https://evil.example"),
            Some("cross-site"),
        ),
        // DNS rebinding: their own names resolve to this node.
        (
            "evil.example:1",
            Some("http://evil.example:1"),
            Some("same-origin"),
        ),
        ("127.0.0.1.evil.example", None, Some("same-origin")),
    ];

    #[test]
    fn people_and_tools_are_answered() {
        for (host, origin, fetch_site) in PEOPLE_AND_TOOLS {
            let source = source(host, origin, fetch_site);
            for names in [HostTrust::Safe, HostTrust::OfBrowsers, HostTrust::Checked] {
                assert_eq!(
                    Sites::default().check(source, names),
                    Ok(None),
                    "{source:?}"
                );
            }
            assert_eq!(
                check_admin_request(Some(host), source),
                Ok(()),
                "{source:?}"
            );
        }
        assert_eq!(check_admin_request(None, RequestSource::default()), Ok(()));
        // Where other machines can reach the server, a tool may use any name, and a person may type
        // one.
        for fetch_site in [None, Some("none")] {
            let source = source("node.example:8080", None, fetch_site);
            assert_eq!(
                Sites::default().check(source, HostTrust::OfBrowsers),
                Ok(None),
                "{source:?}"
            );
            assert!(
                Sites::default().check(source, HostTrust::Checked).is_err(),
                "{source:?}"
            );
        }
        assert!(
            check_admin_request(
                Some("node.example:9080"),
                source("node.example:9080", None, None)
            )
            .is_err()
        );
    }

    #[test]
    fn other_sites_are_not() {
        for (host, origin, fetch_site) in OTHER_SITES {
            let source = source(host, origin, fetch_site);
            assert!(
                Sites::default()
                    .check(source, HostTrust::OfBrowsers)
                    .is_err(),
                "{source:?}"
            );
            assert!(
                check_admin_request(Some(host), source).is_err(),
                "{source:?}"
            );
        }
        // With `Safe` a name is as good as an address, as no page could use its own.
        let own = source(
            "node.example",
            Some("https://node.example"),
            Some("same-origin"),
        );
        assert!(Sites::default().check(own, HostTrust::OfBrowsers).is_err());
        assert_eq!(Sites::default().check(own, HostTrust::Safe), Ok(None));
    }

    #[test]
    fn an_operator_allows_others() {
        let sites = Sites::parse(["https://app.example", "http://node.example:8080"]).unwrap();
        let allowed = sites.check(
            source(
                "localhost:1",
                Some("https://app.example"),
                Some("cross-site"),
            ),
            HostTrust::Checked,
        );
        let origin = HeaderValue::from_static("https://app.example");
        assert_eq!(allowed, Ok(Some(AllowedOrigin::This(&origin))));
        assert_eq!(
            sites.check(
                source("node.example:8080", None, Some("same-origin")),
                HostTrust::Checked
            ),
            Ok(None)
        );
        assert!(
            sites
                .check(
                    source("localhost:1", Some("https://evil.example"), None),
                    HostTrust::Checked
                )
                .is_err()
        );
        let any = Sites::parse(["*"]).unwrap();
        let allowed = any.check(
            source(
                "evil.example",
                Some("https://evil.example"),
                Some("cross-site"),
            ),
            HostTrust::Checked,
        );
        assert_eq!(allowed, Ok(Some(AllowedOrigin::Any)));
        assert_eq!(
            any.check(
                source("evil.example", None, Some("cross-site")),
                HostTrust::Checked
            ),
            Ok(None)
        );
        for wrong in [
            "",
            "app.example",
            "https://",
            "https://a/",
            "https://a/b",
            "ftp://a",
            "https://u@a",
            "https://a:443",
            "null",
        ] {
            assert_eq!(Sites::parse([wrong]), Err(NotAnOrigin), "{wrong:?}");
        }
    }
}
