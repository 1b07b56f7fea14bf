//! Escapes characters of log lines that could deceive a reader, as strangers choose parts of some
//! lines. Pure.

use std::borrow::Cow;
use std::fmt::Write;

/// The format of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Printable {
    /// For a terminal with colours. The escape characters are the log's own: `tracing-subscriber`
    /// has already escaped those in text from others.
    ColouredText,
    Text,
    Json,
}

impl Printable {
    /// The line, with everything escaped that controls a terminal or changes the direction of text.
    pub(super) fn of(self, line: &str) -> Cow<'_, str> {
        if !line.chars().any(|letter| self.deceives(letter)) {
            return Cow::Borrowed(line);
        }
        let mut printable = String::with_capacity(line.len() + 16);
        for letter in line.chars() {
            if !self.deceives(letter) {
                printable.push(letter);
            } else if self == Self::Json {
                // All characters that match have four hexadecimal digits at most.
                let _ = write!(printable, "\\u{:04x}", u32::from(letter));
            } else {
                printable.extend(letter.escape_default());
            }
        }
        Cow::Owned(printable)
    }

    /// Control characters, and Unicode characters that change the direction of text (UTR 36,
    /// section 2.6) or begin a new line.
    fn deceives(self, letter: char) -> bool {
        match letter {
            '\n' => false,
            '\u{1b}' => self != Self::ColouredText,
            '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => true,
            letter => letter.is_control(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_deceives_is_escaped() {
        let line = "a\0b\u{1b}[31m\r\u{7f}\u{9b}c\u{202e}d\u{2066}ü\n";
        assert_eq!(
            Printable::Text.of(line),
            "a\\u{0}b\\u{1b}[31m\\r\\u{7f}\\u{9b}c\\u{202e}d\\u{2066}ü\n"
        );
        assert_eq!(
            Printable::ColouredText.of("\u{1b}[31mred\u{202e}"),
            "\u{1b}[31mred\\u{202e}"
        );
        let json = format!("{{\"text\":\"{}\"}}\n", "\u{7f}\u{202e}");
        let escaped = Printable::Json.of(&json);
        assert!(escaped.is_ascii());
        let value: serde_json::Value = serde_json::from_str(&escaped).unwrap();
        assert_eq!(value["text"], "\u{7f}\u{202e}");
    }

    #[test]
    fn other_lines_stay_as_they_are() {
        assert!(matches!(
            Printable::Text.of("ü 🦀 \"\\n\"\n"),
            Cow::Borrowed(_)
        ));
    }
}
