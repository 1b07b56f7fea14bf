//! The cluster secret. Its file may hold several, so that they can be rotated while the mesh runs.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::OsRng;
use chacha20poly1305::aead::rand_core::RngCore;
use hkdf::Hkdf;
use sha2::Sha256;

use super::private_file::{PrivateFileError, read_lines};

const SECRET_BYTES: usize = 32;

/// Most secrets in one file: the current one, the previous one, the next one, and a few to spare.
const SECRETS_MAX: usize = 8;

/// Separates these keys from any others that may be derived from the same secret.
const SALT: &[u8] = b"meshage 1";

/// The secrets of a mesh, at least one. The first seals; all can open.
#[derive(Clone, PartialEq, Eq)]
pub struct Keyring(Vec<Secret>);

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret([u8; SECRET_BYTES]);

/// Why the secrets of a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error(transparent)]
    File(#[from] PrivateFileError),
    #[error(
        "{}, line {line}: expected a secret, {SECRET_BYTES} bytes in base64; `meshage-host secret` makes one", .file.display()
    )]
    Line { file: PathBuf, line: usize },
    #[error("{} has no secret; `meshage-host secret > FILE` makes one", .0.display())]
    Empty(PathBuf),
    #[error("{} has more than {SECRETS_MAX} secrets; remove those that no node seals with any more", .0.display())]
    TooMany(PathBuf),
}

/// A new random secret, in the form in which a file holds it.
pub fn new_secret() -> String {
    let mut secret = [0; SECRET_BYTES];
    OsRng.fill_bytes(&mut secret);
    STANDARD.encode(secret)
}

impl Keyring {
    /// Reads the secrets of a file: one a line, in base64. Empty lines and those that begin with
    /// `#` are skipped.
    ///
    /// # Errors
    /// What is wrong with the file, without any of its content.
    pub fn read(file: &Path) -> Result<Self, SecretError> {
        Self::parse(file, read_lines(file)?)
    }

    fn parse(file: &Path, lines: Vec<(usize, String)>) -> Result<Self, SecretError> {
        let secrets = lines
            .into_iter()
            .map(|(line, text)| {
                Secret::parse(&text).ok_or(SecretError::Line {
                    file: file.to_owned(),
                    line,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        match secrets.len() {
            0 => Err(SecretError::Empty(file.to_owned())),
            1..=SECRETS_MAX => Ok(Self(secrets)),
            _ => Err(SecretError::TooMany(file.to_owned())),
        }
    }

    pub(super) fn secrets(&self) -> &[Secret] {
        &self.0
    }

    /// The number of secrets.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// Does not print the secrets.
impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyring of {}", self.0.len())
    }
}

impl Secret {
    fn parse(line: &str) -> Option<Self> {
        STANDARD.decode(line).ok()?.try_into().ok().map(Self)
    }

    /// Derives a key for one purpose in one mesh (HKDF). The key reveals nothing about the secret,
    /// nor about other keys.
    pub(super) fn derive<const BYTES: usize>(
        &self,
        purpose: &str,
        cluster_id: &str,
    ) -> [u8; BYTES] {
        let mut key = [0; BYTES];
        // The length of `purpose` goes first, so that no other pair gives the same bytes.
        let purpose_bytes = u8::try_from(purpose.len()).expect("purposes are short");
        Hkdf::<Sha256>::new(Some(SALT), &self.0)
            .expand_multi_info(
                &[&[purpose_bytes], purpose.as_bytes(), cluster_id.as_bytes()],
                &mut key,
            )
            .expect("keys are shorter than 255 hashes");
        key
    }
}

/// Distinct secrets, each made from one byte.
#[cfg(any(test, fuzzing))]
pub(crate) fn keyring(secrets: &[u8]) -> Keyring {
    Keyring(
        secrets
            .iter()
            .map(|byte| Secret([*byte; SECRET_BYTES]))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::private_file::lines;
    use super::*;

    fn parse(text: &str) -> Result<Keyring, String> {
        Keyring::parse(Path::new("file"), lines(text)).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_made_can_be_read() {
        let text = format!("# the next\n{}\n\n  {}\n", new_secret(), new_secret());
        assert_eq!(parse(&text).unwrap().count(), 2);
    }

    #[test]
    fn what_is_wrong_is_told_by_its_line() {
        let expected =
            "file, line 2: expected a secret, 32 bytes in base64; `meshage-host secret` makes one";
        for wrong in [
            "hello",
            "AAAA",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert_eq!(
                parse(&format!("\n{wrong}")).unwrap_err(),
                expected,
                "{wrong}"
            );
        }
        assert!(parse("# nothing\n").unwrap_err().contains("has no secret"));
        let many = format!("{}\n", new_secret()).repeat(SECRETS_MAX + 1);
        assert!(parse(&many).unwrap_err().contains("more than 8 secrets"));
    }

    #[test]
    fn keys_differ_by_purpose_and_mesh() {
        let secret = Secret([7; SECRET_BYTES]);
        let key: [u8; 32] = secret.derive("a", "bc");
        assert_ne!(key, secret.derive("ab", "c"));
        assert_ne!(key, secret.derive("a", "bd"));
        assert_ne!(key, Secret([8; SECRET_BYTES]).derive("a", "bc"));
        assert_eq!(key, secret.derive("a", "bc"));
    }
}
