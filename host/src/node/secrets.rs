//! What the node's files of secrets have now: secrets of the mesh, certificates, tokens.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, info};

use crate::config::{Config, SecretFile};
use crate::message::NodeId;
use crate::peer::TlsNow;
use crate::security::{Keyring, PeerTls, ServerCertificate, ServerTls, TlsError, TokenError, Tokens};

/// How often files are read again. They are small.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// The secrets now, and whenever they change.
pub(super) fn keyring(secret: &SecretFile) -> watch::Receiver<Arc<Keyring>> {
    let SecretFile { file, keyring } = secret.clone();
    follow("the secrets of the mesh", keyring, move || Keyring::read(&file))
}

/// The tokens now, and whenever they change.
///
/// # Errors
/// If the file has none.
pub(super) fn tokens(file: PathBuf) -> Result<watch::Receiver<Arc<Tokens>>, TokenError> {
    let first = Tokens::read(&file)?;
    Ok(follow("the tokens", first, move || Tokens::read(&file)))
}

/// The certificate that clients see now, and whenever it changes.
///
/// # Errors
/// If its files cannot be used.
pub(super) fn server_tls(files: ServerCertificate) -> Result<watch::Receiver<Arc<ServerTls>>, TlsError> {
    let first = ServerTls::read(&files)?;
    Ok(follow("the certificates of the public API", first, move || ServerTls::read(&files)))
}

/// What files have now, and whenever that changes: when they were found so twice. Files that are wrong change nothing, and are told once.
fn follow<T: PartialEq + Send + Sync + 'static, E: Display + Send + 'static>(
    what: &'static str,
    first: T,
    read: impl Fn() -> Result<T, E> + Send + Sync + 'static,
) -> watch::Receiver<Arc<T>> {
    let (sender, receiver) = watch::channel(Arc::new(first));
    let read = Arc::new(read);
    tokio::spawn(async move {
        let mut told = None;
        let mut coming = None;
        while !sender.is_closed() {
            sleep(READ_INTERVAL).await;
            let read = read.clone();
            match tokio::task::spawn_blocking(move || read()).await {
                Ok(Ok(now)) => {
                    told = None;
                    if **sender.borrow() == now {
                        coming = None;
                    } else if coming.as_ref() == Some(&now) {
                        coming = None;
                        sender.send_replace(Arc::new(now));
                        info!("{what} have changed: the new ones are used from now on");
                    } else {
                        // Whoever writes it may be in the middle of it.
                        coming = Some(now);
                    }
                }
                Ok(Err(wrong)) => {
                    coming = None;
                    let wrong = wrong.to_string();
                    if told.as_ref() != Some(&wrong) {
                        error!(error = wrong, "{what} stay as they are, as the file is wrong now");
                        told = Some(wrong);
                    }
                }
                Err(_) => return,
            }
        }
    });
    receiver
}

/// What secures the connections between nodes, now and whenever it changes: what is made of the secrets, or the operator's own.
/// Connections that there are stay as they are.
///
/// # Errors
/// If the certificates cannot be used.
pub(super) fn peer_tls(
    config: &Config,
    node_id: &NodeId,
    keyring: Option<watch::Receiver<Arc<Keyring>>>,
) -> Result<TlsNow, TlsError> {
    let Some(mut keyring) = keyring else { return Ok(None) };
    let (cluster_id, node_id) = (config.cluster_id.clone(), node_id.clone());
    if let Some(files) = config.peer_certificates.clone() {
        let read = move || PeerTls::of_files(&files, &node_id);
        return Ok(Some(follow("the certificates between nodes", read()?, read)));
    }
    let make = move |keyring: &Keyring| PeerTls::of_secret(keyring, &cluster_id, &node_id);
    let first = make(&keyring.borrow_and_update())?;
    let (sender, receiver) = watch::channel(Arc::new(first));
    tokio::spawn(async move {
        while keyring.changed().await.is_ok() {
            let made = make(&keyring.borrow_and_update());
            match made {
                Ok(tls) => drop(sender.send_replace(Arc::new(tls))),
                Err(error) => error!(%error, "the certificates between nodes stay as they are"),
            }
        }
    });
    Ok(Some(receiver))
}
