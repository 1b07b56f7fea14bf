use std::time::Duration;

use super::manifest::Manifest;

const TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// Reads a manifest. Either its values are within bounds, or the error is a single line.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Manifest::read(text, TIMEOUT_MAX) {
        Ok(Manifest { limits, .. }) => {
            assert!(!limits.timeout.is_zero() && limits.timeout <= TIMEOUT_MAX);
            assert!((1 << 20..=4 << 30).contains(&limits.memory_bytes_max));
            assert!((1..=500).contains(&limits.concurrency));
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
}
