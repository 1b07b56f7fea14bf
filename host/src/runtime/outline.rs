//! What a component imports and exports, read without compiling it. Pure.

use wasmparser::{BinaryReaderError, Parser, Payload, Validator, WasmFeatures};

/// The names of what a component imports and exports.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outline {
    pub(super) imports: Vec<String>,
    pub(super) exports: Vec<String>,
}

impl Outline {
    /// # Errors
    /// Where the bytes stop being a component. What is within its modules is not looked at.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, BinaryReaderError> {
        let mut outline = Self::default();
        // Of what is nested nothing is of interest.
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::Version { .. } => depth += 1,
                Payload::End(_) => depth -= 1,
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        outline.imports.push(import?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        outline.exports.push(export?.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(outline)
    }
}

/// Whether these bytes are a whole component, of whatever proposals.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    Validator::new_with_features(WasmFeatures::all())
        .validate_all(bytes)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(text: &str) -> Vec<u8> {
        wat::parse_str(text).unwrap()
    }

    #[test]
    fn names_are_read_from_the_outermost_component_alone() {
        let bytes = component(
            r#"(component
                (import "a:b/c@1.0.0" (instance))
                (component (import "inner" (instance)) (instance $i) (export "inner" (instance $i)))
                (core module (func (export "core")))
                (instance $x)
                (export "d:e/f@2.0.0" (instance $x)))"#,
        );
        let outline = Outline::read(&bytes).unwrap();
        assert_eq!(outline.imports, ["a:b/c@1.0.0"]);
        assert_eq!(outline.exports, ["d:e/f@2.0.0"]);
        assert!(is_whole(&bytes));
        for length in 8..bytes.len() {
            assert!(!is_whole(&bytes[..length]) || Outline::read(&bytes[..length]).is_ok());
        }
        assert!(Outline::read(&bytes[..bytes.len() - 3]).is_err());
    }

    #[test]
    fn proposals_that_the_host_does_not_run_are_whole_all_the_same() {
        let three = "(component (core module (memory 1) (memory 1) (memory 1)))";
        assert!(is_whole(&component(three)));
    }
}
