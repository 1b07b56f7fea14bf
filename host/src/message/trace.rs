//! Traces (W3C Trace Context): which span what is done for a message belongs to.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header by which a trace goes on.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What the tools of the sender know of its trace besides.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A span of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    pub trace_id: u128,
    pub span_id: u64,
    pub is_recorded: bool,
}

impl Trace {
    /// The span that the sender of a request names, if it names one.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let header = headers.get(TRACEPARENT)?.to_str().ok()?;
        let mut parts = header.split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        // Later versions may say more behind the flags.
        let is_known = match version {
            "00" => parts.next().is_none(),
            "ff" => false,
            _ => is_hex(version, 2),
        };
        let is_good = is_known && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
        let trace = Self {
            trace_id: u128::from_str_radix(trace, 16).ok()?,
            span_id: u64::from_str_radix(span, 16).ok()?,
            is_recorded: u8::from_str_radix(flags, 16).ok()? & 1 == 1,
        };
        (is_good && trace.trace_id != 0 && trace.span_id != 0).then_some(trace)
    }

    /// Names this span in the headers of a request.
    pub fn name_in(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.to_string()) {
            headers.insert(TRACEPARENT, value);
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace_id,
            span_id,
            is_recorded,
        } = self;
        write!(
            f,
            "00-{trace_id:032x}-{span_id:016x}-{:02x}",
            u8::from(*is_recorded)
        )
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == digits && text.bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Trace> {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, text.parse().unwrap());
        Trace::of(&headers)
    }

    #[test]
    fn what_is_written_is_read() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = read(text).unwrap();
        assert_eq!(trace.span_id, 0x00f0_67aa_0ba9_02b7);
        assert!(trace.is_recorded);
        let mut headers = HeaderMap::new();
        trace.name_in(&mut headers);
        assert_eq!(headers[TRACEPARENT], text);
        assert!(!read(&text.replace("-01", "-00")).unwrap().is_recorded);
        assert!(read(&text.replacen("00-", "42-", 1)).is_some());
        assert!(read(&format!("{}-later", text.replacen("00-", "42-", 1))).is_some());
    }

    #[test]
    fn what_is_none_is_not_read() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for wrong in [
            "",
            "00",
            "x",
            &text.replacen("00-", "ff-", 1),
            &text.replacen("00-", "0-", 1),
            &format!("{text}-more"),
            &text.to_uppercase(),
            &text.replace('4', "g"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }
}
