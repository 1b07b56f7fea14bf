//! What a handler asks of other entities and waits for: by the host, or, in a test, by a function.

use std::fmt;

use serde::Serialize;

use crate::{Failure, FromMessage, Message, Reply};

#[cfg(target_family = "wasm")]
pub(crate) use host::Calls;
#[cfg(not(target_family = "wasm"))]
pub(crate) use memory::Calls;

/// A call of another entity by a handler, as a test answers it: see
/// [`Entity::answer_calls`](crate::Entity::answer_calls).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The stream and the partition key that it is for.
    pub stream: String,
    pub key: String,
    /// `POST`, or `GET`.
    pub method: String,
    /// Of a `GET`.
    pub query: String,
    /// JSON.
    pub body: Vec<u8>,
}

impl Call {
    pub(crate) fn get(
        stream: impl Into<String>,
        key: impl Into<String>,
        query: impl Into<String>,
    ) -> Self {
        Self {
            stream: stream.into(),
            key: key.into(),
            method: "GET".to_owned(),
            query: query.into(),
            body: Vec::new(),
        }
    }

    /// # Errors
    /// If the body cannot be JSON.
    pub(crate) fn post<T: Serialize + ?Sized>(
        stream: impl Into<String>,
        key: impl Into<String>,
        body: &T,
    ) -> Result<Self, Failure> {
        let mut call = Self {
            method: "POST".to_owned(),
            ..Self::get(stream, key, "")
        };
        call.body = serde_json::to_vec(body).map_err(|error| {
            Failure::internal(format_args!(
                "what is sent to {call} cannot be JSON: {error}"
            ))
        })?;
        Ok(call)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stream, self.key)
    }
}

/// As an argument of a handler without state: the entities of the mesh, which it calls and sends
/// messages to. A handler with state has the same in its [`Entity`](crate::Entity).
///
/// ```
/// use meshage_sdk::{Failure, Json, Mesh, Reply, Value, json};
///
/// #[meshage_sdk::handler]
/// fn checkout(mesh: Mesh, Json(order): Json<Value>) -> Result<Reply, Failure> {
///     let reply = mesh.call("cart", "ada", &order)?;
///     mesh.send("mail", "ada", &json!({ "subject": "Thank you" }))?;
///     Ok(reply)
/// }
///
/// let mesh = Mesh::in_memory();
/// mesh.answer_calls(|call| Reply::new(200).with_json(&json!({ "cart": call.key })));
/// let reply = checkout(mesh.clone(), Json(json!({}))).unwrap();
/// assert_eq!(reply.body(), br#"{"cart":"ada"}"#);
/// ```
#[derive(Debug, Clone)]
pub struct Mesh {
    calls: Calls,
}

impl Mesh {
    /// For tests. Clones are the same; calls are answered by
    /// [`answer_calls`](Self::answer_calls).
    #[cfg(not(target_family = "wasm"))]
    pub fn in_memory() -> Self {
        Self {
            calls: Calls::default(),
        }
    }

    /// Answers calls, and what is sent, in tests.
    #[cfg(not(target_family = "wasm"))]
    pub fn answer_calls(&self, answer: impl FnMut(Call) -> Result<Reply, Failure> + 'static) {
        self.calls.answer(answer);
    }

    /// Posts this body, as JSON, to an entity, and waits for its answer.
    ///
    /// # Errors
    /// The failure of its handler; [`Failure::Unavailable`] if the mesh could not have it run, and
    /// [`Failure::Internal`] if it is not known whether it did, if the entity waits for this handler
    /// (508 `cycle`), or if the body cannot be JSON.
    pub fn call<T: Serialize + ?Sized>(
        &self,
        stream: impl Into<String>,
        key: impl Into<String>,
        body: &T,
    ) -> Result<Reply, Failure> {
        self.calls.stateless(Call::post(stream, key, body)?)
    }

    /// Calls an entity with `GET` and this query, which may be empty.
    ///
    /// # Errors
    /// Those of [`call`](Self::call).
    pub fn get(
        &self,
        stream: impl Into<String>,
        key: impl Into<String>,
        query: impl Into<String>,
    ) -> Result<Reply, Failure> {
        self.calls.stateless(Call::get(stream, key, query))
    }

    /// Sends a message at once and waits until it is delivered, at least once: it is tried again
    /// until it is answered, with whatever, or this handler's time is over.
    ///
    /// # Errors
    /// Why it was not delivered in time; [`Failure::Internal`] if the body cannot be JSON.
    pub fn send<T: Serialize + ?Sized>(
        &self,
        stream: impl Into<String>,
        key: impl Into<String>,
        body: &T,
    ) -> Result<(), Failure> {
        self.calls.deliver(Call::post(stream, key, body)?)
    }
}

impl FromMessage for Mesh {
    fn from_message(_: &Message) -> Result<Self, Failure> {
        Ok(Self {
            calls: Calls::default(),
        })
    }
}

#[cfg(target_family = "wasm")]
mod host {
    use super::Call;
    use crate::guest::bindings::meshage::mesh::{calls, messages, outgoing};
    use crate::messages::json_headers;
    use crate::{Failure, Reply};

    /// The host.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Calls;

    impl Calls {
        /// A call by a handler with state.
        pub(crate) fn stateful(&self, call: Call) -> Result<Reply, Failure> {
            let (to, message) = split(call);
            let answer = messages::call(&to, &message);
            answer.map(Into::into).map_err(Into::into)
        }

        /// A call by a handler without.
        pub(crate) fn stateless(&self, call: Call) -> Result<Reply, Failure> {
            let (to, message) = split(call);
            let answer = calls::call(&to, &message);
            answer.map(Into::into).map_err(Into::into)
        }

        pub(crate) fn deliver(&self, call: Call) -> Result<(), Failure> {
            let (to, message) = split(call);
            calls::send(&to, &message).map_err(Into::into)
        }
    }

    fn split(call: Call) -> (outgoing::Target, outgoing::Outgoing) {
        let Call {
            stream,
            key,
            method,
            query,
            body,
        } = call;
        let to = outgoing::Target {
            stream,
            partition_key: key,
        };
        let message = outgoing::Outgoing {
            method,
            query,
            headers: json_headers(&body),
            body,
        };
        (to, message)
    }
}

#[cfg(not(target_family = "wasm"))]
mod memory {
    use std::cell::RefCell;
    use std::fmt;
    use std::rc::Rc;

    use super::Call;
    use crate::{Failure, Reply};

    type Answer = Box<dyn FnMut(Call) -> Result<Reply, Failure>>;

    /// A test's function that answers. Clones are the same.
    #[derive(Clone, Default)]
    pub(crate) struct Calls(Rc<RefCell<Option<Answer>>>);

    impl fmt::Debug for Calls {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Calls")
        }
    }

    impl Calls {
        pub(crate) fn answer(&self, answer: impl FnMut(Call) -> Result<Reply, Failure> + 'static) {
            *self.0.borrow_mut() = Some(Box::new(answer));
        }

        pub(crate) fn stateful(&self, call: Call) -> Result<Reply, Failure> {
            match &mut *self.0.borrow_mut() {
                Some(answer) => answer(call),
                None => Err(Failure::unavailable(format_args!(
                    "the test does not say with `answer_calls` what {call} answers"
                ))),
            }
        }

        pub(crate) fn stateless(&self, call: Call) -> Result<Reply, Failure> {
            self.stateful(call)
        }

        pub(crate) fn deliver(&self, call: Call) -> Result<(), Failure> {
            match self.stateful(call) {
                Ok(_) | Err(Failure::Invalid(_) | Failure::NotFound(_) | Failure::Conflict(_)) => {
                    Ok(())
                }
                Err(failure) => Err(failure),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_without_an_answer_says_what_a_test_lacks() {
        let mesh = Mesh::in_memory();
        let failure = mesh.call("cart", "ada", &1).unwrap_err();
        assert!(failure.to_string().contains("`answer_calls`"), "{failure}");
        mesh.answer_calls(|call| Err(Failure::conflict(format_args!("{call} is taken"))));
        let failure = mesh.get("cart", "ada", "").unwrap_err();
        assert_eq!(failure, Failure::conflict("cart/ada is taken"));
        assert_eq!(mesh.send("cart", "ada", &1), Ok(()));
    }
}
