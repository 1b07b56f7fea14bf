//! Where plugins come from: a source lists its plugins with their versions, and reads their bytes.
//! `look` and `read` may block, so they are called only on blocking threads; the other functions
//! must not block.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// A place that holds plugins. It displays as its location.
pub trait Source: fmt::Display + Send + Sync + 'static {
    /// The plugins that there are now. Never called concurrently.
    ///
    /// # Errors
    /// If the source cannot be read, which says nothing about its plugins.
    fn look(&self) -> io::Result<Found>;

    /// The bytes of a plugin, with signatures if `signed`, and the version that they belong to.
    fn read(&self, name: &str, signed: bool) -> (Option<Version>, Result<Files, ReadError>);

    /// Where a plugin comes from, for texts.
    fn origin(&self, name: &str) -> String;

    /// Notified when plugins may have changed. Notifications may be lost.
    fn changed(&self) -> Arc<Notify>;

    /// A version has been loaded, or failed to; another one may be current by now.
    fn loaded(
        &self,
        _name: &str,
        _version: Version,
        _result: Result<Option<SignedVersions>, &str>,
    ) {
    }

    /// Logs an event of the source itself.
    fn log(&self, event: SourceEvent<'_>);
}

/// The plugins of a source by name.
pub(super) type Found = BTreeMap<String, Version>;

/// An event of a source.
pub enum SourceEvent<'a> {
    /// It has reported a change.
    Changed,
    /// A scan of it hangs.
    Silent,
    /// It cannot be read any more.
    Unreadable(&'a io::Error),
    StillUnreadable(&'a io::Error),
    /// It can be read again.
    Readable,
}

/// One state of a plugin's bytes. Every replacement, by whatever means, has another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    pub id: u64,
    pub has_manifest: bool,
    /// Nobody is still writing it, so that it need not be seen for a while first.
    pub is_whole: bool,
}

/// The files of a plugin.
pub struct Files {
    pub component: File,
    /// `None`: the plugin has no manifest.
    pub manifest: Option<Result<File, ReadError>>,
    pub signed: SignedTerms,
}

/// What signatures must say, where they are required.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignedTerms {
    /// Any signature by a trusted key will do.
    Any,
    /// They name the stream and a version that is not lower than this.
    AtLeast(SignedVersions),
}

/// The versions that the signatures of a plugin's files name.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedVersions {
    pub component: u64,
    /// 0 without a manifest.
    pub manifest: u64,
}

/// A file, or an equivalent of one in another kind of source.
pub struct File {
    /// Its location, for texts.
    pub origin: String,
    pub bytes: Bytes,
    pub signature: Signature,
}

/// The signature of a file.
pub struct Signature {
    /// Its location, for texts.
    pub origin: String,
    pub content: SignatureContent,
}

pub enum SignatureContent {
    /// It was not requested.
    NotRead,
    Missing,
    /// It is longer than any valid signature.
    TooLong,
    Text(String),
}

/// Why the bytes of a plugin could not be read.
#[derive(Debug)]
pub struct ReadError {
    /// Names the file.
    pub text: String,
    /// Whether the error is permanent until the version changes.
    pub is_lasting: bool,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ReadError {}
