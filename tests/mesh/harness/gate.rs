//! A server whose answers wait until the test lets them go: a handler that fetches from it runs for just
//! as long as the test wants.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub(crate) struct Gate {
    pub(crate) addr: String,
    is_open: watch::Sender<bool>,
}

impl Gate {
    /// A gate that is closed.
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (is_open, opened) = watch::channel(false);
        let opened = Arc::new(opened);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut opened = watch::Receiver::clone(&opened);
                tokio::spawn(async move {
                    let mut head = [0; 1024];
                    let _ = stream.read(&mut head).await;
                    if opened.wait_for(|is_open| *is_open).await.is_ok() {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nopen").await;
                    }
                });
            }
        });
        Self { addr, is_open }
    }

    /// Answers all who wait, and all who come.
    pub(crate) fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// The manifest of a plugin that may wait here.
    pub(crate) fn manifest(&self) -> String {
        format!("allowed_hosts = [\"{}\"]\n", self.addr)
    }
}
