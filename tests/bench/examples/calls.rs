//! Makes NUMBER calls of one component and nothing else, to count their instructions: run it twice
//! under `valgrind --tool=callgrind` with different numbers; the difference is the cost of the
//! calls.
//!
//!     calls COMPONENT reused|fresh NUMBER

#[path = "../benches/call/setup.rs"]
mod setup;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use meshage_host::runtime::{Engine, Instances};
use setup::{REUSED, TIMEOUT, handler, message};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, component, mode, number] = arguments.as_slice() else {
        bail!("calls COMPONENT reused|fresh NUMBER")
    };
    let instances = match mode.as_str() {
        "reused" => REUSED,
        "fresh" => Instances::Fresh,
        other => bail!("{other}: expected reused or fresh"),
    };
    let number: u64 = number.parse().context("NUMBER")?;
    let handler = handler(
        &Engine::without_cache()?,
        std::fs::read(component)?,
        instances,
    )
    .await?;
    let message = message()?;
    for _ in 0..number {
        let now = Instant::now();
        handler
            .call(
                &message,
                &mut None,
                handler.call_deadline(now, now + TIMEOUT),
                || (),
            )
            .await?;
    }
    Ok(())
}
