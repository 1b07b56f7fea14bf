//! Values as JSON in the store: reads them, says what is wrong with one that cannot be read, and
//! keeps members that this version of a handler does not know.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::integers::first_inexact;
use crate::{Entity, Failure};

pub(crate) fn read<T: DeserializeOwned>(
    entity: &Entity,
    name: &str,
    bytes: &[u8],
) -> Result<T, Failure> {
    let unreadable = |problem: String| {
        Failure::internal(format_args!(
            "the value {name:?} of {entity} cannot be read as `{}`: {problem}",
            std::any::type_name::<T>()
        ))
    };
    let read = serde_json::from_slice(bytes);
    let value = read.map_err(|error| unreadable(problem::<T>(bytes, &error)))?;
    match first_inexact(bytes) {
        None => Ok(value),
        Some(number) => Err(unreadable(format!(
            "the integer {number} does not fit into 64 bits"
        ))),
    }
}

pub(crate) fn write<T: Serialize + ?Sized>(
    entity: &Entity,
    name: &str,
    value: &T,
) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(value).map_err(|error| {
        Failure::internal(format_args!(
            "the value {name:?} of {entity} cannot be JSON: {error}"
        ))
    })
}

/// What is wrong, and at which member; for that it is read a second time.
fn problem<T: DeserializeOwned>(bytes: &[u8], error: &serde_json::Error) -> String {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let place = match serde_path_to_error::deserialize::<_, T>(&mut json) {
        Err(error) => error.path().to_string(),
        Ok(_) => ".".into(),
    };
    // The path of the value itself is a dot.
    if place == "." {
        error.to_string()
    } else {
        format!("{place}: {error}")
    }
}

/// Whether a value is written exactly as it is stored.
pub(crate) fn is_written_as<T: Serialize>(value: &T, stored: &[u8]) -> bool {
    // In a component this is quicker than comparing while it is written.
    let mut written = Vec::with_capacity(stored.len());
    serde_json::to_writer(&mut written, value).is_ok() && is_same(&written, stored)
}

/// Whether the bytes are the same. The comparison of slices goes byte by byte in a component.
pub(crate) fn is_same(one: &[u8], other: &[u8]) -> bool {
    let (words, rest) = one.as_chunks::<8>();
    let (other_words, other_rest) = other.as_chunks::<8>();
    let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
    words.len() == other_words.len()
        && words.iter().map(word).eq(other_words.iter().map(word))
        && rest == other_rest
}

/// A new value with the members of the one in the store that the type `T` does not know, which a
/// later or an earlier version of the handler has written.
pub(crate) fn with_unknown<T: Serialize + DeserializeOwned>(
    stored: &[u8],
    new: Vec<u8>,
) -> Vec<u8> {
    // What the type makes of the stored value: what is not in it is unknown.
    let known = serde_json::from_slice::<T>(stored).and_then(|known| serde_json::to_vec(&known));
    match known {
        Ok(known) if known != stored => merged::<T>(stored, &known, &new).unwrap_or(new),
        _ => new,
    }
}

fn merged<T: Serialize + DeserializeOwned>(
    stored: &[u8],
    known: &[u8],
    new: &[u8],
) -> serde_json::Result<Vec<u8>> {
    let without: Value = serde_json::from_slice(new)?;
    let mut with = without.clone();
    keep(
        &serde_json::from_slice(stored)?,
        &serde_json::from_slice(known)?,
        &mut with,
    );
    // A member may be unknown only by this name (an alias): then it must not be there twice.
    let read: T = serde_json::from_value(with.clone())?;
    let is_same = serde_json::to_value(&read)? == without;
    serde_json::to_vec(if is_same { &with } else { &without })
}

/// Adds the members of `stored` that are not in `known` to `new`.
fn keep(stored: &Value, known: &Value, new: &mut Value) {
    match (stored, known, new) {
        (Value::Object(stored), Value::Object(known), Value::Object(new)) => {
            for (name, value) in stored {
                match (known.get(name), new.get_mut(name)) {
                    (None, None) => drop(new.insert(name.clone(), value.clone())),
                    (Some(known), Some(new)) => keep(value, known, new),
                    // The handler knows it, and has removed it; or it has set it now.
                    (Some(_), None) | (None, Some(_)) => {}
                }
            }
        }
        (Value::Array(stored), Value::Array(known), Value::Array(new))
            if stored.len() == known.len() =>
        {
            keep_elements(stored, known, new);
        }
        _ => {}
    }
}

/// The same for the elements of a list: by their places if there are as many as before, else for
/// those that have not changed.
fn keep_elements(stored: &[Value], known: &[Value], new: &mut [Value]) {
    if new.len() == known.len() {
        for (i, new) in new.iter_mut().enumerate() {
            keep(&stored[i], &known[i], new);
        }
        return;
    }
    let mut next = 0;
    for new in new {
        let unchanged = (next..known.len()).find(|i| known[*i] == *new);
        if let Some(i) = unchanged {
            keep(&stored[i], &known[i], new);
            next = i + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Serialize, Deserialize, Default)]
    #[serde(default)]
    struct Cart {
        items: Vec<Item>,
        #[serde(alias = "remark", skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    }

    #[derive(Serialize, Deserialize)]
    struct Item {
        name: String,
    }

    #[track_caller]
    fn check(stored: &str, change: impl FnOnce(&mut Cart), expected: &str) {
        let mut cart: Cart = serde_json::from_str(stored).unwrap();
        change(&mut cart);
        let new = serde_json::to_vec(&cart).unwrap();
        let kept = with_unknown::<Cart>(stored.as_bytes(), new);
        assert_eq!(String::from_utf8(kept).unwrap(), expected);
    }

    #[test]
    fn what_the_type_does_not_know_is_kept() {
        check(
            r#"{"items":[{"name":"tea","price":3}],"coupon":{"a":1}}"#,
            |cart| cart.note = Some("hello".into()),
            r#"{"items":[{"name":"tea","price":3}],"note":"hello","coupon":{"a":1}}"#,
        );
        // Elements that were not changed, in a list that was.
        check(
            r#"{"items":[{"name":"tea","price":3},{"name":"milk","price":1}]}"#,
            |cart| drop(cart.items.remove(0)),
            r#"{"items":[{"name":"milk","price":1}]}"#,
        );
    }

    #[test]
    fn what_the_type_knows_is_as_the_handler_left_it() {
        let note = |note: Option<&str>| note.map(str::to_owned);
        check(
            r#"{"items":[],"note":"a"}"#,
            |cart| cart.note = note(None),
            r#"{"items":[]}"#,
        );
        // By its older name: it is not there twice.
        check(
            r#"{"items":[],"remark":"a"}"#,
            |cart| cart.note = note(Some("b")),
            r#"{"items":[],"note":"b"}"#,
        );
    }

    #[test]
    fn bytes_are_compared_whatever_their_number() {
        let bytes: Vec<u8> = (0..40).collect();
        for length in 0..bytes.len() {
            assert!(is_same(&bytes[..length], &bytes[..length]));
            assert!(!is_same(&bytes[..length], &bytes[..=length]));
            for at in 0..length {
                let mut other = bytes[..length].to_vec();
                other[at] ^= 1;
                assert!(!is_same(&bytes[..length], &other));
            }
        }
    }
}
