//! Logs: text for people, JSON for machines, on stderr. Nobody waits for who reads them.

use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::panic::{self, PanicHookInfo};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tracing::error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::log_queue::LogQueue;
use super::printable::Printable;

/// Libraries that are only heard when something is wrong. What chitchat says, `membership` says
/// better.
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

/// The log of this process. Clones are the same one.
#[derive(Clone)]
pub struct Logs {
    format: LogFormat,
    has_colours: bool,
    queue: LogQueue,
}

impl Logs {
    /// Makes a log to which nothing but a last word is written yet.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(format: LogFormat) -> io::Result<Self> {
        let has_colours = format == LogFormat::Text && io::stderr().is_terminal();
        let printable = match format {
            LogFormat::Json => Printable::Json,
            LogFormat::Text if has_colours => Printable::ColouredText,
            LogFormat::Text => Printable::Text,
        };
        Ok(Self {
            format,
            has_colours,
            queue: LogQueue::start(printable)?,
        })
    }

    /// Starts logging, once for a process; what panics is logged too. `filter` is a level, or
    /// directives such as `info,meshage_host::peer=debug`.
    ///
    /// # Errors
    /// What is wrong with the filter.
    pub fn listen(&self, filter: &str) -> Result<(), BadFilter> {
        let registry = tracing_subscriber::registry().with(parse(filter)?);
        let layer = tracing_subscriber::fmt::layer().with_writer(self.queue.clone());
        match self.format {
            LogFormat::Text => registry.with(layer.with_ansi(self.has_colours)).init(),
            LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
        }
        // The usual hook writes to stderr by itself, and waits for who reads it.
        panic::set_hook(Box::new(log_panic));
        Ok(())
    }

    /// Says why the process ends, whatever the filter is.
    pub fn last_word(&self, text: impl Display) {
        self.queue.push(&match self.format {
            LogFormat::Text => format!("meshage-host: {text}\n"),
            LogFormat::Json => {
                let timestamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
                let entry =
                    json!({ "timestamp": timestamp, "level": "ERROR", "event": "fatal", "message": text.to_string() });
                format!("{entry}\n")
            }
        });
    }

    /// Waits until everything is written; gives up when for `stalled_max` nobody has taken any of
    /// it, and after `max` in any case.
    pub fn flush(&self, stalled_max: Duration, max: Duration) {
        self.queue.flush(stalled_max, max);
    }
}

fn parse(filter: &str) -> Result<EnvFilter, BadFilter> {
    let directives: Vec<&str> = filter.split(',').map(str::trim).collect();
    // A lone word that is no level would be taken for a target, and everything else be silent.
    let is_level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    let is_directive = |part: &str| part.contains(['=', '[']) || is_level(part);
    if !directives.iter().all(|part| is_directive(part)) {
        return Err(BadFilter);
    }
    EnvFilter::try_new(format!("{QUIET},{}", directives.join(","))).map_err(|_| BadFilter)
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let (thread, place) = (
        thread.name().unwrap_or("unnamed"),
        panic.location().map(ToString::to_string),
    );
    let text = panic.payload_as_str().unwrap_or("it gave no text");
    error!(
        event = "panic",
        thread, place, "a bug in this program: {text}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_checked_is_what_is_used() {
        for filter in [
            "info",
            "info ",
            " warn , guest=debug ",
            "error,meshage_host::peer=trace",
            "off",
        ] {
            let parsed = parse(filter).unwrap().to_string();
            assert!(!parsed.contains(' '), "{filter:?} became {parsed:?}");
        }
        assert!(parse("info ").unwrap().max_level_hint() >= Some(LevelFilter::INFO));
        for wrong in ["", "info,", "warning", "!?", "info debug"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
