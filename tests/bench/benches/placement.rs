//! Cost of finding the owner of a key, and of the whole ranking, among 10, 100 and 1,000
//! candidates: `cargo bench --package meshage-bench --bench placement`.

use std::hint::black_box;

use anyhow::Result;
use criterion::{BenchmarkId, Criterion, Throughput};
use meshage_host::message::NodeId;
use meshage_host::placement::{Seed, owner, ranking};

const CANDIDATES: [usize; 3] = [10, 100, 1_000];

/// Number of keys, each a name with a number, as keys in practice are.
const KEYS: usize = 1_024;

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let keys: Vec<String> = (0..KEYS)
        .map(|number| format!("customer-{number}"))
        .collect();
    let mut group = criterion.benchmark_group("placement");
    for candidates in CANDIDATES {
        let seeds: Vec<Seed> = (0..candidates)
            .map(|number| Ok(Seed::of(&NodeId::try_from(format!("node-{number}"))?)))
            .collect::<Result<_>>()?;
        group.throughput(Throughput::Elements(1));
        let mut keys = keys.iter().cycle();
        let mut key = || keys.next().map_or("", String::as_str);
        group.bench_function(BenchmarkId::new("owner", candidates), |bencher| {
            bencher.iter(|| owner(black_box(&seeds), key(), |seed| *seed));
        });
        group.bench_function(BenchmarkId::new("ranking", candidates), |bencher| {
            bencher.iter(|| ranking(black_box(&seeds), key(), |seed| *seed));
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}
