//! Background load: each client sends one request after the other, round robin over the nodes,
//! until it is stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use tokio::task::JoinSet;

use super::node::Log;
use super::{Client, Node, until};

const CLIENTS: u64 = 8;

/// Requests in flight at any moment: one for each client.
pub(crate) const IN_FLIGHT_MAX: usize = CLIENTS as usize;

pub(crate) struct Traffic {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: JoinSet<Sent>,
    /// Logs of the nodes, shown when requests have failed.
    logs: Vec<Arc<Log>>,
}

/// Outcome of the requests.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) requests: u64,
    /// Status and body of each failed answer, or the error of its connection.
    pub(crate) failed: Vec<String>,
    /// Duration of the slowest successful request.
    pub(crate) slowest: Duration,
}

impl Traffic {
    /// Starts sending to a stream, with a new key for each request.
    pub(crate) fn start(stream: &str, nodes: &[&Node]) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let urls: Vec<String> = nodes
                .iter()
                .map(|node| format!("http://{}/api/{stream}", node.http))
                .collect();
            clients.spawn(send(number, urls, is_over.clone(), answered.clone()));
        }
        let logs = nodes.iter().map(|node| node.log()).collect();
        Self {
            is_over,
            answered,
            clients,
            logs,
        }
    }

    /// Waits until this many more requests have completed, successfully or not.
    pub(crate) async fn wait_for(&self, answers: u64) {
        let enough = self.answered.load(Ordering::Relaxed) + answers;
        until(|| async { self.answered.load(Ordering::Relaxed) >= enough }).await;
    }

    /// Stops, checks that no request has failed, and returns their number.
    pub(crate) async fn none_failed(self) -> u64 {
        let logs = self.logs.clone();
        let Sent {
            requests, failed, ..
        } = self.stop().await;
        assert!(
            failed.is_empty(),
            "{} of {requests} failed, such as {:?}; the nodes' logs:\n{}",
            failed.len(),
            &failed[..failed.len().min(3)],
            logs.iter()
                .map(|log| log.text())
                .collect::<Vec<_>>()
                .join("\n\n")
        );
        assert!(requests > 0);
        requests
    }

    /// Stops, then prints and returns the outcome of the requests.
    pub(crate) async fn stop(self) -> Sent {
        self.is_over.store(true, Ordering::Relaxed);
        let sent = self
            .clients
            .join_all()
            .await
            .into_iter()
            .fold(Sent::default(), Sent::and);
        println!(
            "{} requests, {} failed, the slowest other took {:?}",
            sent.requests,
            sent.failed.len(),
            sent.slowest
        );
        sent
    }
}

impl Sent {
    fn and(mut self, other: Self) -> Self {
        self.requests += other.requests;
        self.failed.extend(other.failed);
        self.slowest = self.slowest.max(other.slowest);
        self
    }
}

async fn send(
    number: u64,
    urls: Vec<String>,
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
) -> Sent {
    let client = Client::new();
    let mut sent = Sent::default();
    while !is_over.load(Ordering::Relaxed) {
        let url = format!(
            "{}/key-{number}-{}",
            urls[(number + sent.requests) as usize % urls.len()],
            sent.requests
        );
        let began = Instant::now();
        match client
            .request(Method::POST, &url)
            .json("{}")
            .try_send()
            .await
        {
            Ok(answer) if answer.status == 200 => sent.slowest = sent.slowest.max(began.elapsed()),
            Ok(answer) => sent
                .failed
                .push(format!("{} {}", answer.status, answer.text())),
            Err(error) => sent.failed.push(error),
        }
        sent.requests += 1;
        answered.fetch_add(1, Ordering::Relaxed);
    }
    sent
}
