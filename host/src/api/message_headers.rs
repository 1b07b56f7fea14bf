//! The headers of a message, from those of the request that brings it. Pure.

use http::header::{COOKIE, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version};

use crate::message::RESERVED_HEADERS;

/// Takes the headers out of a request's head, as handlers may see them.
pub(super) fn of(head: &mut Parts) -> HeaderMap {
    let mut headers = std::mem::take(&mut head.headers);
    if head.version > Version::HTTP_11 {
        join_cookies(&mut headers);
    }
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
