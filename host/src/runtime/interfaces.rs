//! Interfaces of components: their names and versions, and which versions are compatible. Pure.

use semver::Version;

/// Some interfaces of one WIT package, in this host's version.
pub(super) struct Package {
    /// As `namespace:name`.
    pub(super) name: &'static str,
    pub(super) interfaces: &'static [&'static str],
    pub(super) version: Version,
    /// The name of a WASI package in error texts; `None` for others.
    pub(super) wasi_title: Option<&'static str>,
}

pub(super) const MESH: &str = "meshage:mesh";
pub(super) const MESH_VERSION: Version = Version::new(0, 1, 0);
const WASI_VERSION: Version = Version::new(0, 2, 12);

impl Package {
    /// Interfaces of `meshage:mesh`.
    pub(super) const fn mesh(interfaces: &'static [&'static str]) -> Self {
        Self {
            name: MESH,
            interfaces,
            version: MESH_VERSION,
            wasi_title: None,
        }
    }

    /// Interfaces of a WASI 0.2 package. `wasi_title` is its name in error texts.
    pub(super) const fn wasi(
        name: &'static str,
        wasi_title: &'static str,
        interfaces: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            interfaces,
            version: WASI_VERSION,
            wasi_title: Some(wasi_title),
        }
    }

    /// Whether it has an interface of this name, in any version.
    pub(super) fn has(&self, name: &str) -> bool {
        let (name, _) = split(name);
        name.split_once('/').is_some_and(|(package, interface)| {
            self.name == package && self.interfaces.contains(&interface)
        })
    }
}

/// Whether a component built against one version runs with the other: as in Cargo and the component
/// model, the first non-zero number decides. A pre-release is compatible with itself alone.
pub(super) fn are_compatible(one: &Version, other: &Version) -> bool {
    let line = |version: &Version| match (version.major, version.minor) {
        (0, 0) => (0, 0, version.patch),
        (0, minor) => (0, minor, 0),
        (major, _) => (major, 0, 0),
    };
    one == other || (line(one) == line(other) && one.pre.is_empty() && other.pre.is_empty())
}

/// Splits `ns:package/interface@1.2.3` into name and version.
pub(super) fn split(name: &str) -> (&str, Option<Version>) {
    match name.rsplit_once('@') {
        Some((name, version)) => (name, Version::parse(version).ok()),
        None => (name, None),
    }
}

/// The package of an interface.
pub(super) fn package(interface: &str) -> &str {
    interface.split('/').next().unwrap_or(interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compatible_as_semver_has_it() {
        let check = |one: &str, other: &str, expected| {
            assert_eq!(
                are_compatible(&one.parse().unwrap(), &other.parse().unwrap()),
                expected,
                "{one} {other}"
            );
        };
        check("0.1.0", "0.1.9", true);
        check("0.2.0", "0.1.0", false);
        check("0.0.1", "0.0.2", false);
        check("1.2.0", "1.9.0", true);
        check("2.0.0", "1.0.0", false);
        check("0.2.0-rc-1", "0.2.0", false);
    }

    #[test]
    fn an_interface_is_found_in_every_version() {
        let package = Package::mesh(&["logging"]);
        assert!(package.has("meshage:mesh/logging@0.1.7"));
        assert!(package.has("meshage:mesh/logging"));
        for other in ["meshage:mesh/log@0.1.0", "a:mesh/logging@0.1.0", "logging"] {
            assert!(!package.has(other), "{other}");
        }
    }
}
