//! Logs on stderr: text for people, JSON for machines. Logging never waits for the reader of
//! stderr.

use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::panic::{self, PanicHookInfo};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tracing::error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::events::Events;
use super::log_queue::{LogQueue, Sink};
use super::names;
use super::printable::Printable;

/// Libraries of which only errors are logged. What chitchat would log, `membership` logs better.
const QUIET: &str = "chitchat=error,wasmtime_wasi_http=error";

/// The target of what this program logs itself.
const OWN: &str = "meshage_host";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// The filter is neither a level nor a list of directives.
#[derive(Debug, thiserror::Error)]
#[error("not a log filter")]
pub struct BadFilter;

/// The log of this process. Clones share it.
#[derive(Clone)]
pub struct Logs {
    format: LogFormat,
    has_colours: bool,
    queue: LogQueue,
    events: Events,
}

impl Logs {
    /// Starts the writer thread. Until [`Logs::listen`], only [`Logs::last_word`] writes to the
    /// log.
    ///
    /// # Errors
    /// If the thread cannot be started.
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
            queue: LogQueue::start(printable, Sink::Stderr(names::LOG_DROPPED))?,
            events: Events::default(),
        })
    }

    /// Starts logging, once per process, panics included. `filter` is a level, or directives such
    /// as `info,meshage_host::peer=debug`.
    ///
    /// # Errors
    /// If the filter is neither.
    pub fn listen(&self, filter: &str) -> Result<(), BadFilter> {
        let written = parse(filter)?;
        let own = Targets::new().with_target(OWN, LevelFilter::INFO);
        let registry = tracing_subscriber::registry().with(self.events.clone().with_filter(own));
        let layer = tracing_subscriber::fmt::layer().with_writer(self.queue.clone());
        match self.format {
            LogFormat::Text => {
                let layer = layer.with_ansi(self.has_colours);
                registry.with(layer.with_filter(written)).init();
            }
            LogFormat::Json => {
                let layer = layer.json().flatten_event(true);
                registry.with(layer.with_filter(written)).init();
            }
        }
        // The default hook writes to stderr directly, and so waits for its reader.
        panic::set_hook(Box::new(log_panic));
        Ok(())
    }

    /// The last events, whatever the filter is.
    pub fn events(&self) -> Events {
        self.events.clone()
    }

    /// Logs why the process ends, whatever the filter is.
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

    /// Waits until everything logged so far is written. Gives up after `stalled_max` without
    /// progress, and after `max` in any case.
    pub fn flush(&self, stalled_max: Duration, max: Duration) {
        self.queue.flush(stalled_max, max);
    }
}

fn parse(filter: &str) -> Result<EnvFilter, BadFilter> {
    let directives: Vec<&str> = filter.split(',').map(str::trim).collect();
    // A single word that is not a level would be parsed as a target, and everything else be
    // silenced.
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
