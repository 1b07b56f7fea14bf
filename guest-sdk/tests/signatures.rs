//! A handler with a wrong signature does not compile, and the compiler says what would be right.
//! After changing an error text, run
//! `TRYBUILD=overwrite cargo test --release -p meshage-sdk --test signatures`.

#[test]
fn wrong_signatures_are_explained() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/signatures/right.rs");
    cases.compile_fail("tests/signatures/wrong_*.rs");
}
