//! A proxy in front of a PostgreSQL server, which loses connections when a test says so. It listens
//! on a socket in the file system, which every network namespace reaches.

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use test_postgres::{Postgres, SOCKET};

const CHUNK_BYTES: usize = 64 << 10;

pub(crate) struct Proxy {
    directory: TempDir,
    mode: watch::Sender<Mode>,
}

/// What the proxy does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Open,
    /// Ends all, and takes no new ones.
    Closed,
    /// Passes what the node sends next to the server, waits for the answer, and then closes: the
    /// server has done it, and the node does not learn that.
    ClosesAfterAnswer,
    /// Closes when the node sends something next, which the server does not get.
    ClosesBeforeServer,
}

impl Proxy {
    pub(crate) fn new(server: Arc<Postgres>) -> Self {
        let directory = TempDir::new().unwrap();
        let listener = UnixListener::bind(directory.path().join(SOCKET)).unwrap();
        let mode = watch::Sender::new(Mode::Open);
        let target = server.sockets().join(SOCKET);
        let modes = mode.clone();
        tokio::spawn(async move {
            while let Ok((node, _)) = listener.accept().await {
                if *modes.borrow() == Mode::Closed {
                    continue;
                }
                if let Ok(server) = UnixStream::connect(&target).await {
                    tokio::spawn(pass(node, server, modes.clone()));
                }
            }
        });
        Self { directory, mode }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Waits until the proxy has closed what it was to close.
    pub(crate) async fn closed(&self) {
        let mut mode = self.mode.subscribe();
        let _ = mode.wait_for(|mode| *mode == Mode::Closed).await;
    }

    pub(crate) fn sockets(&self) -> &Path {
        self.directory.path()
    }
}

async fn pass(mut node: UnixStream, mut server: UnixStream, modes: watch::Sender<Mode>) {
    let mut changes = modes.subscribe();
    let (mut up, mut down) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    loop {
        let mode = *changes.borrow_and_update();
        match mode {
            Mode::Closed => return,
            Mode::Open | Mode::ClosesAfterAnswer | Mode::ClosesBeforeServer => {}
        }
        tokio::select! {
            read = node.read(&mut up) => {
                let Ok(bytes @ 1..) = read else { return };
                let mode = *modes.borrow();
                if mode == Mode::ClosesBeforeServer {
                    modes.send_replace(Mode::Closed);
                    return;
                }
                if server.write_all(&up[..bytes]).await.is_err() {
                    return;
                }
                if mode == Mode::ClosesAfterAnswer {
                    let _ = server.read(&mut down).await;
                    modes.send_replace(Mode::Closed);
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Ok(bytes @ 1..) = read else { return };
                if node.write_all(&down[..bytes]).await.is_err() {
                    return;
                }
            }
            changed = changes.changed() => if changed.is_err() {
                return;
            }
        }
    }
}
