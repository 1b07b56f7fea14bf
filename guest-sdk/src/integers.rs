//! Finds an integer in a JSON text that parsing would change: it does not fit into 64 bits, and as
//! a float it has other digits. Ignores the type that is parsed into, and assumes that the text is
//! JSON.

/// Integers of fewer digits fit into 64 bits, with or without a sign.
const DIGITS_MIN: usize = 19;

/// The first integer that parsing would change.
///
/// A text without a run of `DIGITS_MIN` digits costs a look at every 19th byte; others are scanned
/// once, token by token.
pub(crate) fn first_inexact(json: &[u8]) -> Option<&str> {
    if has_long_run(json) {
        numbers(json).find(|number| is_inexact(number))
    } else {
        None
    }
}

/// Whether the text has a run of at least `DIGITS_MIN` digits. Every such run includes one of the
/// bytes that are looked at.
fn has_long_run(json: &[u8]) -> bool {
    let mut looked_at = (DIGITS_MIN - 1..json.len()).step_by(DIGITS_MIN);
    looked_at.any(|at| {
        let (before, after) = json.split_at(at);
        let first = digits(after.iter());
        first > 0 && first + digits(before.iter().rev()) >= DIGITS_MIN
    })
}

fn digits<'a>(bytes: impl Iterator<Item = &'a u8>) -> usize {
    bytes.take_while(|byte| byte.is_ascii_digit()).count()
}

/// All numbers of a text, as they are written. Digits in strings do not count.
fn numbers(json: &[u8]) -> impl Iterator<Item = &str> {
    let mut rest = json;
    std::iter::from_fn(move || {
        loop {
            let start = rest
                .iter()
                .position(|byte| matches!(byte, b'"' | b'-' | b'0'..=b'9'))?;
            let token = &rest[start..];
            if token[0] == b'"' {
                rest = after_string(token);
                continue;
            }
            let is_end =
                |byte: &u8| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
            let (number, after) =
                token.split_at(token.iter().position(is_end).unwrap_or(token.len()));
            rest = after;
            return std::str::from_utf8(number).ok();
        }
    })
}

/// The rest of a text after the string that it begins with.
fn after_string(json: &[u8]) -> &[u8] {
    let mut at = 1;
    loop {
        match json.get(at) {
            Some(b'"') => return &json[at + 1..],
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
            None => return &[],
        }
    }
}

/// Whether parsing would change the number. An integer with exactly the digits of a float is taken
/// as that float: JavaScript and Go write floats below 1e21 without an exponent.
fn is_inexact(number: &str) -> bool {
    let is_integer = !number.contains(['.', 'e', 'E']);
    let fits = || number.parse::<u64>().is_ok() || number.parse::<i64>().is_ok();
    let is_float = || {
        number
            .parse::<f64>()
            .is_ok_and(|float| float.to_string() == number)
    };
    is_integer && !fits() && !is_float()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expected: Option<&str>) {
        assert_eq!(first_inexact(json.as_bytes()), expected, "in {json}");
    }

    #[test]
    fn integers_of_64_bits_are_exact() {
        for number in [
            "0",
            "-0",
            "9007199254740993",
            "9999999999999999999",
            "18446744073709551615",
            "-9223372036854775808",
            "[18446744073709551615,-9223372036854775808]",
        ] {
            check(number, None);
        }
    }

    #[test]
    fn integers_beyond_64_bits_are_found() {
        let long = "1".repeat(400);
        for number in [
            "18446744073709551616",
            "-9223372036854775809",
            "100000000000000000001",
            long.as_str(),
        ] {
            check(number, Some(number));
            check(&format!(r#"{{"a":[1,{number}, 3]}}"#), Some(number));
        }
        check(
            "[1e2,18446744073709551617,18446744073709551618]",
            Some("18446744073709551617"),
        );
    }

    #[test]
    fn a_run_is_found_wherever_it_begins() {
        for spaces in 0..2 * DIGITS_MIN {
            let json = format!("{}-9223372036854775809]", " ".repeat(spaces));
            check(&json, Some("-9223372036854775809"));
        }
        assert!(!has_long_run(
            b"[1234567890,123456789012345678,123456789012345678]"
        ));
    }

    #[test]
    fn floats_are_floats_however_they_are_written() {
        for number in [
            "18446744073709551616.0",
            "18446744073709551616e0",
            "0.12345678901234567890123",
            "1E-1234567890123456789012",
            // As JavaScript and Go write 2^64, 1e20, 6e20 and -2^63.
            "18446744073709552000",
            "100000000000000000000",
            "600000000000000000000",
            "-9223372036854776000",
        ] {
            check(number, None);
        }
    }

    #[test]
    fn digits_in_strings_are_no_number() {
        check(
            r#"{"12345678901234567890123":"12345678901234567890123"}"#,
            None,
        );
        check(
            r#"["\"12345678901234567890123","\\",12345678901234567890123]"#,
            Some("12345678901234567890123"),
        );
        // A truncated text is not JSON, and still must not panic.
        check(r#"["12345678901234567890123\"#, None);
    }
}
