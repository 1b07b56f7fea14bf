//! Signatures of plugins in minisign's format: only plugins signed with a trusted key are loaded.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minisign_verify::{Error, PublicKey, Signature};

use crate::background::steps;
use crate::setting_file;

/// minisign's public key files begin with a line that starts like this.
const COMMENT: &str = "untrusted comment:";

/// Public keys whose signatures are accepted.
#[derive(Clone)]
pub struct TrustedKeys {
    keys: Arc<[PublicKey]>,
    /// The keys as text, which errors show to help find the right one.
    shown: Arc<str>,
}

/// Why the keys of a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustedKeysError {
    #[error("{} cannot be read: {}", .0.display(), .1)]
    Read(PathBuf, io::Error),
    #[error("{}, line {line}: expected a public key of minisign, such as RWQ…, one a line", .file.display())]
    Line { file: PathBuf, line: usize },
    #[error("{} has no public key of minisign; `minisign -G` makes one, and `minisign -R` shows it again", .0.display())]
    Empty(PathBuf),
}

/// Why a signature is not accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("it is not a signature of minisign; make it with `minisign -S`")]
    NoSignature,
    #[error("it was made with a key that is not trusted; expected one of {0} (--trusted-keys)")]
    UnknownKey(Arc<str>),
    #[error(
        "it does not fit the file, which was changed after it was signed: sign it again with `minisign -S`"
    )]
    Mismatch,
}

/// What a signature says of the file, in its trusted comment: `stream:NAME version:NUMBER`; without them `file:NAME.wasm` and
/// `timestamp:SECONDS`, which minisign writes by itself.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct SignedAs {
    pub stream: Option<String>,
    pub version: Option<u64>,
}

impl SignedAs {
    fn read(comment: &str) -> Self {
        let field = |name: &str| {
            let mut words = comment.split_whitespace();
            words.find_map(|word| word.strip_prefix(name)?.strip_prefix(':'))
        };
        let file = || Path::new(field("file")?).file_stem()?.to_str();
        let version = field("version").or_else(|| field("timestamp"));
        Self {
            stream: field("stream").or_else(file).map(str::to_owned),
            version: version.and_then(|version| version.parse().ok()),
        }
    }
}

impl std::fmt::Debug for TrustedKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

impl TrustedKeys {
    /// Reads the keys of a file: one a line, or a public key file of minisign.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn read(file: &Path) -> Result<Self, TrustedKeysError> {
        let text = setting_file::text_of(file)
            .map_err(|error| TrustedKeysError::Read(file.to_owned(), error))?;
        Self::parse(file, &text)
    }

    fn parse(file: &Path, text: &str) -> Result<Self, TrustedKeysError> {
        let lines = (1..).zip(text.lines().map(str::trim));
        let lines: Vec<(usize, &str)> = lines
            .filter(|(_, line)| {
                !line.is_empty() && !line.starts_with('#') && !line.starts_with(COMMENT)
            })
            .collect();
        let keys = lines
            .iter()
            .map(|(line, text)| {
                let wrong = |_| TrustedKeysError::Line {
                    file: file.to_owned(),
                    line: *line,
                };
                PublicKey::from_base64(text).map_err(wrong)
            })
            .collect::<Result<Arc<[_]>, _>>()?;
        if keys.is_empty() {
            return Err(TrustedKeysError::Empty(file.to_owned()));
        }
        let shown: Vec<&str> = lines.iter().map(|(_, text)| *text).collect();
        Ok(Self {
            keys,
            shown: shown.join(", ").into(),
        })
    }

    /// Checks that this is a signature of the content by a trusted key.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self, content: &[u8], signature: &str) -> Result<SignedAs, SignatureError> {
        let signature = Signature::decode(signature).map_err(|_| SignatureError::NoSignature)?;
        let mut why = SignatureError::UnknownKey(self.shown.clone());
        for key in &*self.keys {
            let verified = key.verify_stream(&signature).and_then(|mut verifier| {
                steps(content).for_each(|step| verifier.update(step));
                verifier.finalize()
            });
            let verified = match verified {
                // Legacy signatures, of the content and not of its hash, are as good.
                Err(Error::UnsupportedLegacyMode) => key.verify(content, &signature, true),
                verified => verified,
            };
            match verified {
                Ok(()) => return Ok(SignedAs::read(signature.trusted_comment())),
                Err(Error::UnexpectedKeyId) => {}
                Err(_) => why = SignatureError::Mismatch,
            }
        }
        Err(why)
    }
}
