//! Write a meshage handler as one annotated function.
//!
//! ```
//! use meshage_sdk::{Failure, Json, Message, json, Value};
//!
//! #[meshage_sdk::handler]
//! fn echo(message: Message) -> Result<Json<Value>, Failure> {
//!     Ok(Json(json!({ "echoed": message.merged()? })))
//! }
//! # fn main() {}
//! ```
//!
//! The crate is a `cdylib`, built with `cargo build --release --target wasm32-wasip2`; the `.wasm`
//! goes into a node's plugins directory, and its file name is the stream.
//!
//! **Arguments**, up to eight, are anything that is [`FromMessage`]: the [`Message`] itself,
//! [`Json<T>`], [`Query<T>`], [`PartitionKey`], `String` (a UTF-8 body) or `Vec<u8>` (any body).
//! One that does not fit the message answers [`Failure::Invalid`] before the handler runs.
//!
//! **Results** are anything that is [`IntoReply`]: [`Json<T>`], `String`, `&'static str`,
//! `Vec<u8>`, `()` (status 204), [`Reply`], or a `Result` of one of them and a [`Failure`].
//!
//! **Logging** is the [`log`] crate: `log::info!("…")` in a handler becomes a line in the node's
//! log with the stream and the message's id.
//!
//! **Tests** are plain `cargo test`: the attribute leaves the function as it is, so a test makes a
//! [`Message`] and calls it; nothing of WebAssembly is involved.
//!
//! ```
//! # use meshage_sdk::{Failure, Json, Message, json, Value};
//! # fn echo(message: Message) -> Result<Json<Value>, Failure> {
//! #     Ok(Json(json!({ "echoed": message.merged()? })))
//! # }
//! let message = Message::new("echo", "4985").with_json(&json!({ "hello": "world" }));
//! let Json(reply) = echo(message).unwrap();
//! assert_eq!(
//!     reply.to_string(),
//!     r#"{"echoed":{"stream":"echo","partitionKey":"4985","hello":"world"}}"#
//! );
//! ```
//!
//! **Memory**: handlers get an allocator that is quick for small blocks. One that brings its own
//! turns off the default feature `allocator`.

// The macros speak of this crate by its name.
#[cfg(test)]
extern crate self as meshage_sdk;

#[cfg(all(
    target_family = "wasm",
    feature = "allocator",
    not(target_feature = "atomics")
))]
mod allocator;
mod extract;
mod failure;
#[cfg(target_family = "wasm")]
mod guest;
mod integers;
mod json;
mod json_body;
mod message;
mod reply;

pub use extract::{FromMessage, Json, PartitionKey, Query};
pub use failure::Failure;
pub use log;
pub use meshage_sdk_macros::{handler, json};
pub use message::Message;
pub use reply::{IntoReply, Reply};
pub use serde_json::Value;

/// What the expansion of `json!` needs; not for use by hand, and free to change.
#[doc(hidden)]
pub mod __json {
    pub use crate::json::{Copied, Map, Moved, Temporary, copied};
}

/// What the attribute's expansion needs; not for use by hand, and free to change.
#[doc(hidden)]
#[cfg(target_family = "wasm")]
pub mod __private {
    pub use crate::guest::{bindings, export, run};
}
