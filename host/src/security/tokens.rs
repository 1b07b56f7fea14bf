//! Bearer tokens (RFC 6750): a client that presents one may use the APIs.

use std::path::{Path, PathBuf};

use http::HeaderValue;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::private_file::{PrivateFileError, read_lines};

/// A shorter token could be guessed.
const TOKEN_BYTES_MIN: usize = 16;

const TOKEN_BYTES_MAX: usize = 1_024;

const SCHEME: &[u8] = b"bearer ";

/// The valid tokens as hashes, which all have the same length, so that they can be compared in
/// constant time.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens(Vec<TokenHash>);

/// The hash of a token.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct TokenHash([u8; 32]);

/// Why the tokens of a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error(transparent)]
    File(#[from] PrivateFileError),
    #[error(
        "{}, line {line}: expected a token of {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} letters, digits and signs, without spaces; \
         `meshage-host secret` makes one", .file.display()
    )]
    Line { file: PathBuf, line: usize },
    #[error("{} has no token; `meshage-host secret > FILE` makes one", .0.display())]
    Empty(PathBuf),
}

/// Does not print the tokens.
impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tokens", self.0.len())
    }
}

impl Tokens {
    /// Reads the tokens of a file: one a line. Empty lines and those that begin with `#` are
    /// skipped.
    ///
    /// # Errors
    /// What is wrong with the file, without any of its content.
    pub fn read(file: &Path) -> Result<Self, TokenError> {
        let lines = read_lines(file)?;
        let tokens = lines.into_iter().map(|(line, token)| {
            let is_good = (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len())
                && token.bytes().all(|byte| byte.is_ascii_graphic());
            if is_good {
                Ok(hash(token.as_bytes()))
            } else {
                Err(TokenError::Line {
                    file: file.to_owned(),
                    line,
                })
            }
        });
        let tokens: Vec<_> = tokens.collect::<Result<_, _>>()?;
        if tokens.is_empty() {
            return Err(TokenError::Empty(file.to_owned()));
        }
        Ok(Self(tokens))
    }

    /// The first token of a file.
    ///
    /// # Errors
    /// What is wrong with the file, without any of its content.
    pub fn first(file: &Path) -> Result<String, TokenError> {
        Self::read(file)?;
        let first = read_lines(file)?.into_iter().next();
        let (_, token) = first.ok_or_else(|| TokenError::Empty(file.to_owned()))?;
        Ok(token.to_string())
    }

    /// Whether the value of an `Authorization` header has one of these tokens. The comparison takes
    /// constant time, so that its duration reveals nothing about them.
    pub fn allow(&self, authorization: Option<&HeaderValue>) -> bool {
        let Some(value) = authorization.map(HeaderValue::as_bytes) else {
            return false;
        };
        let Some((scheme, token)) = value.split_at_checked(SCHEME.len()) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(SCHEME) && self.find(token.trim_ascii()).is_some()
    }

    /// The token that these bytes are, if they are one of these.
    pub(super) fn find(&self, token: &[u8]) -> Option<TokenHash> {
        let given = hash(token);
        self.have(&given).then_some(given)
    }

    /// Whether a token is one of these, in constant time.
    pub(super) fn have(&self, given: &TokenHash) -> bool {
        let is_it = |token: &TokenHash| token.0.ct_eq(&given.0);
        self.0
            .iter()
            .fold(Choice::from(0), |found, token| found | is_it(token))
            .into()
    }
}

fn hash(token: &[u8]) -> TokenHash {
    TokenHash(Sha256::digest(token).into())
}

#[cfg(test)]
pub(super) fn tokens(tokens: &[&str]) -> Tokens {
    Tokens(tokens.iter().map(|token| hash(token.as_bytes())).collect())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read(text: &str) -> Result<Tokens, String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tokens");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        Tokens::read(&file).map_err(|error| error.to_string())
    }

    #[test]
    fn who_has_one_of_the_tokens_is_let_in() {
        let tokens =
            read("# of the shop\nfirst-token-0123456789\nsecond-token-0123456789\n").unwrap();
        for (value, is_good) in [
            ("Bearer first-token-0123456789", true),
            ("bearer second-token-0123456789", true),
            ("Bearer  second-token-0123456789 ", true),
            ("Bearer first-token-012345678", false),
            ("Bearer first-token-01234567890", false),
            ("Bearer ", false),
            ("Bearer", false),
            ("Basic first-token-0123456789", false),
            ("first-token-0123456789", false),
        ] {
            assert_eq!(
                tokens.allow(Some(&HeaderValue::from_static(value))),
                is_good,
                "{value}"
            );
        }
        assert!(!tokens.allow(None));
    }

    #[test]
    fn what_is_no_token_is_told_by_its_line() {
        for wrong in [
            "short",
            "with a space in it 0123456789",
            "with-ümlaut-0123456789",
        ] {
            let error = read(&format!("good-token-0123456789\n{wrong}"))
                .err()
                .unwrap();
            assert!(
                error.contains("line 2: expected a token of 16 to 1024") && !error.contains(wrong),
                "{error}"
            );
        }
        assert!(read("\n#\n").err().unwrap().contains("has no token"));
    }
}
