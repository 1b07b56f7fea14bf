//! Nodes with the stream `journal`, whose entities keep a list, beside the stateless `echo`.

use super::{Answer, Node, Plugins, Setup, State, refs, wait_for_mesh};

/// `journal`, and a stateless stream.
pub(crate) fn journal() -> Plugins {
    Plugins::empty()
        .with("journal", "journal")
        .with("echo", "echo")
}

pub(crate) fn journal_setup(number: usize, state: &State) -> Setup {
    Setup::new(journal()).id(&format!("n{number}")).state(state)
}

/// Nodes `n1`, `n2`, … that share a store.
pub(crate) async fn journal_mesh(size: usize, state: &State) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for number in 1..=size {
        let setup = journal_setup(number, state);
        nodes.push(setup.seeds(&refs(&nodes)).start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    nodes
}

/// Sends a message to an entity of `journal`; the query says what it does.
pub(crate) async fn act(node: &Node, key: &str, query: &str) -> Answer {
    node.post(&format!("/api/journal/{key}?{query}"))
        .send()
        .await
}

/// The entity's list, as JSON.
pub(crate) async fn list(node: &Node, key: &str) -> String {
    let answer = node.get(&format!("/api/journal/{key}")).send().await;
    answer.ok();
    answer.json()["list"].to_string()
}
