//! What reads the words of strangers, for `tests/fuzz` and for the tests, which pass over
//! everything that was found there.

pub use crate::api::fuzz::request;
pub use crate::config::fuzz::config;
pub use crate::membership::fuzz::gossip;
pub use crate::peer::fuzz::peer;
pub use crate::runtime::fuzz::manifest;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// Takes every input of a corpus, each beginning of it, and each with a bit changed in every
    /// byte.
    #[track_caller]
    fn pass_over(corpus: &str, target: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/fuzz/corpus")
            .join(corpus);
        let mut inputs = 0;
        for file in fs::read_dir(corpus).unwrap() {
            let file = file.unwrap().path();
            // Shown by a test that fails.
            println!("{}", file.display());
            let input = fs::read(file).unwrap();
            target(&input);
            for index in 0..input.len() {
                target(&input[..index]);
                let mut changed = input.clone();
                changed[index] ^= 1 << (index % 8);
                target(&changed);
            }
            inputs += 1;
        }
        assert!(inputs > 5, "{inputs}");
    }

    #[test]
    fn what_fuzzing_found_passes() {
        pass_over("config", super::config);
        pass_over("gossip", super::gossip);
        pass_over("manifest", super::manifest);
        pass_over("peer", super::peer);
        pass_over("request", super::request);
    }
}
