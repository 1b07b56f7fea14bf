//! What one call costs inside the process, without any network: `cargo bench --package meshage-host`.
//!
//! `nothing` is a guest that does nothing, so what it costs is the host's part; what `echo` costs beyond
//! that is the guest's (and the copying of its larger reply). `reused` calls one warm instance again
//! and again, `fresh` makes an instance for every call.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, header};
use meshage_host::message::{Message, Method, PartitionKey, StreamName};
use meshage_host::runtime::{Engine, Handler, Instances, Limits};
use tokio::runtime::Runtime;
use uuid::Uuid;

/// The message of the README.
fn message() -> Message {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Message {
        id: Uuid::nil(),
        stream: StreamName::try_from("echo").unwrap(),
        partition_key: PartitionKey::try_from("4985").unwrap(),
        method: Method::Post,
        query: String::new(),
        headers,
        body: Bytes::from_static(br#"{"hello":"world"}"#),
    }
}

fn handler(runtime: &Runtime, engine: &Engine, component: &[u8], instances: Instances) -> Handler {
    let limits = Limits { instances, ..Limits::with_timeout(Duration::from_secs(30)) };
    let stream = StreamName::try_from("echo").unwrap();
    runtime.block_on(Handler::load(engine, stream, component.to_vec(), limits)).unwrap()
}

fn calls(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let engine = Engine::without_cache().unwrap();
    let echo = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/echo.wasm");
    let echo = std::fs::read(echo).expect("`cargo xtask build` makes plugins/echo.wasm");
    let nothing = handwritten::handler(handwritten::NOTHING).unwrap();
    let message = message();
    let mut group = criterion.benchmark_group("call");
    for (guest, component) in [("nothing", &nothing), ("echo", &echo)] {
        for (mode, instances) in [("reused", Instances::Reuse { calls_max: u64::MAX }), ("fresh", Instances::Fresh)] {
            let handler = handler(&runtime, &engine, component, instances);
            group.bench_function(format!("{mode} {guest}"), |bencher| {
                bencher.iter_custom(|times| {
                    runtime.block_on(async {
                        let began = Instant::now();
                        let deadline = began + Duration::from_secs(3_600);
                        for _ in 0..times {
                            black_box(handler.invoke(&message, deadline).await.unwrap());
                        }
                        began.elapsed()
                    })
                });
            });
        }
    }
}

criterion_group!(benches, calls);
criterion_main!(benches);
