//! Reads a body as JSON, and says what is wrong with one that cannot be read.

use std::marker::PhantomData;

use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny};

use crate::Failure;
use crate::failure::quoted;
use crate::integers::first_inexact;

/// What some editors and libraries write before a text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Nesting that `serde_json` reads: it refuses more, which could overflow the stack.
const LEVELS_MAX: usize = 127;

/// `serde_json` has no kind for this error, so it is recognized by its text.
const TOO_DEEP: &str = "recursion limit exceeded";

/// A body without its byte order mark, which RFC 8259 lets a parser ignore.
pub(crate) fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body)
}

/// Reads a body. Values are read exactly as they were sent, but for floats, which are rounded to
/// the nearest.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    parse_with(body, PhantomData)
}

/// The same with a seed, which may read into an existing value. If this fails, that value must be
/// thrown away.
pub(crate) fn parse_with<'de, S: DeserializeSeed<'de>>(
    body: &'de [u8],
    seed: S,
) -> Result<S::Value, Failure> {
    let text = without_mark(body);
    let mut json = serde_json::Deserializer::from_slice(text);
    let read = seed
        .deserialize(&mut json)
        .and_then(|value| json.end().map(|()| value));
    let value = read.map_err(|error| refusal(text, &error))?;
    // Not before: the search relies on the text being JSON.
    match first_inexact(text) {
        None => Ok(value),
        Some(number) => Err(inexact(number)),
    }
}

/// Why a text could not be read; `error` is what the parser reported first.
fn refusal(text: &[u8], error: &serde_json::Error) -> Failure {
    if let Err(fault) = check_grammar(text, error) {
        return Failure::invalid(format_args!("the body is not JSON: {fault}"));
    }
    if let Some(number) = first_inexact(text) {
        return inexact(number);
    }
    let words = error.to_string();
    if error.is_syntax() && words.starts_with(TOO_DEEP) {
        return Failure::invalid(format_args!(
            "the body is nested deeper than {LEVELS_MAX} levels"
        ));
    }
    Failure::invalid(format_args!("the body does not fit: {words}"))
}

/// Whether a text is JSON at all, or its syntax error. `error` does not tell: a value of the wrong
/// type is reported where it is, whatever follows it, and sometimes as a syntax error.
fn check_grammar(text: &[u8], error: &serde_json::Error) -> Result<(), String> {
    let text = std::str::from_utf8(text).map_err(|fault| fault.to_string())?;
    // This skips values of any depth without recursion, and numbers of any size.
    let Err(fault) = serde_json::from_str::<IgnoredAny>(text) else {
        return Ok(());
    };
    // At the same place the first error is more specific: it reports a trailing comma, for example.
    let same_place = (error.line(), error.column()) == (fault.line(), fault.column());
    let told = if same_place && !error.is_data() {
        error
    } else {
        &fault
    };
    Err(told.to_string())
}

fn inexact(number: &str) -> Failure {
    Failure::invalid(format_args!(
        "the body has the integer {}, which 64 bits do not hold and a float would change: send it as a string",
        quoted(number)
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde::Deserialize;
    use serde_json::Value;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Order {
        amount: u32,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    enum Colour {
        Red,
    }

    fn nested(levels: usize) -> String {
        "[".repeat(levels) + &"]".repeat(levels)
    }

    #[track_caller]
    fn check_invalid<T: DeserializeOwned + std::fmt::Debug>(
        body: impl AsRef<[u8]>,
        expected: &str,
    ) {
        let body = body.as_ref();
        let failure = parse::<T>(body).unwrap_err();
        assert_eq!(
            failure,
            Failure::invalid(expected),
            "for {}",
            String::from_utf8_lossy(body)
        );
    }

    #[test]
    fn what_is_no_json_is_called_so() {
        check_invalid::<Value>(
            "hello",
            "the body is not JSON: expected value at line 1 column 1",
        );
        check_invalid::<Value>(
            r#"{"a":1,}"#,
            "the body is not JSON: trailing comma at line 1 column 8",
        );
        check_invalid::<Value>(
            "{}x",
            "the body is not JSON: trailing characters at line 1 column 3",
        );
        check_invalid::<Value>(
            b"\"\xff\"",
            "the body is not JSON: invalid utf-8 sequence of 1 bytes from index 1",
        );
        check_invalid::<Value>(
            "[".repeat(200),
            "the body is not JSON: EOF while parsing a list at line 1 column 200",
        );
        // A syntax error takes precedence over a value of the wrong type.
        check_invalid::<Order>(
            r#"{"amount":"3"} x"#,
            "the body is not JSON: trailing characters at line 1 column 16",
        );
    }

    #[test]
    fn what_does_not_fit_is_json_all_the_same() {
        check_invalid::<Order>(
            "{}",
            "the body does not fit: missing field `amount` at line 1 column 2",
        );
        check_invalid::<Order>(
            format!(r#"{{"amount":"3","other":{}}}"#, nested(200)),
            "the body does not fit: invalid type: string \"3\", expected u32 at line 1 column 13",
        );
        // The parser reports these as syntax errors.
        check_invalid::<Colour>(
            "5",
            "the body does not fit: expected value at line 1 column 1",
        );
        check_invalid::<HashMap<u32, u32>>(
            r#"{"a":1}"#,
            "the body does not fit: invalid value: expected key to be a number in quotes at line 1 column 2",
        );
    }

    #[test]
    fn a_body_is_read_to_a_depth() {
        assert!(parse::<Value>(nested(127).as_bytes()).is_ok());
        check_invalid::<Value>(nested(128), "the body is nested deeper than 127 levels");
        // Fields that the type does not have may be nested deeper.
        let body = format!(r#"{{"other":{},"amount":3}}"#, nested(200));
        assert_eq!(parse(body.as_bytes()), Ok(Order { amount: 3 }));
    }

    #[test]
    fn integers_are_exact_or_refused() {
        let refused = |number: &str| {
            format!(
                "the body has the integer `{number}`, which 64 bits do not hold and a float would change: send it as \
                 a string"
            )
        };
        check_invalid::<Value>(
            r#"{"n":18446744073709551616}"#,
            &refused("18446744073709551616"),
        );
        check_invalid::<HashMap<String, f64>>(
            r#"{"n":-9223372036854775809}"#,
            &refused("-9223372036854775809"),
        );
        // The parser would report a float where an integer is expected, and a number out of range.
        check_invalid::<HashMap<String, u64>>(
            r#"{"n":18446744073709551616}"#,
            &refused("18446744073709551616"),
        );
        check_invalid::<Value>("9".repeat(400), &refused(&("9".repeat(40) + "…")));
        assert_eq!(parse(b"18446744073709551615"), Ok(u64::MAX));
        assert_eq!(parse(b"-9223372036854775808"), Ok(i64::MIN));
    }

    #[test]
    fn floats_are_the_nearest_or_refused() {
        assert_eq!(parse(b"31.245270191439438"), Ok(31.245270191439438));
        assert_eq!(parse(b"18446744073709552000"), Ok(18446744073709552000.0));
        assert_eq!(parse(b"1e-400"), Ok(0.0));
        check_invalid::<Value>(
            "1e400",
            "the body does not fit: number out of range at line 1 column 5",
        );
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        assert_eq!(
            parse("\u{feff}{\"amount\":3}".as_bytes()),
            Ok(Order { amount: 3 })
        );
        check_invalid::<Value>(
            "\u{feff}",
            "the body is not JSON: EOF while parsing a value at line 1 column 0",
        );
        check_invalid::<Value>(
            "\u{feff}\u{feff}1",
            "the body is not JSON: expected value at line 1 column 1",
        );
    }
}
