//! The secrets of the mesh, as the file has them now, and the certificates that nodes know each other by.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, info};

use crate::config::{Config, SecretFile};
use crate::message::NodeId;
use crate::peer::TlsNow;
use crate::security::{Keyring, PeerTls, TlsError};

/// How often the file is read again. It is small.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// The secrets now, and whenever they change. A file that is wrong changes nothing, and is told once.
pub(super) fn follow(secret: &SecretFile) -> watch::Receiver<Arc<Keyring>> {
    let SecretFile { file, keyring } = secret.clone();
    let (sender, receiver) = watch::channel(Arc::new(keyring));
    tokio::spawn(async move {
        let mut told = None;
        while !sender.is_closed() {
            sleep(READ_INTERVAL).await;
            let path = file.clone();
            let Ok(read) = tokio::task::spawn_blocking(move || Keyring::read(&path)).await else { return };
            match read {
                Ok(keyring) => {
                    told = None;
                    sender.send_if_modified(|current| {
                        let is_news = **current != keyring;
                        if is_news {
                            info!(secrets = keyring.count(), "the secrets of the mesh have changed");
                            *current = Arc::new(keyring);
                        }
                        is_news
                    });
                }
                Err(wrong) => {
                    let wrong = wrong.to_string();
                    if told.as_ref() != Some(&wrong) {
                        error!(error = wrong, "the secret file is wrong now: the secrets stay as they are");
                        told = Some(wrong);
                    }
                }
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
    let (files, cluster_id, node_id) = (config.peer_certificates.clone(), config.cluster_id.clone(), node_id.clone());
    let make = move |keyring: &Keyring| match &files {
        Some(files) => PeerTls::of_files(files, &node_id),
        None => PeerTls::of_secret(keyring, &cluster_id, &node_id),
    };
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
