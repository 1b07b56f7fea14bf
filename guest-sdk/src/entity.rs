//! The entity that a message is for, with its named values.

use std::fmt;
use std::time::Duration;
use std::vec;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::calls::{Call, Calls};
use crate::messages::{Messages, Sent};
use crate::stored;
use crate::values::Values;
use crate::{Failure, FromMessage, Message, Reply};
#[cfg(not(target_family = "wasm"))]
use crate::{State, Stateful};

/// Values that a scan asks the host for at once.
const PAGE: u32 = 100;

/// As an argument: the entity that the message is for, whose state is values of bytes by name.
///
/// A handler that takes it (or [`State`](crate::State)) makes its stream *stateful*: the messages of
/// one entity run one after the other, and what a handler writes is committed before its reply leaves
/// the node, all of it or nothing: a [`Failure`] or a crash leaves nothing behind. A `GET` is a read:
/// it runs beside the others, and writing in it is an error.
///
/// ```
/// use meshage_sdk::{Entity, Failure, Json};
///
/// #[meshage_sdk::handler]
/// fn deposit(entity: Entity, Json(cents): Json<i64>) -> Result<Json<i64>, Failure> {
///     let balance = entity.get::<i64>("balance")?.unwrap_or(0) + cents;
///     if balance < 0 {
///         return Err(Failure::conflict("not enough"));
///     }
///     entity.set("balance", &balance)?;
///     Ok(Json(balance))
/// }
///
/// let entity = Entity::in_memory("account", "ada");
/// assert_eq!(deposit(entity.clone(), Json(10)), Ok(Json(10)));
/// assert!(entity.attempt(|entity| deposit(entity, Json(-11))).is_err());
/// assert_eq!(entity.get::<i64>("balance"), Ok(Some(10)));
/// ```
///
/// A name is 1 to 1,024 bytes of UTF-8 without U+0000; a value has at most 1 MiB, and one message
/// writes at most 16 MiB. Past a limit the host ends the call.
///
/// Keep nothing of an entity in memory: an instance handles messages of many entities, and the next
/// message of this one may run on another instance, or another node.
#[derive(Debug, Clone)]
pub struct Entity {
    stream: String,
    key: String,
    values: Values,
    messages: Messages,
    calls: Calls,
}

impl Entity {
    /// An entity in memory without values, for tests. Clones are the same entity.
    #[cfg(not(target_family = "wasm"))]
    pub fn in_memory(stream: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            stream: stream.into(),
            key: key.into(),
            values: Values::default(),
            messages: Messages::default(),
            calls: Calls::default(),
        }
    }

    /// Does what a node does around a handler: if the result is an error, what was written is
    /// undone. For tests.
    ///
    /// # Errors
    /// Those of the handler.
    #[cfg(not(target_family = "wasm"))]
    pub fn attempt<R, E>(&self, handler: impl FnOnce(Self) -> Result<R, E>) -> Result<R, E> {
        let before = (self.values.snapshot(), self.messages.all());
        let result = handler(self.clone());
        if result.is_err() {
            self.values.restore(before.0);
            self.messages.restore(before.1);
        }
        result
    }

    /// Runs a handler on the entity's [`State`], which is saved if the result is not an error. For
    /// tests.
    ///
    /// # Errors
    /// Those of the handler; and if the state cannot be read, or cannot be written as JSON.
    #[cfg(not(target_family = "wasm"))]
    pub fn with_state<T, R, E>(
        &self,
        handler: impl FnOnce(&mut State<T>) -> Result<R, E>,
    ) -> Result<R, Failure>
    where
        State<T>: Stateful,
        E: Into<Failure>,
    {
        let mut state = State::load(self)?;
        let result = handler(&mut state).map_err(Into::into)?;
        state.save(self)?;
        Ok(result)
    }

    /// The stream, which is the name under which this handler is offered.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The partition key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// A value that was written as JSON; `None` if there is no value of this name.
    ///
    /// # Errors
    /// [`Failure::Internal`] if it cannot be read as a `T`; the text says where.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        let bytes = self.get_bytes(name);
        bytes
            .map(|bytes| stored::read(self, name, &bytes))
            .transpose()
    }

    /// Writes a value as JSON.
    ///
    /// # Errors
    /// [`Failure::Internal`] if it cannot be JSON, such as a map whose keys are not strings.
    pub fn set<T: Serialize + ?Sized>(&self, name: &str, value: &T) -> Result<(), Failure> {
        let bytes = stored::write(self, name, value)?;
        self.set_bytes(name, bytes);
        Ok(())
    }

    /// A value as it was written.
    pub fn get_bytes(&self, name: &str) -> Option<Vec<u8>> {
        self.values.get(name)
    }

    /// Writes a value of any bytes.
    pub fn set_bytes(&self, name: &str, value: impl AsRef<[u8]>) {
        self.values.set(name, value.as_ref());
    }

    /// Deletes a value, if there is one of this name.
    pub fn delete(&self, name: &str) {
        self.values.delete(name);
    }

    /// Deletes all values, the one of [`State`](crate::State) included.
    pub fn clear(&self) {
        self.values.clear();
    }

    /// Sends a message with this body, as JSON, to an entity (perhaps this one), once what this call
    /// writes is committed: all of it or nothing. It takes effect there once, whatever dies on the
    /// way; on a stateless stream the handler runs at least once.
    ///
    /// # Errors
    /// [`Failure::Internal`] if the body cannot be JSON.
    pub fn send<T: Serialize + ?Sized>(
        &self,
        stream: impl Into<String>,
        key: impl Into<String>,
        body: &T,
    ) -> Result<(), Failure> {
        self.send_after(stream, key, body, Duration::ZERO)
    }

    /// The same, so long after the commit.
    ///
    /// # Errors
    /// [`Failure::Internal`] if the body cannot be JSON.
    pub fn send_after<T: Serialize + ?Sized>(
        &self,
        stream: impl Into<String>,
        key: impl Into<String>,
        body: &T,
        delay: Duration,
    ) -> Result<(), Failure> {
        let (stream, key) = (stream.into(), key.into());
        let body = serde_json::to_vec(body).map_err(|error| {
            Failure::internal(format_args!(
                "what {self} sends to {stream}/{key} cannot be JSON: {error}"
            ))
        })?;
        self.messages.send(Sent {
            stream,
            key,
            body,
            delay,
            name: None,
        });
        Ok(())
    }

    /// Sets a timer: this entity gets a message without a body so long after the commit, and the
    /// handler's [`Timer`](crate::Timer) argument has the name. A later timer of the same name takes
    /// its place.
    ///
    /// # Errors
    /// None now; there may be some later.
    pub fn remind(&self, name: impl Into<String>, delay: Duration) -> Result<(), Failure> {
        self.messages.send(Sent {
            stream: self.stream.clone(),
            key: self.key.clone(),
            body: Vec::new(),
            delay,
            name: Some(name.into()),
        });
        Ok(())
    }

    /// Removes the timer of this name, if it has not taken effect yet.
    pub fn cancel(&self, name: &str) {
        self.messages.cancel(name);
    }

    /// What was sent and not cancelled, reminders included, in that order. For tests.
    #[cfg(not(target_family = "wasm"))]
    pub fn sent(&self) -> Vec<Sent> {
        self.messages.all()
    }

    /// Posts this body, as JSON, to another entity, and waits for its answer. It is no part of what this
    /// handler's message commits: it takes effect even if that fails. Before it leaves, what earlier
    /// messages of this entity wrote is committed; later ones wait until this one has ended.
    ///
    /// # Errors
    /// The failure of the other handler; [`Failure::Unavailable`] if the mesh could not have it run, and
    /// [`Failure::Internal`] if it is not known whether it did, if the entity waits for this one (508
    /// `cycle`), or if the body cannot be JSON.
    pub fn call<T: Serialize + ?Sized>(
        &self,
        stream: impl Into<String>,
        key: impl Into<String>,
        body: &T,
    ) -> Result<Reply, Failure> {
        self.calls.stateful(Call::post(stream, key, body)?)
    }

    /// Calls another entity with `GET` and this query, which may be empty. In a `GET`, no other call is
    /// possible.
    ///
    /// # Errors
    /// Those of [`call`](Self::call).
    pub fn call_get(
        &self,
        stream: impl Into<String>,
        key: impl Into<String>,
        query: impl Into<String>,
    ) -> Result<Reply, Failure> {
        self.calls.stateful(Call::get(stream, key, query))
    }

    /// Answers calls in tests.
    ///
    /// ```
    /// use meshage_sdk::{Entity, Reply};
    ///
    /// let entity = Entity::in_memory("order", "1");
    /// entity.answer_calls(|call| Reply::new(200).with_json(&call.key.len()));
    /// assert_eq!(entity.call("stock", "tea", &1).unwrap().json(), Ok(3));
    /// ```
    #[cfg(not(target_family = "wasm"))]
    pub fn answer_calls(&self, answer: impl FnMut(Call) -> Result<Reply, Failure> + 'static) {
        self.calls.answer(answer);
    }

    /// The values whose names begin with `prefix`, which may be empty, in the order of their names'
    /// bytes. What is written during the scan may or may not be in it.
    pub fn scan(&self, prefix: &str) -> Scan {
        Scan {
            values: self.values.clone(),
            prefix: prefix.to_owned(),
            after: String::new(),
            page: Vec::new().into_iter(),
        }
    }
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stream, self.key)
    }
}

impl FromMessage for Entity {
    fn from_message(message: &Message) -> Result<Self, Failure> {
        Ok(Self {
            stream: message.stream().to_owned(),
            key: message.partition_key().to_owned(),
            values: Values::default(),
            messages: Messages::default(),
            calls: Calls::default(),
        })
    }
}

/// Iterates over values in the order of their names; made by [`Entity::scan`].
#[derive(Debug)]
pub struct Scan {
    values: Values,
    prefix: String,
    after: String,
    page: vec::IntoIter<(String, Vec<u8>)>,
}

impl Iterator for Scan {
    type Item = (String, Vec<u8>);

    fn next(&mut self) -> Option<(String, Vec<u8>)> {
        if self.page.as_slice().is_empty() {
            self.page = self
                .values
                .scan(&self.prefix, &self.after, PAGE)
                .into_iter();
            if let Some((name, _)) = self.page.as_slice().last() {
                self.after.clone_from(name);
            }
        }
        self.page.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_read_and_deleted() {
        let entity = Entity::in_memory("account", "ada");
        assert_eq!(entity.get::<u32>("a"), Ok(None));
        entity.set("a", &7).unwrap();
        entity.set_bytes("b", b"\xff");
        assert_eq!(entity.get("a"), Ok(Some(7)));
        assert_eq!(entity.get_bytes("b"), Some(vec![0xff]));
        entity.delete("a");
        assert_eq!(entity.get::<u32>("a"), Ok(None));
        entity.clear();
        assert_eq!(entity.get_bytes("b"), None);
    }

    #[test]
    fn a_value_that_does_not_fit_is_named() {
        let entity = Entity::in_memory("account", "ada");
        entity.set("limits", &[1, 2]).unwrap();
        let failure = entity.get::<[bool; 2]>("limits").unwrap_err();
        let text = failure.to_string();
        for part in ["account/ada", "\"limits\"", "[0]", "expected a boolean"] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }

    #[test]
    fn a_scan_has_every_value_of_the_prefix_in_order() {
        let entity = Entity::in_memory("account", "ada");
        for number in 0..250 {
            entity.set(&format!("item:{number:03}"), &number).unwrap();
        }
        entity.set("other", &0).unwrap();
        let names: Vec<String> = entity.scan("item:").map(|(name, _)| name).collect();
        assert_eq!(names.len(), 250);
        assert!(names.is_sorted());
        assert_eq!(entity.scan("").count(), 251);
        assert_eq!(entity.scan("none").next(), None);
    }
}
