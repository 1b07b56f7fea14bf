//! What operators see of messages that handlers have sent, and have delivered again.

use std::io;

use serde_json::Value;
use uuid::Uuid;

use super::letter::Waiting;
use super::store::{Order, Outstanding, Store, StoreError};
use super::transfer::{TransferError, open_that_is_there};
use super::{Entities, StateLocation};

/// Messages that are looked at, or retried, at once.
const BATCH: usize = 128;

impl Entities {
    /// Messages that handlers sent and that have no answer, or only those that are stuck: at most
    /// `limit` after the one with this id, in the order of their ids; and the last id if there may be more.
    ///
    /// # Errors
    /// If there is no store, or it does not work.
    pub async fn sends(
        &self,
        is_stuck: bool,
        after: Uuid,
        limit: usize,
    ) -> Result<(Vec<Value>, Option<Uuid>), String> {
        let wanted = Outstanding {
            is_stuck,
            after,
            limit,
            with_text: false,
        };
        let sends = self.store()?.outstanding(&wanted).await;
        let (sends, last) = sends.map_err(|error| error.to_string())?;
        Ok((sends.iter().map(Waiting::line).collect(), last))
    }

    /// Has a message that was tried before delivered again; `None`: all that are stuck. Returns how
    /// many there are.
    ///
    /// # Errors
    /// If there is no store, or it does not work.
    pub async fn retry(&self, id: Option<Uuid>) -> Result<u64, String> {
        let store = self.store()?;
        let retried = match id {
            Some(id) => store.order(Order::Retry(vec![id])).await,
            None => retry_stuck(store).await,
        };
        retried.map_err(|error| error.to_string())
    }
}

/// Writes each message that was sent and has no answer, or only those that are stuck, as a line of
/// JSON.
///
/// # Errors
/// If the store cannot be read, or a line not be written.
pub async fn list_sends(
    from: &StateLocation,
    cluster: &str,
    is_stuck: bool,
    mut write: impl FnMut(&str) -> io::Result<()>,
) -> Result<(), TransferError> {
    let store = open_that_is_there(from, cluster).await?;
    let mut wanted = Outstanding {
        is_stuck,
        after: Uuid::nil(),
        limit: BATCH,
        with_text: false,
    };
    loop {
        let (sends, last) = store.outstanding(&wanted).await?;
        for waiting in &sends {
            write(&waiting.line().to_string())?;
        }
        match last {
            Some(last) => wanted.after = last,
            None => break,
        }
    }
    store.close().await;
    Ok(())
}

/// Has these messages, or all that are stuck, delivered again. Returns how many there are.
///
/// # Errors
/// If the store does not work.
pub async fn retry_sends(
    from: &StateLocation,
    cluster: &str,
    ids: Vec<Uuid>,
) -> Result<u64, TransferError> {
    let store = open_that_is_there(from, cluster).await?;
    let retried = if ids.is_empty() {
        retry_stuck(&store).await?
    } else {
        store.order(Order::Retry(ids)).await?
    };
    store.close().await;
    Ok(retried)
}

/// Has all messages that are stuck delivered again.
///
/// # Errors
/// If the store does not work.
async fn retry_stuck(store: &Store) -> Result<u64, StoreError> {
    let mut retried = 0;
    let mut wanted = Outstanding {
        is_stuck: true,
        after: Uuid::nil(),
        limit: BATCH,
        with_text: false,
    };
    loop {
        let (stuck, last) = store.outstanding(&wanted).await?;
        let ids = stuck.iter().map(|waiting| waiting.letter.id).collect();
        retried += store.order(Order::Retry(ids)).await?;
        match last {
            Some(last) => wanted.after = last,
            None => return Ok(retried),
        }
    }
}
