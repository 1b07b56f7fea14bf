//! Watches the node's secret files: secrets of the mesh, certificates, tokens. The initial values
//! are those that were read when the settings were checked.

use std::fmt::Display;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{error, info};

use super::vital::Vital;
use crate::config::{Config, FromFiles};
use crate::message::NodeId;
use crate::peer::TlsNow;
use crate::security::{Keyring, PeerTls, ServerCertificate, ServerTls, TlsError, Tokens};

/// How often files are read again. They are small, so that polling is cheap.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// The secrets, updated on every change.
pub(super) fn keyring(
    secret: &FromFiles<PathBuf, Keyring>,
    vital: &Vital,
) -> watch::Receiver<Arc<Keyring>> {
    let FromFiles { files, first } = secret.clone();
    follow(vital, "the secrets of the mesh", first, move || {
        Keyring::read(&files)
    })
}

/// The tokens, updated on every change.
pub(super) fn tokens(
    tokens: &FromFiles<PathBuf, Tokens>,
    vital: &Vital,
) -> watch::Receiver<Arc<Tokens>> {
    let FromFiles { files, first } = tokens.clone();
    follow(vital, "the tokens", first, move || Tokens::read(&files))
}

/// The public API's certificate, updated on every change.
pub(super) fn server_tls(
    certificate: &FromFiles<ServerCertificate, ServerTls>,
    vital: &Vital,
) -> watch::Receiver<Arc<ServerTls>> {
    let FromFiles { files, first } = certificate.clone();
    follow(
        vital,
        "the certificates of the public API",
        first,
        move || ServerTls::read(&files),
    )
}

/// The TLS configuration between nodes, updated on every change: made from the secrets, or from the
/// operator's own certificates. Open connections keep the one that they were made with. `None` if
/// the mesh has no secret.
///
/// # Errors
/// If no certificate can be made from the secrets.
pub(super) fn peer_tls(
    config: &Config,
    node_id: &NodeId,
    keyring: Option<watch::Receiver<Arc<Keyring>>>,
    vital: &Vital,
) -> Result<TlsNow, TlsError> {
    let Some(keyring) = keyring else {
        return Ok(None);
    };
    let (cluster_id, node_id) = (config.mesh.cluster_id.clone(), node_id.clone());
    if let Some(FromFiles { files, first }) = config.access.peer_certificates.clone() {
        let read =
            move || PeerTls::of_files(&files).and_then(|tls| tls.check_own(&node_id).map(|()| tls));
        return Ok(Some(follow(
            vital,
            "the certificates between nodes",
            first,
            read,
        )));
    }
    let make = move |keyring: &Keyring| PeerTls::of_secret(keyring, &cluster_id, &node_id);
    let (sender, receiver) = watch::channel(Arc::new(make(&keyring.borrow())?));
    vital.spawn(
        "what makes certificates of the secrets",
        make_anew(READ_INTERVAL, keyring, sender, make),
    );
    Ok(Some(receiver))
}

/// Makes a new value whenever the secrets change. Retries until it succeeds: a node that encrypts
/// gossip with one secret and makes connections with another belongs to no mesh.
async fn make_anew<T: Send + 'static, E: Display + 'static>(
    interval: Duration,
    mut keyring: watch::Receiver<Arc<Keyring>>,
    sender: watch::Sender<Arc<T>>,
    make: impl Fn(&Keyring) -> Result<T, E> + Send + Sync + 'static,
) {
    let make = Arc::new(make);
    let mut told = None;
    while keyring.changed().await.is_ok() {
        let (secrets, make) = (keyring.borrow_and_update().clone(), make.clone());
        match attempt(move || make(&secrets)).await {
            Ok(made) => {
                told = None;
                sender.send_replace(Arc::new(made));
            }
            Err(wrong) => {
                if told.as_ref() != Some(&wrong) {
                    error!(
                        event = "peer-tls-not-made",
                        error = wrong,
                        "the certificates between nodes stay as they are"
                    );
                    told = Some(wrong);
                }
                sleep(interval).await;
                keyring.mark_changed();
            }
        }
    }
}

/// The content of files, updated on every change. A change takes effect once two consecutive reads
/// have found it. Invalid files change nothing, and each error is logged once.
fn follow<T: PartialEq + Send + Sync + 'static, E: Display + 'static>(
    vital: &Vital,
    what: &'static str,
    first: T,
    read: impl Fn() -> Result<T, E> + Send + Sync + 'static,
) -> watch::Receiver<Arc<T>> {
    let (sender, receiver) = watch::channel(Arc::new(first));
    vital.spawn(
        "what reads files again",
        keep_reading(READ_INTERVAL, what, sender, read),
    );
    receiver
}

async fn keep_reading<T: PartialEq + Send + Sync + 'static, E: Display + 'static>(
    interval: Duration,
    what: &'static str,
    sender: watch::Sender<Arc<T>>,
    read: impl Fn() -> Result<T, E> + Send + Sync + 'static,
) {
    let read = Arc::new(read);
    let mut found = Found {
        coming: None,
        told: None,
    };
    while !sender.is_closed() {
        sleep(interval).await;
        let read = read.clone();
        let result = attempt(move || read()).await;
        let news = found.note(result, &sender.borrow());
        match news {
            News::Nothing => {}
            News::Changed(now) => {
                sender.send_replace(Arc::new(now));
                info!(
                    event = "files-changed",
                    "{what} have changed: the new ones are used from now on"
                );
            }
            News::Wrong(wrong) => {
                error!(
                    event = "files-wrong",
                    error = wrong,
                    "{what} stay as they are, as the file is wrong now"
                );
            }
        }
    }
}

/// State between reads: a changed value that was read only once so far, and the last error that was
/// logged.
struct Found<T> {
    coming: Option<T>,
    told: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum News<T> {
    Nothing,
    Changed(T),
    Wrong(String),
}

impl<T: PartialEq> Found<T> {
    fn note(&mut self, found: Result<T, String>, used: &T) -> News<T> {
        match found {
            Ok(now) => {
                self.told = None;
                // The file may be half written: a change takes effect when two consecutive reads
                // find it.
                let before = self.coming.take();
                if now == *used {
                    return News::Nothing;
                }
                if before.as_ref() == Some(&now) {
                    return News::Changed(now);
                }
                self.coming = Some(now);
                News::Nothing
            }
            Err(wrong) => {
                self.coming = None;
                if self.told.as_ref() == Some(&wrong) {
                    return News::Nothing;
                }
                self.told = Some(wrong.clone());
                News::Wrong(wrong)
            }
        }
    }
}

/// Runs slow or blocking work on a blocking thread. A panic is returned as an error, like an
/// invalid file, so that the calling task goes on.
async fn attempt<T: Send + 'static, E: Display + 'static>(
    act: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, String> {
    match spawn_blocking(move || act().map_err(|error| error.to_string())).await {
        Ok(result) => result,
        Err(ended) if ended.is_panic() => Err("it crashed, which is a bug".into()),
        // The runtime is shutting down.
        Err(_) => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;
    use crate::security::keyring as keyring_of;

    const OFTEN: Duration = Duration::from_millis(1);

    #[test]
    fn what_is_found_twice_is_used_and_what_is_wrong_is_told_once() {
        let wrong = || Err("wrong".to_owned());
        let told = || News::Wrong("wrong".to_owned());
        let mut found = Found {
            coming: None,
            told: None,
        };
        let mut used = 1;
        for (result, expected) in [
            (Ok(1), News::Nothing),
            (Ok(2), News::Nothing),
            (Ok(2), News::Changed(2)),
            (Ok(3), News::Nothing),
            (Ok(2), News::Nothing),
            (Ok(3), News::Nothing),
            (wrong(), told()),
            (wrong(), News::Nothing),
            (Ok(3), News::Nothing),
            (wrong(), told()),
            (Ok(3), News::Nothing),
            (Ok(3), News::Changed(3)),
        ] {
            let news = found.note(result, &used);
            assert_eq!(news, expected);
            if let News::Changed(now) = news {
                used = now;
            }
        }
    }

    #[tokio::test]
    async fn a_reader_that_crashes_does_not_end_the_following() {
        let reads = AtomicU8::new(0);
        let read = move || -> Result<u8, String> {
            assert!(reads.fetch_add(1, Ordering::Relaxed) > 0, "a bug");
            Ok(2)
        };
        let (sender, mut receiver) = watch::channel(Arc::new(1));
        tokio::spawn(keep_reading(OFTEN, "the tokens", sender, read));
        receiver.changed().await.unwrap();
        assert_eq!(**receiver.borrow(), 2);
    }

    #[tokio::test]
    async fn what_could_not_be_made_of_the_secrets_is_made_later() {
        let attempts = AtomicU8::new(0);
        let make = move |keyring: &Keyring| match attempts.fetch_add(1, Ordering::Relaxed) {
            0 => panic!("a bug"),
            1 => Err("there is no randomness"),
            _ => Ok(keyring.count()),
        };
        let (secrets, keyring) = watch::channel(Arc::new(keyring_of(&[1])));
        let (sender, mut receiver) = watch::channel(Arc::new(1));
        tokio::spawn(make_anew(OFTEN, keyring, sender, make));
        secrets.send_replace(Arc::new(keyring_of(&[1, 2])));
        receiver.changed().await.unwrap();
        assert_eq!(**receiver.borrow(), 2);
    }
}
