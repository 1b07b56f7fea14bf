//! The chain of a call by a handler, in an extension.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::WireError;
use crate::message::{CHAIN_MAX, Chain, PartitionKey, StreamName};

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    root: [u8; 16],
    /// Stream and partition key of each.
    #[serde(borrow)]
    callers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

pub(super) fn write(chain: &Chain) -> Vec<u8> {
    let callers = chain.callers.iter();
    let wire = Wire {
        root: chain.root.into_bytes(),
        callers: callers
            .map(|(stream, key)| (stream.as_str().into(), key.as_str().into()))
            .collect(),
    };
    postcard::to_allocvec(&wire).expect("texts and bytes can be written")
}

/// # Errors
/// If it is no chain.
pub(super) fn read(bytes: &[u8]) -> Result<Arc<Chain>, WireError> {
    let invalid = |_| WireError::Head(postcard::Error::SerdeDeCustom);
    let Wire { root, callers } = postcard::from_bytes(bytes)?;
    if callers.len() > CHAIN_MAX {
        return Err(WireError::Head(postcard::Error::SerdeDeCustom));
    }
    let callers = callers.iter().map(|(stream, key)| {
        Ok((
            StreamName::try_from(&**stream).map_err(invalid)?,
            PartitionKey::try_from(&**key).map_err(invalid)?,
        ))
    });
    Ok(Arc::new(Chain {
        root: Uuid::from_bytes(root),
        callers: callers.collect::<Result<_, WireError>>()?,
    }))
}
