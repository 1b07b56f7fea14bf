//! The turn of a message, while its handler calls other entities.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use uuid::Uuid;

use super::cell::Cell;
use super::entity::Seq;
use super::layers::{Outdated, Run};
use crate::calls::Turn;
use crate::lanes::{LaneWaker, wake_all};
use crate::message::Message;
use crate::runtime::{Loading, StateError};

/// A message that has the turn of its entity.
#[derive(Clone)]
pub(super) struct HeldTurn {
    pub(super) cell: Arc<Cell>,
    pub(super) seq: Seq,
    pub(super) run: Run,
}

impl HeldTurn {
    /// Waits until what the handler saw is committed.
    ///
    /// # Errors
    /// If it is outdated.
    pub(super) async fn settled(&self) -> Result<(), StateError> {
        let settled = poll_fn(|context| {
            let mut entity = self.cell.lock();
            let settled = entity.is_settled(self.seq, self.run, || LaneWaker::new(context));
            settled.map_or(Poll::Pending, Poll::Ready)
        });
        settled.await.map_err(|Outdated| StateError::Outdated)
    }
}

impl Turn for HeldTurn {
    fn begin_call<'a>(&'a self, to: &'a Message) -> Loading<'a, ()> {
        Box::pin(async move {
            self.settled().await?;
            let root = to.chain.as_ref().map_or_else(Uuid::nil, |chain| chain.root);
            let to = (to.stream.clone(), to.partition_key.clone());
            let effects = self.cell.lock().begin_call(root, to);
            wake_all(effects.wake);
            Ok(())
        })
    }

    fn crossed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(poll_fn(|context| {
            let mut entity = self.cell.lock();
            if entity.is_call_crossed(self.seq, || LaneWaker::new(context)) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }))
    }

    fn end_call(&self) {
        self.cell.lock().end_call(self.seq);
    }
}
