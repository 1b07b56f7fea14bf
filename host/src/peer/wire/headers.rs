//! Headers as the peer protocol encodes them: a sequence of (name, value), without hop-by-hop
//! headers (`CONNECTION_HEADERS`). For serde's `with`.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::de::{SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserializer, Serialize, Serializer};

use crate::message::CONNECTION_HEADERS;

pub(super) fn serialize<S: Serializer>(
    headers: &HeaderMap,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let end_to_end = || {
        headers
            .iter()
            .filter(|(name, _)| !CONNECTION_HEADERS.contains(name))
    };
    let mut sequence = serializer.serialize_seq(Some(end_to_end().count()))?;
    for (name, value) in end_to_end() {
        sequence.serialize_element(&(name.as_str(), Octets(value.as_bytes())))?;
    }
    sequence.end()
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Cow<'static, HeaderMap>, D::Error> {
    struct Headers;

    impl<'de> Visitor<'de> for Headers {
        type Value = HeaderMap;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("headers")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<HeaderMap, A::Error> {
            let mut headers = HeaderMap::new();
            while let Some((name, value)) = sequence.next_element::<(&str, &[u8])>()? {
                let name =
                    HeaderName::from_bytes(name.as_bytes()).map_err(serde::de::Error::custom)?;
                let value = HeaderValue::from_bytes(value).map_err(serde::de::Error::custom)?;
                headers
                    .try_append(name, value)
                    .map_err(serde::de::Error::custom)?;
            }
            Ok(headers)
        }
    }

    deserializer.deserialize_seq(Headers).map(Cow::Owned)
}

/// Serialized as one run of bytes; serde would serialize a slice element by element.
struct Octets<'a>(&'a [u8]);

impl Serialize for Octets<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}
