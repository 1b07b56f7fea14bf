//! Where plugins come from: a source says which there are, in which versions, and yields their
//! bytes. `look` and `read` may block, and are called only on threads that may; the rest must not.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::sync::Notify;

/// A place that holds plugins. Displayed, it is where that is.
pub trait Source: fmt::Display + Send + Sync + 'static {
    /// Which plugins there are now. Not called while another call of it runs.
    ///
    /// # Errors
    /// If the source cannot be read: that says nothing of its plugins.
    fn look(&self) -> io::Result<Found>;

    /// The bytes of a plugin, with signatures if `signed`, and the version that they are of.
    fn read(&self, name: &str, signed: bool) -> (Option<Version>, Result<Files, ReadError>);

    /// How texts name what a plugin is made of.
    fn origin(&self, name: &str) -> String;

    /// Notified when plugins may have changed. Notifications may be lost.
    fn changed(&self) -> Arc<Notify>;

    /// Logs something that happens to the source itself.
    fn log(&self, event: SourceEvent<'_>);
}

/// The plugins of a source by name.
pub(super) type Found = BTreeMap<String, Version>;

/// What happens to a source.
pub enum SourceEvent<'a> {
    /// It has notified of a change.
    Changed,
    /// A look at it hangs.
    Silent,
    /// It cannot be read any more.
    Unreadable(&'a io::Error),
    StillUnreadable(&'a io::Error),
    /// It can be read again.
    Readable,
}

/// One state of a plugin's bytes. However they are replaced, their version is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    pub id: u64,
    pub has_manifest: bool,
}

/// What a plugin is made of.
pub struct Files {
    pub component: File,
    /// `None`: there is none.
    pub manifest: Option<Result<File, ReadError>>,
}

/// A file, or what is one in effect.
pub struct File {
    /// How texts name it.
    pub origin: String,
    pub bytes: Vec<u8>,
    pub signature: Signature,
}

/// The signature of a file.
pub struct Signature {
    /// How texts name it.
    pub origin: String,
    pub content: SignatureContent,
}

pub enum SignatureContent {
    /// It was not asked for.
    NotRead,
    Missing,
    /// It is longer than any signature.
    TooLong,
    Text(String),
}

/// Why the bytes of a plugin cannot be had.
#[derive(Debug)]
pub struct ReadError {
    /// With what it is about.
    pub text: String,
    /// Whether it stays so as long as the version is what it is.
    pub is_lasting: bool,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ReadError {}
