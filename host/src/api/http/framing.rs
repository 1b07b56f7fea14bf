//! Request smuggling: refuses HTTP/1 requests that a proxy between the client and this node could
//! parse differently. Pure. hyper refuses some itself (obsolete folding, control characters, two
//! different lengths, a transfer encoding that does not end in `chunked`); if there are both
//! `Content-Length` and chunks it uses the chunks, and closes the connection after the answer (RFC
//! 9112, section 6.3).

use http::header::{HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Uri, Version};

/// Why a request is refused, if it is.
pub(in crate::api) fn problem(
    version: Version,
    target: &Uri,
    headers: &HeaderMap,
) -> Option<&'static str> {
    if version > Version::HTTP_11 {
        return None;
    }
    if target.authority().is_some() {
        return Some(
            "its target is an absolute URI, as for a proxy, or of another form; expected a path",
        );
    }
    let mut hosts = headers.get_all(HOST).iter();
    if hosts.next().is_none() && version == Version::HTTP_11 || hosts.next().is_some() {
        return Some("it must have one Host header");
    }
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let encoding = encodings.next()?;
    let is_chunked =
        encoding.as_bytes().eq_ignore_ascii_case(b"chunked") && encodings.next().is_none();
    (!is_chunked).then_some("its Transfer-Encoding is another than chunked")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        version: Version,
        target: &str,
        headers: &[(&'static str, &'static str)],
    ) -> Option<&'static str> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        problem(version, &target.parse().unwrap(), &map)
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let v11 = Version::HTTP_11;
        assert_eq!(
            check(
                v11,
                "/api/s/k?q",
                &[("host", "a"), ("transfer-encoding", "Chunked")]
            ),
            None
        );
        assert_eq!(check(Version::HTTP_10, "/api/s/k", &[]), None);
        assert_eq!(check(Version::HTTP_2, "https://a/api/s/k", &[]), None);
        assert!(
            check(v11, "http://a/api/s/k", &[("host", "a")])
                .unwrap()
                .contains("absolute")
        );
        assert!(check(v11, "a:1", &[("host", "a")]).is_some());
        assert!(check(v11, "/", &[]).unwrap().contains("Host"));
        assert!(
            check(v11, "/", &[("host", "a"), ("host", "a")])
                .unwrap()
                .contains("Host")
        );
        for encodings in [
            &["gzip, chunked"][..],
            &["chunked", "chunked"],
            &["gzip", "chunked"],
        ] {
            let headers: Vec<_> = encodings
                .iter()
                .map(|value| ("transfer-encoding", *value))
                .chain([("host", "a")])
                .collect();
            assert!(
                check(v11, "/", &headers)
                    .unwrap()
                    .contains("Transfer-Encoding"),
                "{encodings:?}"
            );
        }
    }
}
