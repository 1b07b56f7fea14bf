//! Whether a request of HTTP/1 is so that nobody between a client and this node can have read it
//! otherwise (request smuggling). Pure. What hyper refuses by itself is not looked at again:
//! obsolete folding, control characters, two different lengths, a transfer encoding that does not
//! end in `chunked`.

use http::header::{HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Uri, Version};

/// What is wrong with a request, if anything is. Its bytes, if they are known, show what hyper does
/// not.
pub(super) fn problem(
    version: Version,
    method: &Method,
    target: &Uri,
    headers: &HeaderMap,
    bytes: Option<&[u8]>,
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
    if !encoding.as_bytes().eq_ignore_ascii_case(b"chunked") || encodings.next().is_some() {
        return Some("its Transfer-Encoding is another than chunked");
    }
    // Where it is not seen, hyper goes by the chunks, and closes the connection after the answer.
    let has_both = bytes.and_then(|bytes| has_length(bytes, method, target)) == Some(true);
    has_both.then_some("it has both a Content-Length and a Transfer-Encoding")
}

/// Whether the request that these bytes begin with says how long it is; `None` if they do not begin
/// with this request, or end before its head does. A chunked request must not: some would go by the
/// one, some by the other. hyper goes by the chunks, as RFC 9112 (section 6.3) has it, and drops
/// the length, so that it is not among the headers.
fn has_length(bytes: &[u8], method: &Method, target: &Uri) -> Option<bool> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let mut lines = lines.map(|line| {
        line.strip_suffix(b"\n")
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
    });
    // Empty lines may stand before a request.
    let first = lines.by_ref().find(|line| *line != Some(b""))??;
    let rest = first
        .strip_prefix(method.as_str().as_bytes())?
        .strip_prefix(b" ")?;
    if rest.strip_prefix(target.path_and_query()?.as_str().as_bytes())? != b" HTTP/1.1" {
        return None;
    }
    let mut has_length = false;
    loop {
        let line = lines.next()??;
        if line.is_empty() {
            return Some(has_length);
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        has_length |= line[..colon].eq_ignore_ascii_case(b"content-length");
    }
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
        problem(version, &Method::POST, &target.parse().unwrap(), &map, None)
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

    #[test]
    fn both_lengths_are_seen() {
        let seen =
            |bytes: &str| has_length(bytes.as_bytes(), &Method::POST, &"/a?b".parse().unwrap());
        let chunked = "transfer-encoding: chunked\r\n";
        assert_eq!(
            seen(&format!(
                "POST /a?b HTTP/1.1\r\nHost: a\r\n{chunked}\r\n0\r\n"
            )),
            Some(false)
        );
        assert_eq!(
            seen(&format!(
                "\r\n\nPOST /a?b HTTP/1.1\n{chunked}cOntent-length: 5\n\n"
            )),
            Some(true)
        );
        assert_eq!(
            seen(&format!(
                "POST /a?b HTTP/1.1\r\ncontent-length:5\r\n{chunked}\r\n"
            )),
            Some(true)
        );
        // What stands in the body is none of the head.
        assert_eq!(
            seen(&format!(
                "POST /a?b HTTP/1.1\r\n{chunked}\r\ncontent-length: 5\r\n\r\n"
            )),
            Some(false)
        );
        for other in [
            "",
            "POST /a?b HTTP/1.1\r\nhost: a\r\n",
            "POST /a?b",
            "POST /a HTTP/1.1\r\n\r\n",
            "\r\n",
        ] {
            assert_eq!(seen(other), None, "{other:?}");
        }
    }
}
