//! An HTTP server that holds back its answers until the test opens it, so that a handler that
//! fetches from it runs for exactly as long as the test wants.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

use super::HANG;

pub(crate) struct Gate {
    pub(crate) addr: String,
    is_open: watch::Sender<bool>,
    /// Requests that have arrived since the start.
    arrived: watch::Sender<usize>,
}

impl Gate {
    /// A gate that is closed.
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (is_open, opened) = watch::channel(false);
        let arrived = watch::Sender::new(0);
        let arrivals = arrived.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut opened, arrivals) = (opened.clone(), arrivals.clone());
                tokio::spawn(async move {
                    let mut head = [0; 1024];
                    // The handler may be stopped before it has sent its request.
                    if !stream.read(&mut head).await.is_ok_and(|bytes| bytes > 0) {
                        return;
                    }
                    arrivals.send_modify(|arrived| *arrived += 1);
                    if opened.wait_for(|is_open| *is_open).await.is_ok() {
                        let _ = stream
                            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nopen")
                            .await;
                    }
                });
            }
        });
        Self {
            addr,
            is_open,
            arrived,
        }
    }

    /// Answers all waiting requests, and later ones at once.
    pub(crate) fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// Holds back the answers to requests that arrive from now on.
    pub(crate) fn close(&self) {
        self.is_open.send_replace(false);
    }

    /// How many requests have arrived since the start.
    pub(crate) fn arrived(&self) -> usize {
        *self.arrived.borrow()
    }

    /// Waits until this many requests have arrived since the start: each belongs to a running
    /// handler.
    pub(crate) async fn wait_for(&self, count: usize) {
        let mut arrived = self.arrived.subscribe();
        let have_come = timeout(HANG, arrived.wait_for(|arrived| *arrived >= count))
            .await
            .is_ok();
        assert!(
            have_come,
            "{} of {count} have come to the gate",
            *self.arrived.borrow()
        );
    }

    /// The manifest of a plugin that may fetch from this gate.
    pub(crate) fn manifest(&self) -> String {
        format!("allowed_hosts = [\"{}\"]\n", self.addr)
    }

    /// The query that makes the guest `fickle` wait at this gate and then echo its body.
    pub(crate) fn act(&self) -> String {
        format!("wait_for={}/", self.addr)
    }
}
