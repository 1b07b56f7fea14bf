//! Busy clients: they send one request after the other, to one node and the next, until they are told to
//! stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;
use tokio::task::JoinSet;

use super::{Client, Node};

const CLIENTS: u64 = 8;

pub(crate) struct Traffic {
    is_over: Arc<AtomicBool>,
    clients: JoinSet<(u64, Vec<String>)>,
}

impl Traffic {
    /// Starts to send to a stream, with ever new keys.
    pub(crate) fn start(stream: &str, nodes: &[&Node]) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let urls: Vec<String> = nodes.iter().map(|node| format!("http://{}/api/{stream}", node.http)).collect();
            clients.spawn(send(number, urls, is_over.clone()));
        }
        Self { is_over, clients }
    }

    /// Stops, and returns how many requests there were. None of them may have failed.
    pub(crate) async fn none_failed(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        let (sent, failed) = self.clients.join_all().await.into_iter().fold(
            (0, Vec::new()),
            |(sent, mut failed), (more_sent, more_failed)| {
                failed.extend(more_failed);
                (sent + more_sent, failed)
            },
        );
        assert!(failed.is_empty(), "{} of {sent} failed, such as {:?}", failed.len(), &failed[..failed.len().min(3)]);
        assert!(sent > 0);
        sent
    }
}

async fn send(number: u64, urls: Vec<String>, is_over: Arc<AtomicBool>) -> (u64, Vec<String>) {
    let client = Client::new();
    let mut failed = Vec::new();
    let mut sent = 0;
    while !is_over.load(Ordering::Relaxed) {
        let url = format!("{}/key-{number}-{sent}", urls[(number + sent) as usize % urls.len()]);
        match client.request(Method::POST, &url).json("{}").try_send().await {
            Ok(answer) if answer.status == 200 => {}
            Ok(answer) => failed.push(format!("{} {}", answer.status, answer.text())),
            Err(error) => failed.push(error),
        }
        sent += 1;
    }
    (sent, failed)
}
