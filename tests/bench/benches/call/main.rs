//! Cost of one call inside the process, without any network: `cargo bench --package meshage-bench`.
//!
//! `nothing` is a guest that does nothing, so its cost is the host's share; the extra cost of
//! `echo` is the guest's share (and the copying of its larger reply). `reused` calls one warm
//! instance repeatedly, `fresh` makes an instance for every call.

mod setup;

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result};
use criterion::Criterion;
use meshage_host::runtime::{Engine, Instances};
use setup::{REUSED, TIMEOUT, handler, message};

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let engine = Engine::without_cache()?;
    let echo = concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins/echo.wasm");
    let echo = std::fs::read(echo).context("`cargo xtask build` makes plugins/echo.wasm")?;
    let nothing = handwritten::handler(handwritten::NOTHING)?;
    let message = message()?;
    let mut group = criterion.benchmark_group("call");
    for (guest, component) in [("nothing", &nothing), ("echo", &echo)] {
        for (mode, instances) in [("reused", REUSED), ("fresh", Instances::Fresh)] {
            let handler = runtime.block_on(handler(&engine, component.clone(), instances))?;
            group.bench_function(format!("{mode} {guest}"), |bencher| {
                bencher.iter_custom(|times| {
                    runtime.block_on(async {
                        let began = Instant::now();
                        let deadline = handler.call_deadline(began, began + TIMEOUT);
                        for _ in 0..times {
                            black_box(handler.call(&message, &mut None, deadline, || ()).await)
                                .expect("it answers");
                        }
                        began.elapsed()
                    })
                });
            });
        }
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}
