//! How a handler refuses a message.

use std::fmt::{self, Display};

/// Characters of the input that a failure quotes: enough to find it.
const QUOTED_CHARS_MAX: usize = 40;

/// A refusal, with a text that goes to the caller.
///
/// The constructors take anything that can be displayed, so that they fit `map_err`:
/// `value.parse::<u32>().map_err(Failure::invalid)?`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The message is wrong and will stay so. HTTP status 400.
    Invalid(String),
    /// What the message asks for does not exist. HTTP status 404.
    NotFound(String),
    /// The message does not fit the present state of the entity. HTTP status 409.
    Conflict(String),
    /// Nothing was done, and the same message may succeed later. HTTP status 503.
    Unavailable(String),
    /// The handler failed. HTTP status 500.
    Internal(String),
}

impl Failure {
    /// A [`Failure::Invalid`] with this text.
    pub fn invalid(text: impl Display) -> Self {
        Self::Invalid(text.to_string())
    }

    /// A [`Failure::NotFound`] with this text.
    pub fn not_found(text: impl Display) -> Self {
        Self::NotFound(text.to_string())
    }

    /// A [`Failure::Conflict`] with this text.
    pub fn conflict(text: impl Display) -> Self {
        Self::Conflict(text.to_string())
    }

    /// A [`Failure::Unavailable`] with this text.
    pub fn unavailable(text: impl Display) -> Self {
        Self::Unavailable(text.to_string())
    }

    /// A [`Failure::Internal`] with this text.
    pub fn internal(text: impl Display) -> Self {
        Self::Internal(text.to_string())
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, text) = match self {
            Self::Invalid(text) => ("invalid", text),
            Self::NotFound(text) => ("not found", text),
            Self::Conflict(text) => ("conflict", text),
            Self::Unavailable(text) => ("unavailable", text),
            Self::Internal(text) => ("internal", text),
        };
        write!(f, "{kind}: {text}")
    }
}

impl std::error::Error for Failure {}

/// Quotes a piece of a message in the text of a failure, truncated.
pub(crate) fn quoted(piece: &str) -> String {
    match piece.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("`{}…`", &piece[..end]),
        None => format!("`{piece}`"),
    }
}
