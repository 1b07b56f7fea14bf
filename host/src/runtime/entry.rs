//! One key of a manifest with its value: reads values, and makes the errors for wrong ones. Knows
//! no particular keys.

use toml::Value;

/// Why a manifest is invalid, and what would be valid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("it is not TOML: line {line}: {problem}")]
    Toml { line: usize, problem: String },
    #[error("unknown key {key:?}; the keys are {keys}")]
    Key { key: String, keys: String },
    #[error("{key} = {value}: expected {expected}")]
    Value {
        key: String,
        value: String,
        expected: String,
    },
}

/// A key with its value.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    key: &'a str,
    value: &'a Value,
}

impl<'a> Entry<'a> {
    pub(super) fn new(key: &'a str, value: &'a Value) -> Self {
        Self { key, value }
    }

    pub(super) fn key(&self) -> &'a str {
        self.key
    }

    /// The error for this value, or for a value inside it.
    pub(super) fn error(&self, value: &Value, expected: impl Into<String>) -> ManifestError {
        ManifestError::Value {
            key: self.key.to_owned(),
            value: one_line(value),
            expected: expected.into(),
        }
    }

    pub(super) fn integer(&self, min: u64, max: u64, unit: &str) -> Result<u64, ManifestError> {
        let number = self.value.as_integer();
        number
            .and_then(|number| u64::try_from(number).ok())
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| {
                let expected = format!("a whole number of {unit}, from {min} to {max}");
                self.error(self.value, expected)
            })
    }

    pub(super) fn boolean(&self) -> Result<bool, ManifestError> {
        self.value
            .as_bool()
            .ok_or_else(|| self.error(self.value, "true or false"))
    }

    /// Whether the text is the first of two allowed texts; any other text is an error.
    pub(super) fn is_first_of(&self, [first, second]: [&str; 2]) -> Result<bool, ManifestError> {
        match self.value.as_str() {
            Some(text) if text == first => Ok(true),
            Some(text) if text == second => Ok(false),
            _ => Err(self.error(self.value, format!("{second:?} or {first:?}"))),
        }
    }

    /// A list of texts. `read` parses each, or returns what it expected.
    pub(super) fn list<T>(
        &self,
        expected: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ManifestError> {
        let values = self.value.as_array();
        let values = values.ok_or_else(|| self.error(self.value, expected))?;
        values
            .iter()
            .map(|value| {
                let text = value.as_str().ok_or_else(|| self.error(value, expected))?;
                read(text).map_err(|expected| self.error(value, expected))
            })
            .collect()
    }

    /// A table of texts by name. The check functions return what they expected if a text or a name
    /// is invalid.
    pub(super) fn table(
        &self,
        expected: &str,
        check_text: impl Fn(&str) -> Result<(), &'static str>,
        check_name: impl Fn(&str) -> Result<(), &'static str>,
    ) -> Result<Vec<(String, String)>, ManifestError> {
        let table = self.value.as_table();
        let table = table.ok_or_else(|| self.error(self.value, expected))?;
        table
            .iter()
            .map(|(name, value)| {
                let key = format!("{}.{name}", self.key);
                let named = Entry::new(&key, value);
                let text = value.as_str().unwrap_or_default();
                let check = match value {
                    Value::String(_) => check_text(text).and_then(|()| check_name(name)),
                    _ => Err("a text, such as \"hello\""),
                };
                check.map_err(|expected| named.error(value, expected))?;
                Ok((name.clone(), text.to_owned()))
            })
            .collect()
    }
}

/// A value in TOML notation, on one line.
fn one_line(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string().replace('\n', "\\n"),
    }
}
