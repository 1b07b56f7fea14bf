//! Messages and replies in the store: a first line, headers and a body, written as in HTTP, so that
//! people can read them.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

pub(super) fn written(first: &str, headers: &HeaderMap, body: &[u8]) -> Bytes {
    let mut text = BytesMut::with_capacity(64 + first.len() + body.len());
    text.put_slice(first.as_bytes());
    text.put_slice(b"\r\n");
    for (name, value) in headers {
        text.put_slice(name.as_str().as_bytes());
        text.put_slice(b": ");
        text.put_slice(value.as_bytes());
        text.put_slice(b"\r\n");
    }
    text.put_slice(b"\r\n");
    text.put_slice(body);
    text.freeze()
}

/// The first line, the headers, and the body. `None`: it is nothing that meshage has written.
pub(super) fn read(text: &Bytes) -> Option<(&str, HeaderMap, Bytes)> {
    let end = text.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let mut lines = text[..end].split(|byte| *byte == b'\n');
    let mut line = || {
        lines
            .next()
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
    };
    let first = std::str::from_utf8(line()?).ok()?;
    let mut headers = HeaderMap::new();
    while let Some(line) = line() {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        headers.append(name, HeaderValue::from_bytes(line[colon..].get(2..)?).ok()?);
    }
    Some((first, headers, text.slice(end + 4..)))
}
