//! The secrets of the mesh, as the file has them now.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, info};

use crate::config::SecretFile;
use crate::security::Keyring;

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
