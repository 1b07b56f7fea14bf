#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| meshage_host::fuzzing::gossip(data));
