//! So many calls of one component, and nothing else, to count instructions by: run it twice under
//! `valgrind --tool=callgrind` with different numbers; the difference is what the calls cost.
//!
//!     calls COMPONENT reused|fresh NUMBER

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use meshage_host::message::{Message, Method, PartitionKey, StreamName};
use meshage_host::runtime::{Engine, Handler, Instances, Limits};
use uuid::Uuid;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, component, mode, number] = arguments.as_slice() else { bail!("calls COMPONENT reused|fresh NUMBER") };
    let instances = match mode.as_str() {
        "reused" => Instances::Reuse { calls_max: u64::MAX },
        "fresh" => Instances::Fresh,
        other => bail!("{other}: reused or fresh"),
    };
    let number: u64 = number.parse().context("NUMBER")?;
    let component = std::fs::read(component)?;
    let timeout = Duration::from_secs(3_600);
    let limits = Limits { instances, ..Limits::with_timeout(timeout) };
    let stream = StreamName::try_from("echo")?;
    let handler = Handler::load(&Engine::without_cache()?, stream.clone(), component, limits).await?;
    let message = Message {
        id: Uuid::nil(),
        stream,
        partition_key: PartitionKey::try_from("4985")?,
        method: Method::Post,
        query: String::new(),
        headers: HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]),
        body: Bytes::from_static(br#"{"hello":"world"}"#),
    };
    for _ in 0..number {
        handler.invoke(&message, Instant::now() + timeout).await?;
    }
    Ok(())
}
