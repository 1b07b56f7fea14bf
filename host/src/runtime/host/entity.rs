//! `meshage:mesh/state`: the values of the entity that a message is for. What a call writes is
//! collected; whoever made the call commits it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::{HasSelf, Linker};

use super::{Capability, HostSettings, HostState};
use crate::bodies::{BodyMemory, NoRoom, Reservation};
use crate::message::{Limit, LimitKind, SENT_MAX, Sends, StreamName};
use crate::runtime::guest_log::GuestLog;
use crate::runtime::interfaces::Package;
use crate::state::{NAME_BYTES_MAX, Name, Page, Range, VALUE_BYTES_MAX, WRITES_BYTES_MAX, Writes};

wasmtime::component::bindgen!({
    path: "../wit",
    interfaces: "import meshage:mesh/state@0.1.0;",
    imports: {
        "meshage:mesh/state.get": async | trappable,
        "meshage:mesh/state.scan": async | trappable,
        default: trappable,
    },
});

use meshage::mesh::state as wit;

/// The interface that makes a stream stateful, without its version.
pub(in crate::runtime) const STATE: &str = "meshage:mesh/state";

/// The same.
pub(in crate::runtime) const MESSAGES: &str = "meshage:mesh/messages";

/// The committed values of an entity, and those of earlier messages, as one call sees them.
pub trait StateView: Send + Sync + 'static {
    /// A value, if it is in memory. `None`: it must be loaded.
    ///
    /// # Errors
    /// Why the call must end.
    fn get(&self, name: &str) -> Result<Option<Option<Bytes>>, StateError>;

    /// Loads a value from the store.
    ///
    /// # Errors
    /// Why the call must end.
    fn load<'a>(&'a self, name: &'a str) -> Loading<'a, Option<Bytes>>;

    /// Waits until what the call sees is committed: before anything of it leaves the node.
    ///
    /// # Errors
    /// Why the call must end.
    fn settled(&self) -> Loading<'_, ()>;

    /// A page of values.
    ///
    /// # Errors
    /// Why the call must end.
    fn scan<'a>(&'a self, range: &'a Range) -> Loading<'a, Page>;
}

/// What a view must get from the store.
pub type Loading<'a, T> = Pin<Box<dyn Future<Output = Result<T, StateError>> + Send + 'a>>;

/// Why a call was ended by a function of `state`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Another node has committed in the meantime.
    #[error("the state that the handler ran on is outdated")]
    Outdated,
    #[error("the store of the state cannot be reached")]
    Unavailable,
    #[error("what the store has cannot be read")]
    Unreadable,
    #[error("the message is a read, which cannot write or send")]
    ReadOnly,
    #[error("the handler exceeded its limit of {0}")]
    Limit(Limit),
    /// The memory for all bodies of the node, which writes share, is used up.
    #[error("there is no memory left for what the handler writes")]
    NoRoom,
    /// A call, and another that waits for it in turn, waited for each other.
    #[error("a call waited for a handler that waits for this one")]
    Crossed,
    /// What the handler asked for cannot be, as this says.
    #[error("{0}")]
    Invalid(String),
    /// It came too late.
    #[error("the time for the call was over before it was answered")]
    WaitedTooLong,
    #[error("there is no state, and there are no calls, outside of a message")]
    NoMessage,
}

/// The state that one call works on.
pub struct EntityCall {
    pub view: Arc<dyn StateView>,
    pub may_write: bool,
    pub writes: Writes,
    pub sends: Sends,
    /// The memory of the writes and of what is sent.
    pub reservation: Reservation,
    pub bodies: &'static BodyMemory,
}

/// Has no state of its own: what a call works on comes with the call.
pub(super) struct State;

impl Capability for State {
    const PACKAGES: &'static [Package] = &[Package::mesh(&["state"])];
    type Node = ();
    type Grant = ();
    type Shared = ();

    fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
        wit::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut HostState| state)
    }

    fn start(_: &HostSettings) -> wasmtime::Result<()> {
        Ok(())
    }

    fn share((): &(), _: &StreamName, (): &()) {}

    fn instance(_: &Arc<()>, _: &GuestLog) -> Self {
        Self
    }
}

impl HostState {
    pub(super) fn entity(&mut self) -> Result<&mut EntityCall, StateError> {
        let context = self.context.as_deref_mut();
        let entity = context.and_then(|context| context.entity.as_mut());
        entity.ok_or(StateError::NoMessage)
    }
}

impl EntityCall {
    async fn get(&self, name: &str) -> Result<Option<Bytes>, StateError> {
        check_name(name)?;
        if let Some(written) = self.writes.get(name) {
            return Ok(written.cloned());
        }
        match self.view.get(name)? {
            Some(known) => Ok(known),
            None => self.view.load(name).await,
        }
    }

    fn put(&mut self, name: Name, value: Option<Bytes>) -> Result<(), StateError> {
        check_name(&name)?;
        self.check_write()?;
        let value_bytes = value.as_ref().map_or(0, Bytes::len);
        if value_bytes > VALUE_BYTES_MAX {
            return Err(limit(LimitKind::StateValueBytes, VALUE_BYTES_MAX));
        }
        self.writes.put(name, value);
        self.reserve()
    }

    /// Checks the limits of what was written and sent, and reserves memory for it.
    pub(super) fn reserve(&mut self) -> Result<(), StateError> {
        if self.sends.len() > SENT_MAX {
            return Err(limit(LimitKind::SentMessages, SENT_MAX));
        }
        if self.writes.bytes() + self.sends.bytes() > WRITES_BYTES_MAX {
            return Err(limit(LimitKind::StateWrittenBytes, WRITES_BYTES_MAX));
        }
        self.reservation
            .resize(self.bodies, self.writes.memory() + self.sends.memory())
            .map_err(|NoRoom| StateError::NoRoom)
    }

    fn clear(&mut self) -> Result<(), StateError> {
        self.check_write()?;
        self.writes.clear();
        Ok(())
    }

    pub(super) fn check_write(&self) -> Result<(), StateError> {
        if self.may_write {
            Ok(())
        } else {
            Err(StateError::ReadOnly)
        }
    }

    async fn scan(&self, mut range: Range) -> Result<Page, StateError> {
        for bound in [&range.prefix, &range.after] {
            if !bound.is_empty() {
                check_name(bound)?;
            }
        }
        if range.limit == 0 {
            return Ok(Page::end());
        }
        // A page may be empty because all of its values are deleted.
        loop {
            let page = self.view.scan(&range).await?.with(&self.writes, &range);
            match &page.until {
                Some(until) if page.values.is_empty() => range = range.behind(until),
                _ => return Ok(page),
            }
        }
    }
}

pub(super) fn check_name(name: &str) -> Result<(), StateError> {
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains('\0') {
        Ok(())
    } else {
        Err(limit(LimitKind::StateNameBytes, NAME_BYTES_MAX))
    }
}

pub(super) fn limit(kind: LimitKind, max: usize) -> StateError {
    let max = max as u64;
    StateError::Limit(Limit { kind, max })
}

impl wit::Host for HostState {
    async fn get(&mut self, name: String) -> wasmtime::Result<Option<Vec<u8>>> {
        let value = self.entity()?.get(&name).await?;
        Ok(value.map(Vec::from))
    }

    fn set(&mut self, name: String, value: Vec<u8>) -> wasmtime::Result<()> {
        let value = Some(Bytes::from(value));
        Ok(self.entity()?.put(name.into(), value)?)
    }

    fn delete(&mut self, name: String) -> wasmtime::Result<()> {
        Ok(self.entity()?.put(name.into(), None)?)
    }

    async fn scan(
        &mut self,
        prefix: String,
        after: String,
        limit: u32,
    ) -> wasmtime::Result<Vec<(String, Vec<u8>)>> {
        let range = Range::new(&prefix, &after, limit as usize);
        let page = self.entity()?.scan(range).await?;
        let values = page.values.into_iter();
        Ok(values
            .map(|(name, value)| (name.to_string(), value.into()))
            .collect())
    }

    fn clear(&mut self) -> wasmtime::Result<()> {
        Ok(self.entity()?.clear()?)
    }
}
