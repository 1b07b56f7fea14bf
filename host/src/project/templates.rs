//! The files of a project: a template's, and those of the SDK.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};
use serde_json::Value;

use super::Language;

/// A folder for each language; in file names and texts are the placeholders below.
static TEMPLATES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/templates");

const NAME: &str = "{{name}}";
/// The name as Rust has it.
const CRATE: &str = "{{crate}}";
const VERSION: &str = "{{version}}";

/// Where the SDK is in a project.
const SDK: &str = "sdk";

/// Folders of SDKs, and where they are in a project's.
static RUST: [(&str, Dir<'_>); 3] = [
    ("src", include_dir!("$CARGO_MANIFEST_DIR/../guest-sdk/src")),
    ("wit", include_dir!("$CARGO_MANIFEST_DIR/../guest-sdk/wit")),
    (
        "macros/src",
        include_dir!("$CARGO_MANIFEST_DIR/../guest-sdk/macros/src"),
    ),
];
static JAVASCRIPT: [(&str, Dir<'_>); 3] = [
    (
        "build",
        include_dir!("$CARGO_MANIFEST_DIR/../guest-sdk/js/build"),
    ),
    (
        "runtime",
        include_dir!("$CARGO_MANIFEST_DIR/../guest-sdk/js/runtime"),
    ),
    (
        "wit",
        include_dir!("$CARGO_MANIFEST_DIR/../guest-sdk/js/wit"),
    ),
];
static PYTHON: [(&str, Dir<'_>); 1] = [(
    "src/meshage",
    include_dir!("$CARGO_MANIFEST_DIR/../guest-sdk/python/src/meshage"),
)];

/// Files of SDKs beside these folders.
macro_rules! texts {
    ($($path:literal),+ $(,)?) => {
        [$(($path, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-sdk/", $path)))),+]
    };
}
const RUST_FILES: [(&str, &str); 3] = texts!["Cargo.toml", "README.md", "macros/Cargo.toml"];
const JAVASCRIPT_FILES: [(&str, &str); 5] = texts![
    "js/package.json",
    "js/index.js",
    "js/index.d.ts",
    "js/testing.js",
    "js/testing.d.ts",
];
const PYTHON_FILES: [(&str, &str); 1] = texts!["python/pyproject.toml"];

/// The files of a project, by their paths in it.
pub(super) fn files(
    name: &str,
    language: Language,
    is_http: bool,
) -> impl Iterator<Item = (PathBuf, Cow<'static, [u8]>)> {
    let folder = folder(language, is_http);
    let template = TEMPLATES
        .get_dir(folder)
        .expect("there is one of each kind");
    let filled = |text: &str| {
        text.replace(NAME, name)
            .replace(CRATE, &name.replace('-', "_"))
            .replace(VERSION, env!("CARGO_PKG_VERSION"))
    };
    let own: Vec<_> = all_files(template)
        .map(|(path, content)| {
            let path = path.strip_prefix(folder).expect("it is in the folder");
            let path = filled(&path.to_string_lossy());
            // Else it would hold for the template's own files.
            let path = path.replace("gitignore", ".gitignore");
            let text = std::str::from_utf8(content).expect("templates are texts");
            (PathBuf::from(path), Cow::Owned(filled(text).into_bytes()))
        })
        .collect();
    let needs_sdk = !(is_http && language == Language::Rust);
    own.into_iter()
        .chain(needs_sdk.then(|| sdk(language)).into_iter().flatten())
}

fn folder(language: Language, is_http: bool) -> &'static str {
    match (language, is_http) {
        (Language::Rust, false) => "rust",
        (Language::Js, false) => "js",
        (Language::Ts, false) => "ts",
        (Language::Python, false) => "python",
        (Language::Rust, true) => "rust-http",
        (Language::Js, true) => "js-http",
        (Language::Ts, true) => "ts-http",
        (Language::Python, true) => "python-http",
    }
}

fn sdk(language: Language) -> impl Iterator<Item = (PathBuf, Cow<'static, [u8]>)> {
    let (folders, files, prefix): (&[_], &[_], _) = match language {
        Language::Rust => (&RUST, &RUST_FILES, ""),
        Language::Js | Language::Ts => (&JAVASCRIPT, &JAVASCRIPT_FILES, "js/"),
        Language::Python => (&PYTHON, &PYTHON_FILES, "python/"),
    };
    let folders = folders.iter().flat_map(|(at, folder)| {
        let files =
            all_files(folder).map(move |(path, content)| (Path::new(at).join(path), content));
        files.map(|(path, content)| (path, Cow::Borrowed(content)))
    });
    let files = files.iter().map(move |(path, text)| {
        let path = path.strip_prefix(prefix).expect("all begin with it");
        let content = match path {
            "package.json" => Cow::Owned(for_users(text).into_bytes()),
            _ => Cow::Borrowed(text.as_bytes()),
        };
        (PathBuf::from(path), content)
    });
    let all = folders.chain(files);
    all.map(|(path, content)| (Path::new(SDK).join(path), content))
}

/// All files of a folder, however deep, but for what Python has compiled.
fn all_files<'d>(folder: &'d Dir<'d>) -> Box<dyn Iterator<Item = (&'d Path, &'d [u8])> + 'd> {
    let own = folder.files().map(|file| (file.path(), file.contents()));
    let below = folder.dirs().flat_map(all_files);
    Box::new(
        own.chain(below)
            .filter(|(path, _)| path.extension().is_none_or(|ending| ending != "pyc")),
    )
}

/// The package without what only its own tests need.
fn for_users(package: &str) -> String {
    let mut package: Value = serde_json::from_str(package).expect("it is JSON");
    if let Some(members) = package.as_object_mut() {
        members.shift_remove("devDependencies");
        members.shift_remove("scripts");
    }
    format!("{package:#}\n")
}

/// What to do next.
pub(super) fn next_steps(name: &str, language: Language) -> String {
    let steps: &[&str] = match language {
        Language::Rust => &["rustup target add wasm32-wasip2", "meshage-host dev"],
        Language::Js | Language::Ts => &["npm install", "npm run dev"],
        Language::Python => &[
            "python3 -m venv .venv && . .venv/bin/activate && pip install -r requirements.txt",
            "python -m meshage dev",
        ],
    };
    let steps = steps.join("\n  ");
    format!("{name} is made; README.md there says what is what. Next:\n\n  cd {name}\n  {steps}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_to_fill_in() {
        for language in [Language::Rust, Language::Js, Language::Ts, Language::Python] {
            for is_http in [false, true] {
                let mut has_manifest = false;
                for (path, content) in files("order-book", language, is_http) {
                    let text = String::from_utf8_lossy(&content);
                    let path = path.to_str().unwrap();
                    assert!(!path.contains("{{"), "{path}");
                    assert!(path.starts_with(SDK) || !text.contains("{{name"), "{path}");
                    has_manifest |= path == "plugins/order-book.toml";
                }
                assert!(has_manifest, "{language:?}");
            }
        }
    }

    #[test]
    fn users_get_no_packages_of_our_tests() {
        let package = for_users(r#"{"name":"a","devDependencies":{"b":"1"},"scripts":{}}"#);
        assert_eq!(package, "{\n  \"name\": \"a\"\n}\n");
    }
}
