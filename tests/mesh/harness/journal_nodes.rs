//! Nodes with the stream `journal`, whose entities keep a list, beside the stateless `echo`.

use super::{Answer, Node, Plugins, Setup, State, Writers, refs, wait_for_mesh};

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
    started(size, |number| journal_setup(number, state)).await
}

async fn started(size: usize, setup: impl Fn(usize) -> Setup) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for number in 1..=size {
        nodes.push(setup(number).seeds(&refs(&nodes)).start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    nodes
}

/// Kills one of the nodes after the other, and starts it again, while eight clients write: so many
/// messages before each kill, and after it. Most of them must be answered, and all that they saw be right.
pub(crate) async fn kill_again_and_again(
    size: usize,
    messages: u64,
    setup: impl Fn(usize) -> Setup,
) {
    const KILLS: usize = 6;
    let mut nodes = started(size, &setup).await;
    let mut writers = Writers::start(8, 3, &refs(&nodes));
    for round in 0..KILLS {
        writers.wait_for(messages).await;
        let mut victim = nodes.remove(0);
        victim.kill().await;
        writers.send_to(&refs(&nodes));
        writers.wait_for(messages).await;
        let back = setup(round % size + 1).seeds(&refs(&nodes));
        nodes.push(back.start().await);
        wait_for_mesh(&refs(&nodes)).await;
        writers.send_to(&refs(&nodes));
    }
    let journal = writers.check(&nodes[0]).await;
    let (good, all, bad) = (journal.good(), journal.len(), journal.bad());
    println!("{good} of {all} answered, {bad:?}");
    assert!(good * 100 > all * 95, "{bad:?}");
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
