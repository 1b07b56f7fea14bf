use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::http::framing_problem;
use super::target;
use crate::security::{HostTrust, RequestSource, SEC_FETCH_SITE, Sites, check_admin_request};

/// Takes a request's target and headers, one per line. A path that parses must give the same result
/// when it is encoded in another way.
pub fn request(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let path = lines.next().unwrap_or_default();
    if let Ok(path) = std::str::from_utf8(path) {
        read_path(path);
    }
    let Ok(uri) = Uri::try_from(path) else { return };
    let headers: HeaderMap = lines.filter_map(header).collect();
    for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
        let problem = framing_problem(version, &uri, &headers);
        let hosts = headers.get_all("host").iter().count();
        assert!(problem.is_some() || version > Version::HTTP_11 || hosts < 2);
    }
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let source = RequestSource {
        host: text("host"),
        origin: text("origin"),
        fetch_site: text(SEC_FETCH_SITE.as_str()),
    };
    let _ = check_admin_request(source.host, source);
    let _ = Sites::default().check(source, HostTrust::Checked);
}

fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at(colon);
    Some((
        HeaderName::from_bytes(name).ok()?,
        HeaderValue::from_bytes(value[1..].trim_ascii()).ok()?,
    ))
}

fn read_path(path: &str) {
    match target::parse(path) {
        Ok(target) => {
            let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
            let prefix = if target.broadcast {
                "/api/broadcast/"
            } else {
                "/api/"
            };
            let (stream, key) = (
                encode(target.stream.as_str()),
                encode(target.partition_key.as_str()),
            );
            assert_eq!(
                target::parse(&format!("{prefix}{stream}/{key}{}", target.path)),
                Ok(target.clone())
            );
        }
        Err(rejected) => assert!(!rejected.error.to_string().is_empty()),
    }
}
