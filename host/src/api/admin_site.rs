//! Which requests of browsers the admin API answers: those of its own pages and of people, not those of other sites. Pure.

use std::net::IpAddr;

use http::HeaderName;

/// Where browsers say what a request comes from (W3C Fetch Metadata).
pub(super) const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a request may be answered; if not, why.
pub(super) fn check(host: Option<&str>, origin: Option<&str>, fetch_site: Option<&str>) -> Result<(), &'static str> {
    if matches!(fetch_site, Some("cross-site" | "same-site")) {
        return Err("the admin API does not answer requests of other sites (Sec-Fetch-Site)");
    }
    // A page of another site that has made its own name lead here is one of the same origin to the browser.
    if !host.is_none_or(is_address) {
        return Err("the admin API answers to an IP address or localhost, not to other names (Host)");
    }
    let from_itself = origin.is_none_or(|origin| host.is_some_and(|host| origin.strip_prefix("http://") == Some(host)));
    if from_itself { Ok(()) } else { Err("the admin API does not answer requests of other sites (Origin)") }
}

fn is_address(host: &str) -> bool {
    let has_port = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = has_port.map_or(host, |(name, _)| name);
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn people_and_tools_are_answered() {
        for host in ["127.0.0.1:9080", "localhost:9080", "LOCALHOST", "[::1]:9080", "10.0.0.7"] {
            assert!(check(Some(host), None, None).is_ok(), "{host}");
            assert!(check(Some(host), None, Some("none")).is_ok(), "{host}");
        }
        assert!(check(None, None, None).is_ok());
        assert!(check(Some("localhost:1"), Some("http://localhost:1"), Some("same-origin")).is_ok());
    }

    #[test]
    fn other_sites_are_not() {
        for (host, origin, fetch_site) in [
            ("localhost:1", Some("http://evil.example"), None),
            ("localhost:1", Some("http://localhost:2"), None),
            ("localhost:1", Some("null"), None),
            ("localhost:1", None, Some("cross-site")),
            ("localhost:1", None, Some("same-site")),
            ("evil.example:1", None, None),
            ("127.0.0.1.evil.example", None, None),
            ("evil.example:1", Some("http://evil.example:1"), Some("same-origin")),
        ] {
            assert!(check(Some(host), origin, fetch_site).is_err(), "{host} {origin:?} {fetch_site:?}");
        }
    }
}
