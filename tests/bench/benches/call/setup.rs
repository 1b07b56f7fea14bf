//! The handler that the benchmarks call, and the message: that of the README.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use meshage_host::message::{Message, Method, PartitionKey, StreamName};
use meshage_host::runtime::{Engine, Handler, Instances, Manifest};
use mimalloc::MiMalloc;
use uuid::Uuid;

/// The same allocator as in the host.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// So long that no call reaches it.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(3_600);

pub(crate) const REUSED: Instances = Instances::Reuse {
    calls_max: u64::MAX,
};

pub(crate) fn message() -> Result<Message> {
    Ok(Message {
        id: Uuid::nil(),
        stream: StreamName::try_from("echo")?,
        partition_key: PartitionKey::try_from("4985")?,
        method: Method::Post,
        path: String::new(),
        query: String::new(),
        headers: HeaderMap::from_iter([(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        )]),
        body: Bytes::from_static(br#"{"hello":"world"}"#),
        is_broadcast: false,
        not_after: Default::default(),
        is_repeated: Default::default(),
        is_sent: false,
        chain: None,
        trace: None,
        watched: None,
    })
}

pub(crate) async fn handler(
    engine: &Engine,
    component: Vec<u8>,
    instances: Instances,
) -> Result<Handler> {
    let mut manifest = Manifest::with_timeout(TIMEOUT);
    manifest.limits.instances = Some(instances);
    let stream = StreamName::try_from("echo")?;
    Ok(Handler::load(engine, stream, component.into(), manifest).await?)
}
