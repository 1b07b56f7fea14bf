//! Typed arguments: what a handler can ask for instead of the whole message.

use std::fmt;

use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use crate::failure::quoted;
use crate::{Failure, Message, json_body};

/// The error text of `serde_html_form` for a repeated name whose type is not a list.
const REPEATED: &str = "unsupported value";

/// A handler's argument: a type that can be made from a message.
#[diagnostic::on_unimplemented(
    message = "a handler cannot take an argument of type `{Self}`",
    label = "not made from a message",
    note = "a handler takes `Message`, `Json<T>`, `Query<T>`, `PartitionKey`, `String`, `Vec<u8>`, \
            `Entity`, `Option<Timer>`, `Mesh`, or a type that implements `meshage_sdk::FromMessage`; and `&mut State<T>`, or \
            `&State<T>` to read only, by reference",
    note = "for a type of your own, write `Json<{Self}>` and derive `serde::Deserialize` for it"
)]
pub trait FromMessage: Sized {
    /// Makes the argument, or refuses the message.
    ///
    /// # Errors
    /// The failure that the caller gets; the handler does not run.
    fn from_message(message: &Message) -> Result<Self, Failure>;

    /// The same for the last argument, which may move parts out of the message instead of copying
    /// them.
    ///
    /// # Errors
    /// As [`FromMessage::from_message`].
    fn from_owned(message: Message) -> Result<Self, Failure> {
        Self::from_message(&message)
    }
}

/// As an argument: the body, read as JSON (whatever its content type). As a result: a value,
/// written as JSON with the content type `application/json`.
///
/// Values are read exactly as they were sent, or the body is refused:
///
/// - **Integers** are read exactly if they fit into 64 bits, signed or not. A larger one is
///   refused, wherever it is in the body and whatever the type could hold (`u128`): have such
///   numbers sent as strings, or take `Vec<u8>` and parse it yourself. The exception is an integer
///   with exactly the digits of a 64-bit float, which is read as that float: JavaScript and Go
///   write `1e20` as `100000000000000000000`.
/// - **Floats**, which have a fraction or an exponent, are rounded to the nearest 64-bit float, as
///   in JavaScript; one out of range (`1e400`) is refused.
/// - **Nesting** is limited to 127 levels of arrays and objects; fields that the type does not have
///   do not count.
/// - Of **repeated names** in an object the last one counts, in a [`Value`](crate::Value) or a map;
///   a type with named fields refuses the second one.
/// - A **byte order mark** at the beginning is skipped. A body that is not UTF-8 is not JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

/// As an argument: the query, read as `name=value&…` into a type with named fields.
///
/// ```
/// use meshage_sdk::{FromMessage, Message, Query};
///
/// #[derive(serde::Deserialize)]
/// struct Wanted {
///     #[serde(default)]
///     ids: Vec<u32>,
///     limit: Option<u32>,
/// }
///
/// let message = Message::new("orders", "1").with_query("ids=1&ids=2&limit=");
/// let Query(wanted) = Query::<Wanted>::from_message(&message)?;
/// assert_eq!((wanted.ids, wanted.limit), (vec![1, 2], None));
/// # Ok::<(), meshage_sdk::Failure>(())
/// ```
///
/// - A **repeated name** needs a list. A list also takes a name that comes once and, with
///   `#[serde(default)]`, one that is missing.
/// - An **empty** value is `None` for an `Option` of a number or a `bool`. A `bool` is written
///   `true`, `on` or `false`.
/// - `+` is a space. A **`%`** that is not followed by two hexadecimal digits stays as it is, as in
///   the URL standard of WHATWG. A query that is not UTF-8 once it is decoded, such as `%ff`, is
///   refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Query<T>(pub T);

/// As an argument: the partition key of the message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PartitionKey(pub String);

impl PartitionKey {
    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for PartitionKey {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for PartitionKey {
    fn from(key: &str) -> Self {
        Self(key.to_owned())
    }
}

impl FromMessage for Message {
    fn from_message(message: &Message) -> Result<Self, Failure> {
        Ok(message.clone())
    }

    fn from_owned(message: Message) -> Result<Self, Failure> {
        Ok(message)
    }
}

impl<T: DeserializeOwned> FromMessage for Json<T> {
    fn from_message(message: &Message) -> Result<Self, Failure> {
        if message.body().is_empty() {
            return Err(Failure::invalid(
                "the body is empty; this handler needs JSON",
            ));
        }
        json_body::parse(message.body()).map(Self)
    }
}

impl<T: DeserializeOwned> FromMessage for Query<T> {
    fn from_message(message: &Message) -> Result<Self, Failure> {
        let query = message.query();
        // The parser would replace invalid UTF-8 by U+FFFD, which nobody sent.
        if let Some(part) = query
            .split('&')
            .find(|part| percent_decode_str(part).decode_utf8().is_err())
        {
            let part = quoted(part);
            return Err(Failure::invalid(format_args!(
                "the query's part {part} is not percent-encoded UTF-8"
            )));
        }
        serde_html_form::from_str(query).map(Self).map_err(|error| {
            match error.to_string().as_str() {
                REPEATED => Failure::invalid(
                    "the query does not fit: a name that takes one value comes more than once",
                ),
                problem => Failure::invalid(format_args!("the query does not fit: {problem}")),
            }
        })
    }
}

impl FromMessage for PartitionKey {
    fn from_message(message: &Message) -> Result<Self, Failure> {
        Ok(Self(message.partition_key().to_owned()))
    }
}

impl FromMessage for String {
    fn from_message(message: &Message) -> Result<Self, Failure> {
        Self::from_owned(message.clone())
    }

    fn from_owned(message: Message) -> Result<Self, Failure> {
        Self::from_utf8(message.into_body()).map_err(|error| {
            Failure::invalid(format_args!(
                "the body is not UTF-8 text: {}",
                error.utf8_error()
            ))
        })
    }
}

impl FromMessage for Vec<u8> {
    fn from_message(message: &Message) -> Result<Self, Failure> {
        Ok(message.body().to_vec())
    }

    fn from_owned(message: Message) -> Result<Self, Failure> {
        Ok(message.into_body())
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Order {
        amount: u32,
    }

    #[track_caller]
    fn check_invalid<T: FromMessage + std::fmt::Debug>(message: &Message, expected: &str) {
        match T::from_message(message) {
            Err(Failure::Invalid(text)) => assert!(text.contains(expected), "{text}"),
            other => panic!("expected a failure about {expected:?}, got {other:?}"),
        }
    }

    #[test]
    fn json_says_what_is_wrong_with_a_body() {
        let message = Message::new("orders", "1");
        let order =
            Json::<Order>::from_message(&message.clone().with_body(r#"{"amount":3}"#)).unwrap();
        assert_eq!(order, Json(Order { amount: 3 }));
        check_invalid::<Json<Order>>(&message, "the body is empty");
        check_invalid::<Json<Order>>(&message.clone().with_body("{"), "is not JSON");
        check_invalid::<Json<Order>>(&message.clone().with_body("{}"), "missing field `amount`");
        check_invalid::<Json<Order>>(
            &message.clone().with_body(r#"{"amount":"3"}"#),
            "does not fit",
        );
    }

    #[test]
    fn query_reads_named_values() {
        let message = Message::new("orders", "1");
        let order = Query::<Order>::from_message(&message.clone().with_query("amount=3")).unwrap();
        assert_eq!(order, Query(Order { amount: 3 }));
        check_invalid::<Query<Order>>(&message.with_query("amount=many"), "the query does not fit");
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Wanted {
        #[serde(default)]
        ids: Vec<u32>,
        text: Option<String>,
        limit: Option<u32>,
    }

    #[track_caller]
    fn check_wanted(query: &str, ids: &[u32], text: Option<&str>, limit: Option<u32>) {
        let message = Message::new("orders", "1").with_query(query);
        let wanted = Wanted {
            ids: ids.to_vec(),
            text: text.map(str::to_owned),
            limit,
        };
        assert_eq!(
            Query::from_message(&message),
            Ok(Query(wanted)),
            "for {query}"
        );
    }

    #[test]
    fn a_list_takes_a_name_however_often_it_comes() {
        check_wanted("", &[], None, None);
        check_wanted("ids=1", &[1], None, None);
        check_wanted(
            "ids=1&text=a&ids=2&other=1&other=2",
            &[1, 2],
            Some("a"),
            None,
        );
        let message = Message::new("orders", "1").with_query("ids=1&ids=2&limit=1&limit=2");
        check_invalid::<Query<Wanted>>(
            &message,
            "a name that takes one value comes more than once",
        );
        let Query(pairs) = Query::<Vec<(String, u32)>>::from_message(&message).unwrap();
        assert_eq!(pairs.len(), 4);
    }

    #[test]
    fn a_query_is_decoded_as_utf8() {
        check_wanted("text=a+b%20%C3%A9é%2B&limit=", &[], Some("a b éé+"), None);
        check_wanted("text=100%&limit=3", &[], Some("100%"), Some(3));
        check_wanted("text=%zz%2", &[], Some("%zz%2"), None);
        let message = Message::new("orders", "1");
        for part in ["text=%ff", "%C3=a", "text=%C3", "other=%ED%A0%80"] {
            let query = message.clone().with_query(format!("limit=1&{part}&ids=1"));
            check_invalid::<Query<Wanted>>(
                &query,
                &format!("the query's part `{part}` is not percent-encoded UTF-8"),
            );
        }
        let long = message.with_query(format!("text={}%ff", "é".repeat(100)));
        check_invalid::<Query<Wanted>>(&long, &format!("`text={}…`", "é".repeat(35)));
    }

    #[test]
    fn text_must_be_utf8() {
        let message = Message::new("orders", "1").with_body(vec![0xff]);
        check_invalid::<String>(&message, "not UTF-8");
        assert_eq!(Vec::<u8>::from_message(&message).unwrap(), [0xff]);
    }
}
