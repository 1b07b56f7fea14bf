//! Logs: text for people, JSON for machines, on stderr.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Libraries that are only heard when something is wrong.
const QUIET: &str = "chitchat=error,wasmtime_wasi_http=error";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// The filter is neither a level nor a list of directives.
#[derive(Debug, thiserror::Error)]
#[error("not a log filter")]
pub struct BadFilter;

/// Starts logging, once for a process. `filter` is a level, or directives such as `info,meshage_host::peer=debug`.
///
/// # Errors
/// What is wrong with the filter.
pub fn init_logs(format: LogFormat, filter: &str) -> Result<(), BadFilter> {
    // A lone word that is no level would be taken for a target, and everything else be silent.
    let is_directive = |part: &str| part.contains(['=', '[']) || part.trim().parse::<LevelFilter>().is_ok();
    if !filter.split(',').all(is_directive) {
        return Err(BadFilter);
    }
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}")).map_err(|_| BadFilter)?;
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
            registry.with(layer).init();
        }
        LogFormat::Json => {
            let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).json().flatten_event(true);
            registry.with(layer).init();
        }
    }
    Ok(())
}
