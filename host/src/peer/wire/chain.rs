//! The chain of a call by a handler, in an extension.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::WireError;
use crate::message::{CHAIN_MAX, Caller, Chain, PartitionKey, StreamName};

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    root: [u8; 16],
    comes_again: bool,
    /// Stream and partition key of each, and whether it has its entity's turn.
    #[serde(borrow)]
    callers: Vec<(Cow<'a, str>, Cow<'a, str>, bool)>,
}

pub(super) fn write(chain: &Chain) -> Vec<u8> {
    let callers = chain.callers.iter();
    let wire = Wire {
        root: chain.root.into_bytes(),
        comes_again: chain.comes_again,
        callers: callers
            .map(|caller| {
                let (stream, key) = (caller.stream.as_str(), caller.key.as_str());
                (stream.into(), key.into(), caller.has_turn)
            })
            .collect(),
    };
    postcard::to_allocvec(&wire).expect("texts and bytes can be written")
}

/// # Errors
/// If it is no chain.
pub(super) fn read(bytes: &[u8]) -> Result<Arc<Chain>, WireError> {
    let invalid = |_| WireError::Head(postcard::Error::SerdeDeCustom);
    let Wire {
        root,
        comes_again,
        callers,
    } = postcard::from_bytes(bytes)?;
    if callers.len() > CHAIN_MAX {
        return Err(WireError::Head(postcard::Error::SerdeDeCustom));
    }
    let callers = callers.iter().map(|(stream, key, has_turn)| {
        Ok(Caller {
            stream: StreamName::try_from(&**stream).map_err(invalid)?,
            key: PartitionKey::try_from(&**key).map_err(invalid)?,
            has_turn: *has_turn,
        })
    });
    Ok(Arc::new(Chain {
        root: Uuid::from_bytes(root),
        comes_again,
        callers: callers.collect::<Result<_, WireError>>()?,
    }))
}
