//! The component side: the generated bindings, and the way between them and the SDK's types.
//! Compiled for WebAssembly only.

use crate::{Failure, Message, Reply};

/// What `wit-bindgen` makes of `wit/`.
#[allow(unsafe_code, unreachable_pub, missing_docs)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../wit",
        world: "handler",
        pub_export_macro: true,
        export_macro_name: "export_handler",
    });
}

pub use bindings::export_handler as export;

use bindings::exports::meshage::mesh::message_handler as wit;
use bindings::meshage::mesh::logging;

/// Runs a handler on a message as the component model hands it over.
///
/// # Errors
/// The handler's failure.
pub fn run(
    handler: fn(Message) -> Result<Reply, Failure>,
    message: wit::Message,
) -> Result<wit::Reply, wit::Failure> {
    log_to_host();
    handler(message.into()).map(Into::into).map_err(Into::into)
}

impl From<wit::Message> for Message {
    fn from(message: wit::Message) -> Self {
        let wit::Message {
            id,
            stream,
            partition_key,
            method,
            query,
            headers,
            body,
        } = message;
        Self {
            id,
            stream,
            partition_key,
            method,
            query,
            headers,
            body,
        }
    }
}

impl From<Reply> for wit::Reply {
    fn from(
        Reply {
            status,
            headers,
            body,
        }: Reply,
    ) -> Self {
        Self {
            status,
            headers,
            body,
        }
    }
}

impl From<Failure> for wit::Failure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Invalid(text) => Self::Invalid(text),
            Failure::NotFound(text) => Self::NotFound(text),
            Failure::Conflict(text) => Self::Conflict(text),
            Failure::Unavailable(text) => Self::Unavailable(text),
            Failure::Internal(text) => Self::Internal(text),
        }
    }
}

/// Sends what the `log` crate is given to the host, which decides what is worth writing.
struct HostLogger;

impl log::Log for HostLogger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let level = match record.level() {
            log::Level::Trace => logging::Level::Trace,
            log::Level::Debug => logging::Level::Debug,
            log::Level::Info => logging::Level::Info,
            log::Level::Warn => logging::Level::Warn,
            log::Level::Error => logging::Level::Error,
        };
        logging::log(level, &record.args().to_string());
    }

    fn flush(&self) {}
}

fn log_to_host() {
    // A handler that set a logger of its own keeps it.
    if log::max_level() == log::LevelFilter::Off && log::set_logger(&HostLogger).is_ok() {
        log::set_max_level(log::LevelFilter::Trace);
    }
}
