//! A release: the bytes of a plugin as they are handed from node to node, with their name.

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::records::FileName;
use crate::background::steps;
use crate::message::ReleaseId;
use crate::plugins::source::{File, Files, ReadError, Signature, SignatureContent, SignedTerms};

/// The first bytes of a release, so that a later form can be told from this one.
const FORM: &[u8] = b"meshage release 1\n";

#[derive(Deserialize)]
struct Release<'a> {
    #[serde(borrow)]
    component: Part<'a>,
    #[serde(borrow)]
    manifest: Option<Part<'a>>,
}

#[derive(Serialize, Deserialize)]
struct Part<'a> {
    signature: Option<&'a str>,
    #[serde(borrow)]
    bytes: Raw<'a>,
}

/// Bytes that are copied at once: serde would take them one by one.
#[derive(Deserialize)]
#[serde(transparent)]
struct Raw<'a>(&'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Files that are no release; whether they can never be one.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) is_lasting: bool,
}

/// The release that these files are.
///
/// # Errors
/// They are none, which whoever loads them says better.
pub(super) fn pack(files: &Files) -> Result<(FileName, Vec<Bytes>), Unpacked> {
    let manifest = match &files.manifest {
        None => None,
        Some(Ok(file)) => Some(part(file)?),
        Some(Err(error)) => {
            let is_lasting = error.is_lasting;
            return Err(Unpacked { is_lasting });
        }
    };
    let component = &files.component.bytes;
    let signature = part(&files.component)?.signature;
    // A `Release` without a copy of its component: what postcard writes before it, and after it.
    let before = postcard::to_extend(&(signature, component.len()), FORM.to_vec());
    let after = postcard::to_stdvec(&manifest);
    let (Ok(before), Ok(after)) = (before, after) else {
        return Err(Unpacked { is_lasting: true });
    };
    let (mut of_release, mut of_component) = (Sha256::new_with_prefix(&before), Sha256::new());
    for step in steps(component) {
        of_release.update(step);
        of_component.update(step);
    }
    of_release.update(&after);
    of_component.update(signature.unwrap_or_default());
    let name = FileName {
        release: name_of(of_release),
        component: name_of(of_component),
    };
    Ok((name, vec![before.into(), component.clone(), after.into()]))
}

fn part(file: &File) -> Result<Part<'_>, Unpacked> {
    let signature = match &file.signature.content {
        SignatureContent::NotRead | SignatureContent::Missing => None,
        SignatureContent::TooLong => return Err(Unpacked { is_lasting: true }),
        SignatureContent::Text(text) => Some(text.as_str()),
    };
    Ok(Part {
        signature,
        bytes: Raw(&file.bytes),
    })
}

/// The files of a release; `origin` says where it is from, in texts.
pub(super) fn unpack(packed: &Bytes, origin: &str) -> Result<Files, ReadError> {
    let release = packed
        .strip_prefix(FORM)
        .and_then(|bytes| postcard::from_bytes::<Release<'_>>(bytes).ok());
    let Some(Release {
        component,
        manifest,
    }) = release
    else {
        return Err(ReadError {
            text: format!("{origin} is in a form that this version of meshage does not know"),
            is_lasting: true,
        });
    };
    let of_manifest = format!("the manifest of {origin}");
    Ok(Files {
        component: file(packed, component, origin),
        manifest: manifest.map(|manifest| Ok(file(packed, manifest, &of_manifest))),
        signed: SignedTerms::Any,
    })
}

fn file(release: &Bytes, part: Part<'_>, origin: &str) -> File {
    let content = match part.signature {
        None => SignatureContent::Missing,
        Some(text) => SignatureContent::Text(text.to_owned()),
    };
    File {
        origin: origin.to_owned(),
        bytes: release.slice_ref(part.bytes.0),
        signature: Signature {
            origin: format!("the signature of {origin}"),
            content,
        },
    }
}

/// What bytes are called. It blocks.
pub(super) fn name(bytes: &[u8]) -> ReleaseId {
    let mut hash = Sha256::new();
    steps(bytes).for_each(|step| hash.update(step));
    name_of(hash)
}

pub(super) fn name_of(bytes: Sha256) -> ReleaseId {
    ReleaseId(bytes.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(component: &[u8], manifest: Option<&str>, signature: Option<&str>) -> Files {
        let file = |bytes: &[u8]| File {
            origin: "a file".into(),
            bytes: bytes.to_vec().into(),
            signature: Signature {
                origin: "a signature".into(),
                content: signature.map_or(SignatureContent::Missing, |text| {
                    SignatureContent::Text(text.into())
                }),
            },
        };
        Files {
            component: file(component),
            manifest: manifest.map(|text| Ok(file(text.as_bytes()))),
            signed: SignedTerms::Any,
        }
    }

    #[test]
    fn a_release_has_all_files_and_its_name_says_which() {
        let all = [
            files(b"one", None, None),
            files(b"two", None, None),
            files(b"one", Some(""), None),
            files(b"one", Some("queue = 1"), None),
            files(b"one", None, Some("signed")),
        ];
        let mut names = Vec::new();
        for files in &all {
            let (named, parts) = pack(files).unwrap();
            let bytes = parts.concat();
            assert_eq!(name(&bytes), named.release);
            assert_eq!(
                pack(&unpack(&bytes.into(), "it").unwrap()).unwrap().0,
                named
            );
            names.push(named.release);
        }
        let component = |files| pack(files).unwrap().0.component;
        assert_eq!(component(&all[0]), component(&all[2]));
        assert_ne!(component(&all[0]), component(&all[4]));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn what_is_no_release_is_told() {
        let (_, parts) = pack(&files(b"one", None, None)).unwrap();
        let bytes = parts.concat();
        for wrong in [
            &bytes[1..],
            &bytes[..bytes.len() - 1],
            b"meshage release 2\n",
            b"",
        ] {
            let Err(error) = unpack(&Bytes::copy_from_slice(wrong), "the release") else {
                panic!("{wrong:?}");
            };
            assert!(error.text.starts_with("the release"), "{error}");
        }
    }
}
