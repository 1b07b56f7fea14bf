//! What a handler sends: to the host, or, in a test, to memory.

#[cfg(target_family = "wasm")]
pub(crate) use host::Messages;
#[cfg(not(target_family = "wasm"))]
pub(crate) use memory::Messages;

use std::time::Duration;

use crate::{Failure, FromMessage, Message};

/// The header of a message that a timer brings.
pub(crate) const TIMER: &str = "meshage-timer";

/// A message that a handler sent: see [`Entity::sent`](crate::Entity::sent).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The stream and the partition key that it is for.
    pub stream: String,
    pub key: String,
    /// JSON; empty for a reminder.
    pub body: Vec<u8>,
    /// How long after the commit.
    pub delay: Duration,
    /// The name of a timer.
    pub name: Option<String>,
}

/// As an `Option<Timer>` argument: the timer that brings the message, if one does. Handlers set them
/// by [`Entity::remind`](crate::Entity::remind); a client cannot pretend to be one.
///
/// ```
/// use std::time::Duration;
///
/// use meshage_sdk::{Entity, Failure, Timer};
///
/// #[meshage_sdk::handler]
/// fn job(entity: Entity, timer: Option<Timer>) -> Result<(), Failure> {
///     match timer {
///         Some(timer) if timer.name() == "give-up" => entity.delete("job"),
///         _ => {
///             entity.set("job", &1)?;
///             entity.remind("give-up", Duration::from_secs(60))?;
///         }
///     }
///     Ok(())
/// }
///
/// let entity = Entity::in_memory("job", "1");
/// job(entity.clone(), None).unwrap();
/// assert_eq!(entity.sent()[0].name.as_deref(), Some("give-up"));
/// job(entity.clone(), Some(Timer::named("give-up"))).unwrap();
/// assert_eq!(entity.get::<u8>("job"), Ok(None));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer(String);

impl Timer {
    /// A timer of this name, for tests.
    #[cfg(not(target_family = "wasm"))]
    pub fn named(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name under which it was set.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl FromMessage for Option<Timer> {
    fn from_message(message: &Message) -> Result<Self, Failure> {
        let name = message.header(TIMER);
        Ok(name.map(|name| Timer(name.to_owned())))
    }
}

/// The headers of a message with this body.
#[cfg(target_family = "wasm")]
pub(crate) fn json_headers(body: &[u8]) -> Vec<(String, String)> {
    if body.is_empty() {
        return Vec::new();
    }
    vec![("content-type".to_owned(), "application/json".to_owned())]
}

#[cfg(target_family = "wasm")]
mod host {
    use super::{Sent, json_headers};
    use crate::guest::bindings::meshage::mesh::{messages, outgoing};

    /// What the host sends.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Messages;

    impl Messages {
        pub(crate) fn send(&self, sent: Sent) {
            let Sent {
                stream,
                key,
                body,
                delay,
                name,
            } = sent;
            let headers = json_headers(&body);
            let to = outgoing::Target {
                stream,
                partition_key: key,
            };
            let message = outgoing::Outgoing {
                method: "POST".to_owned(),
                query: String::new(),
                headers,
                body,
            };
            let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            messages::send(&to, &message, delay_ms, name.as_deref());
        }

        pub(crate) fn cancel(&self, name: &str) {
            messages::cancel(name);
        }
    }
}

#[cfg(not(target_family = "wasm"))]
mod memory {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::Sent;

    /// What was sent, for tests. Clones are the same.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Messages(Rc<RefCell<Vec<Sent>>>);

    impl Messages {
        pub(crate) fn send(&self, sent: Sent) {
            if let Some(name) = &sent.name {
                self.cancel(name);
            }
            self.0.borrow_mut().push(sent);
        }

        pub(crate) fn cancel(&self, name: &str) {
            let is_other = |sent: &Sent| sent.name.as_deref() != Some(name);
            self.0.borrow_mut().retain(is_other);
        }

        pub(crate) fn all(&self) -> Vec<Sent> {
            self.0.borrow().clone()
        }

        pub(crate) fn restore(&self, before: Vec<Sent>) {
            *self.0.borrow_mut() = before;
        }
    }
}
