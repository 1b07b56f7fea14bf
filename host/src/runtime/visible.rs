//! Which headers of a message its handler sees. Pure.

use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::message::TIMER;

/// In place of names: every header but credentials.
pub(super) const EVERY: &str = "*";

/// The headers that a handler sees: `content-type`, the name of a timer, and those that its manifest
/// names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Visible {
    pub(super) names: Vec<HeaderName>,
    /// Those that are no credentials need not be named.
    pub(super) every: bool,
}

impl Visible {
    fn has(&self, name: &HeaderName) -> bool {
        *name == CONTENT_TYPE
            || *name == TIMER
            || self.names.contains(name)
            || self.every && !is_credential(name)
    }

    /// Those of a message that are visible.
    pub(super) fn of<'a>(
        &self,
        headers: &'a HeaderMap,
    ) -> impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)> {
        headers.iter().filter(|(name, _)| self.has(name))
    }

    /// As the manifest has them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let every = self.every.then_some(EVERY);
        every
            .into_iter()
            .chain(self.names.iter().map(HeaderName::as_str))
    }

    /// The first of those that carry credentials: the node logs when a plugin asks for one.
    pub fn credential(&self) -> Option<&HeaderName> {
        self.names.iter().find(|name| is_credential(name))
    }
}

fn is_credential(name: &HeaderName) -> bool {
    *name == AUTHORIZATION || *name == COOKIE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_have_to_be_named() {
        let mut headers = HeaderMap::new();
        for name in [
            "content-type",
            "cookie",
            "accept",
            "authorization",
            "meshage-timer",
        ] {
            headers.insert(name, HeaderValue::from_static("x"));
        }
        let seen = |names: &[HeaderName], every| {
            let visible = Visible {
                names: names.to_vec(),
                every,
            };
            let seen = visible.of(&headers).map(|(name, _)| name.as_str());
            seen.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(seen(&[], false), "content-type meshage-timer");
        assert_eq!(seen(&[COOKIE], false), "content-type cookie meshage-timer");
        assert_eq!(seen(&[], true), "content-type accept meshage-timer");
        assert_eq!(
            seen(&[COOKIE], true),
            "content-type cookie accept meshage-timer"
        );
    }
}
