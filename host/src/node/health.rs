//! Asks a node on this host whether it is ready, for those who check that by running a command.

use std::net::SocketAddr;

use http::{Method, StatusCode};

use super::ask::ask;

/// What the node with this admin API is missing, or why it does not say so.
///
/// # Errors
/// If it is not ready.
pub async fn health(admin: SocketAddr) -> Result<(), String> {
    match ask(admin, Method::GET, "/readyz", None).await? {
        (StatusCode::OK, _) => Ok(()),
        (_, missing) => Err(missing.trim().to_owned()),
    }
}
