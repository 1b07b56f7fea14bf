//! Strays: files in the directory that are not used, although their names show that they were meant
//! as part of a plugin. Other files (texts, backups, sources, hidden files) are ignored. Pure:
//! names and times in, findings out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::stamp::FileStamp;

/// A stray is logged after this time: a manifest may come before its component, and tools write in
/// several steps.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// Directory entries by name.
pub(super) type Entries = BTreeMap<String, EntryKind>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// A file, or something that can be told from a file only by opening it.
    File,
    Directory,
    /// A broken link, with its target.
    Nowhere(PathBuf),
}

/// An entry of the directory that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    pub name: String,
    pub unused: Unused,
    pub(super) stamp: FileStamp,
}

/// Why it is not used, and how to fix that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unused {
    #[error("it is not loaded, as a component is a file <stream>.wasm; name it {0}")]
    ComponentName(String),
    #[error("it is not read, as a manifest is a file <stream>.toml; name it {0}")]
    ManifestName(String),
    #[error("there is no {0}, whose manifest it would be")]
    NoComponent(String),
    #[error("it is a directory; a component is a file, or a link to one")]
    Directory,
    #[error("it is a link to {}, where there is nothing", .0.display())]
    Nowhere(PathBuf),
}

impl Stray {
    /// Whether it was meant as a component, so that a plugin is missing; otherwise as a manifest.
    pub fn is_component(&self) -> bool {
        component_stem(&self.name).is_some()
    }

    /// Whether it seems to be the manifest of this component.
    pub fn is_manifest_of(&self, component: &str) -> bool {
        let Some(stream) = component_stem(component) else {
            return false;
        };
        let manifest = format!("{stream}.toml");
        match &self.unused {
            Unused::ManifestName(right) => *right == manifest,
            Unused::Nowhere(_) => self.name == manifest,
            Unused::ComponentName(_) | Unused::NoComponent(_) | Unused::Directory => false,
        }
    }
}

/// Whether a name looks as if it was meant as part of a plugin.
pub(super) fn is_meant(name: &str) -> bool {
    !name.starts_with('.') && (component_stem(name).is_some() || manifest_stem(name).is_some())
}

/// The strays among all entries that were meant as part of a plugin.
pub(super) fn find(entries: &Entries) -> BTreeMap<String, Unused> {
    let strays = entries
        .iter()
        .filter_map(|(name, target)| Some((name.clone(), why_unused(name, target, entries)?)));
    strays.collect()
}

fn why_unused(name: &str, target: &EntryKind, entries: &Entries) -> Option<Unused> {
    if let Some(stem) = component_stem(name) {
        let right = format!("{stem}.wasm");
        return match target {
            EntryKind::Directory => (name == right).then_some(Unused::Directory),
            _ if name != right => Some(Unused::ComponentName(right)),
            EntryKind::Nowhere(to) => Some(Unused::Nowhere(to.clone())),
            EntryKind::File => None,
        };
    }
    let stem = manifest_stem(name)?;
    let component = format!("{stem}.wasm");
    let has_component = entries.contains_key(&component);
    // A stream may be called `a.wasm`, and then `a.wasm.toml` is right.
    let stream = component_stem(stem)
        .filter(|_| !has_component)
        .unwrap_or(stem);
    let right = format!("{stream}.toml");
    match target {
        EntryKind::Directory => None,
        _ if name != right => Some(Unused::ManifestName(right)),
        EntryKind::Nowhere(to) if has_component => Some(Unused::Nowhere(to.clone())),
        // If the component is a stray itself, only the component is reported.
        _ if entries
            .keys()
            .any(|other| component_stem(other) == Some(stem)) =>
        {
            None
        }
        _ => Some(Unused::NoComponent(component)),
    }
}

/// The name without a component's extension, in any case.
fn component_stem(name: &str) -> Option<&str> {
    stem(name, "wasm")
}

fn manifest_stem(name: &str) -> Option<&str> {
    stem(name, "toml")
}

fn stem<'a>(name: &'a str, expected: &str) -> Option<&'a str> {
    let (stem, extension) = name.rsplit_once('.')?;
    extension.eq_ignore_ascii_case(expected).then_some(stem)
}

/// The present strays, and which of them have been reported.
#[derive(Default)]
pub(super) struct Strays(BTreeMap<String, Standing>);

struct Standing {
    stray: Stray,
    since: Instant,
    is_told: bool,
}

impl Strays {
    /// Takes the strays of a scan, and returns those to report now: each stray once, and again when
    /// it changes.
    pub(super) fn observe(&mut self, now: Instant, found: Vec<Stray>) -> Vec<Stray> {
        let mut before = std::mem::take(&mut self.0);
        let mut told = Vec::new();
        for stray in found {
            let standing = before
                .remove(&stray.name)
                .filter(|standing| standing.stray == stray);
            let mut standing = standing.unwrap_or(Standing {
                stray,
                since: now,
                is_told: false,
            });
            if !standing.is_told && now >= standing.since + TOLD_AFTER {
                standing.is_told = true;
                told.push(standing.stray.clone());
            }
            self.0.insert(standing.stray.name.clone(), standing);
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reports for these names: a name with a slash is a directory, one with an arrow a broken
    /// link.
    fn said(names: &str) -> Vec<String> {
        let mut entries = Entries::new();
        for name in names.split(", ") {
            let (name, target) = match (name.strip_suffix('/'), name.split_once(" -> ")) {
                (Some(name), _) => (name, EntryKind::Directory),
                (_, Some((name, to))) => (name, EntryKind::Nowhere(to.into())),
                _ => (name, EntryKind::File),
            };
            if is_meant(name) {
                entries.insert(name.to_owned(), target);
            }
        }
        find(&entries)
            .into_iter()
            .map(|(name, unused)| format!("{name}: {unused}"))
            .collect()
    }

    #[test]
    fn what_is_used_or_not_meant_is_silent() {
        for names in [
            "echo.wasm, echo.toml, echo.wasm.minisig, bare.wasm",
            "README.md, echo.wasm.new, echo.toml~, #echo.toml#, toml, wasm",
            ".hidden.toml, .wasm, ..data/, echo/, orders/, notes.toml/",
            // A stream named `a.wasm`, with its manifest.
            "a.wasm.wasm, a.wasm.toml",
        ] {
            assert_eq!(said(names), [""; 0], "{names}");
        }
    }

    #[test]
    fn what_is_meant_and_not_used_says_what_would_be_right() {
        let manifest = "it is not read, as a manifest is a file <stream>.toml; name it a.toml";
        for (names, stray, expected) in [
            (
                "tpyo.toml",
                "tpyo.toml",
                "there is no tpyo.wasm, whose manifest it would be",
            ),
            ("a.wasm, a.wasm.toml", "a.wasm.toml", manifest),
            ("a.wasm, a.Toml", "a.Toml", manifest),
            (
                "a.WASM, a.toml",
                "a.WASM",
                "it is not loaded, as a component is a file <stream>.wasm; name it a.wasm",
            ),
            (
                "a.wasm -> /b/a.wasm",
                "a.wasm",
                "it is a link to /b/a.wasm, where there is nothing",
            ),
            (
                "a.wasm, a.toml -> b",
                "a.toml",
                "it is a link to b, where there is nothing",
            ),
            (
                "a.wasm/, a.toml",
                "a.wasm",
                "it is a directory; a component is a file, or a link to one",
            ),
        ] {
            assert_eq!(said(names), [format!("{stray}: {expected}")]);
        }
    }

    #[test]
    fn a_component_knows_what_seems_to_be_its_manifest() {
        let stray = |name: &str, unused| Stray {
            name: name.into(),
            unused,
            stamp: FileStamp::test(1),
        };
        assert!(
            stray("a.wasm.toml", Unused::ManifestName("a.toml".into())).is_manifest_of("a.wasm")
        );
        assert!(stray("a.toml", Unused::Nowhere("b".into())).is_manifest_of("a.wasm"));
        assert!(!stray("b.toml", Unused::NoComponent("b.wasm".into())).is_manifest_of("a.wasm"));
        assert!(!stray("a.wasm", Unused::Nowhere("b".into())).is_manifest_of("a.wasm"));
        assert!(!stray("a.toml", Unused::Nowhere("b".into())).is_manifest_of("a.toml"));
    }

    #[test]
    fn a_stray_is_told_once_when_it_stays_and_again_when_it_changes() {
        let (mut strays, start) = (Strays::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let found = |bytes| {
            let unused = Unused::NoComponent("a.wasm".into());
            vec![Stray {
                name: "a.toml".into(),
                unused,
                stamp: FileStamp::test(bytes),
            }]
        };
        assert_eq!(strays.observe(at(0), found(1)), []);
        assert_eq!(strays.observe(at(999), found(1)), []);
        assert_eq!(strays.observe(at(1_000), found(1)), found(1));
        assert_eq!(strays.observe(at(9_000), found(1)), []);
        assert_eq!(strays.observe(at(10_000), found(2)), []);
        assert_eq!(strays.observe(at(11_000), found(2)), found(2));
        // Its component was added, and removed again.
        assert_eq!(strays.observe(at(12_000), Vec::new()), []);
        assert_eq!(strays.observe(at(13_000), found(2)), []);
        assert_eq!(strays.observe(at(14_000), found(2)), found(2));
    }
}
