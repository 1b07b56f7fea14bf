//! Security of the mesh: one secret, from which everything that keeps strangers out is derived.

mod seal;
mod secret;

pub use seal::{Opener, Rejected, SEAL_BYTES, Sealer};
pub use secret::{Keyring, SecretError, new_secret};
