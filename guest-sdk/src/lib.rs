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
//! goes into the plugins directory of a node. Its file name without `.wasm` is the stream.
//!
//! **Arguments**, up to eight, are of any types that implement [`FromMessage`]: the [`Message`]
//! itself, [`Json<T>`], [`Query<T>`], [`PartitionKey`], `String` (a UTF-8 body) or `Vec<u8>` (any
//! body). If one cannot be made from the message, the caller gets [`Failure::Invalid`], and the
//! handler does not run.
//!
//! **State**: a handler that takes [`&mut State<T>`](State), or an [`Entity`] for values by name, has
//! state for each partition key, which is committed before the reply leaves the node.
//!
//! **Results** are of any type that implements [`IntoReply`]:
//! [`Json<T>`], `String`, `&'static str`, `Vec<u8>`, `()` (status 204), [`Reply`], or a `Result` of
//! one of them and a [`Failure`].
//!
//! **Logging** is the [`log`] crate: `log::info!("…")` in a handler becomes a line in the node's
//! log with the stream and the message's id.
//!
//! **Tests** are plain `cargo test`: the attribute leaves the function as it is, so a test makes a
//! [`Message`] and calls the function, without any WebAssembly.
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
//! **Memory**: handlers get an allocator that is fast for small blocks. A crate that sets its own
//! global allocator must turn off the default feature `allocator`.

// The macros refer to this crate by its name.
#[cfg(test)]
extern crate self as meshage_sdk;

#[cfg(all(
    target_family = "wasm",
    feature = "allocator",
    not(target_feature = "atomics")
))]
mod allocator;
mod calls;
mod entity;
mod extract;
mod failure;
#[cfg(target_family = "wasm")]
mod guest;
mod integers;
mod json;
mod json_body;
mod message;
mod messages;
mod reply;
mod state;
mod stored;
mod values;

pub use calls::{Call, Mesh};
pub use entity::{Entity, Scan};
pub use extract::{FromMessage, Json, PartitionKey, Query};
pub use failure::Failure;
pub use log;
pub use meshage_sdk_macros::{handler, json};
pub use message::Message;
pub use messages::{Sent, Timer};
pub use reply::{IntoReply, Reply};
pub use serde_json::Value;
pub use state::{State, Stateful};

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
