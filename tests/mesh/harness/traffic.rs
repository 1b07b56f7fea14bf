//! Busy clients: they send one request after the other, to one node and the next, until they are told to
//! stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::Method;
use tokio::task::JoinSet;

use super::{Client, Node, until};

const CLIENTS: u64 = 8;

/// Requests under way at one moment: each client has one.
pub(crate) const IN_FLIGHT_MAX: usize = CLIENTS as usize;

pub(crate) struct Traffic {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: JoinSet<(u64, Vec<String>)>,
}

impl Traffic {
    /// Starts to send to a stream, with ever new keys.
    pub(crate) fn start(stream: &str, nodes: &[&Node]) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let urls: Vec<String> = nodes.iter().map(|node| format!("http://{}/api/{stream}", node.http)).collect();
            clients.spawn(send(number, urls, is_over.clone(), answered.clone()));
        }
        Self { is_over, answered, clients }
    }

    /// Waits for so many more answers, good or bad.
    pub(crate) async fn wait_for(&self, answers: u64) {
        let enough = self.answered.load(Ordering::Relaxed) + answers;
        until(|| async { self.answered.load(Ordering::Relaxed) >= enough }).await;
    }

    /// Stops, and returns how many requests there were. None of them may have failed.
    pub(crate) async fn none_failed(self) -> u64 {
        let (sent, failed) = self.stop().await;
        assert!(failed.is_empty(), "{} of {sent} failed, such as {:?}", failed.len(), &failed[..failed.len().min(3)]);
        assert!(sent > 0);
        sent
    }

    /// Stops, and returns how many requests there were, and what was wrong with those that failed.
    pub(crate) async fn stop(self) -> (u64, Vec<String>) {
        self.is_over.store(true, Ordering::Relaxed);
        self.clients.join_all().await.into_iter().fold(
            (0, Vec::new()),
            |(sent, mut failed), (more_sent, more_failed)| {
                failed.extend(more_failed);
                (sent + more_sent, failed)
            },
        )
    }
}

async fn send(
    number: u64,
    urls: Vec<String>,
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
) -> (u64, Vec<String>) {
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
        answered.fetch_add(1, Ordering::Relaxed);
    }
    (sent, failed)
}
