//! Of two nodes with the same id the later one exits, whatever their clocks say.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::harness::{HandMade, Plugins, Setup};

/// The generation of a node whose clock is ahead by this much: nanoseconds since 1970.
fn generation_ahead(ahead: Duration) -> u64 {
    let shows = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + ahead;
    u64::try_from(shows.as_nanos()).unwrap()
}

#[tokio::test]
async fn the_later_ends_though_the_clock_of_the_elder_is_ahead() {
    let an_hour = Duration::from_secs(3_600);
    let (elder, _) = HandMade::start("n1", generation_ahead(an_hour), "ready", &[], &[]).await;
    let mut late = Setup::new(Plugins::usual())
        .id("n1")
        .flag("--seeds", &elder.cluster)
        .start()
        .await;
    assert_eq!(late.ended().await.code(), Some(1));
    let said = late.log_line("another live node has the id n1").await;
    assert!(
        said.contains(&elder.cluster) && said.contains("--node-id"),
        "{said}"
    );
    assert_eq!(late.events("ready"), 0, "it has taken keys");
}

#[tokio::test]
async fn a_node_that_is_ready_yields_to_none_that_starts_or_leaves() {
    let node = Setup::new(Plugins::usual()).id("n1").ready().await;
    // Generations of clocks that are far behind, so that the claimants seem to have started first.
    let mut claimants = Vec::new();
    for (generation, state) in [(1, "starting"), (2, "leaving")] {
        let (claimant, _) = HandMade::start("n1", generation, state, &[], &[&node]).await;
        let told = node
            .log_line(&format!(r#""cluster_addr":"{}""#, claimant.cluster))
            .await;
        assert!(
            told.contains(r#""event":"id-claimed""#) && told.contains("--node-id"),
            "{told}"
        );
        claimants.push(claimant);
    }
    // The late node exits once it has seen its elder alive for some seconds. By then it has seen
    // the claimants for even longer, and must still yield to the elder.
    let mut late = Setup::new(Plugins::usual())
        .id("n1")
        .seeds(&[&node])
        .start()
        .await;
    assert_eq!(late.ended().await.code(), Some(1));
    let said = late.log_line("another live node has the id n1").await;
    assert!(
        said.contains(&node.cluster),
        "it yields to the eldest: {said}"
    );
    assert_eq!(node.view().await["n1"].state, "ready");
    node.post("/api/echo/1").json("{}").send().await.ok();
}
