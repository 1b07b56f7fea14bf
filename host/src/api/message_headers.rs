//! The headers of a message, from those of the request that brings it. Pure.

use http::header::{COOKIE, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version};

use crate::message::RESERVED_HEADERS;
use crate::security::SESSION_COOKIES;

/// Takes the headers out of a request's head, as handlers may see them.
pub(super) fn of(head: &mut Parts) -> HeaderMap {
    let mut headers = std::mem::take(&mut head.headers);
    if head.version > Version::HTTP_11 {
        join_cookies(&mut headers);
    }
    drop_sessions(&mut headers);
    note_authority(&mut headers, &head.uri);
    drop_reserved(&mut headers);
    headers
}

/// Has the `Host` that handlers see be the authority of the target, which has priority (RFC 9112,
/// section 3.2.2); in HTTP/2 there is no other.
fn note_authority(headers: &mut HeaderMap, uri: &Uri) {
    if let Some(authority) = uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        headers.insert(HOST, host);
    }
}

/// HTTP/2 lets clients split the `Cookie` header into several fields, for better compression;
/// outside of HTTP/2 they must be joined into one (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

/// Drops the cookies of the dashboard's sessions: browsers send them to every port of a host, and no
/// handler may have them.
fn drop_sessions(headers: &mut HeaderMap) {
    let is_session = |cookie: &&[u8]| cookie.trim_ascii().starts_with(SESSION_COOKIES.as_bytes());
    let cookies = headers.get_all(COOKIE).iter();
    let mut cookies = cookies.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    if !cookies.any(|cookie| is_session(&cookie)) {
        return;
    }
    let lines: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    for line in lines {
        let cookies = line.as_bytes().split(|byte| *byte == b';');
        let others: Vec<&[u8]> = cookies.filter(|cookie| !is_session(cookie)).collect();
        let others = others.join(&b';');
        if let Ok(others) = HeaderValue::from_bytes(others.trim_ascii())
            && !others.is_empty()
        {
            headers.append(COOKIE, others);
        }
    }
}

/// Drops the headers that only nodes set, so that a handler can believe them.
fn drop_reserved(headers: &mut HeaderMap) {
    let is_reserved = |name: &&HeaderName| name.as_str().starts_with(RESERVED_HEADERS);
    let reserved: Vec<HeaderName> = headers.keys().filter(is_reserved).cloned().collect();
    for name in reserved {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_of_the_dashboard_are_no_cookies_of_handlers() {
        for (sent, seen) in [
            ("a=1; meshage-9080=x; b=2", Some("a=1; b=2")),
            ("meshage-9080=x", None),
            ("meshage-9080=x;a=1", Some("a=1")),
            ("a=meshage-1; b=2", Some("a=meshage-1; b=2")),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, sent.parse().unwrap());
            drop_sessions(&mut headers);
            let found = headers.get(COOKIE).map(|value| value.to_str().unwrap());
            assert_eq!(found, seen, "{sent}");
        }
    }

    #[test]
    fn cookies_become_one() {
        let mut headers = HeaderMap::new();
        join_cookies(&mut headers);
        assert!(headers.is_empty());
        for cookie in ["a=1", "b=2; c=3", "d=4"] {
            headers.append(COOKIE, HeaderValue::from_static(cookie));
        }
        join_cookies(&mut headers);
        let joined: Vec<_> = headers.get_all(COOKIE).iter().collect();
        assert_eq!(joined, ["a=1; b=2; c=3; d=4"]);
    }

    #[test]
    fn the_authority_of_the_target_is_the_host() {
        let check = |target: &str, expected| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("a"));
            note_authority(&mut headers, &target.parse().unwrap());
            assert_eq!(headers[HOST], expected, "{target}");
        };
        check("/path", "a");
        check("http://b:1/path", "b:1");
    }

    #[test]
    fn what_nodes_set_is_dropped() {
        let mut headers = HeaderMap::new();
        for name in ["meshage-timer", "x-own", "meshage-stream"] {
            headers.insert(name, HeaderValue::from_static("forged"));
        }
        drop_reserved(&mut headers);
        assert_eq!(headers.len(), 1);
    }
}
