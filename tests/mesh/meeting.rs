//! Nodes that cannot join each other log why, and with whom. Seeds that are of no use do not delay
//! good ones.

use tokio::net::UdpSocket;

use crate::harness::{Node, Plugins, Secret, Setup, until, wait_for_mesh};

/// Waits for the log line of this event, which must contain all these parts.
async fn told(node: &Node, event: &str, parts: &[&str]) {
    let line = node.event(event).await;
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
}

/// The metric that counts problems of this kind with seeds.
fn problems(because: &str) -> String {
    format!(r#"meshage_seed_problems_total{{because="{because}"}}"#)
}

/// Waits until a problem of this kind with a seed has been counted.
async fn counted(node: &Node, because: &str) {
    until(|| async { node.metric(&problems(because)).await > 0 }).await;
}

#[tokio::test]
async fn nodes_of_two_clusters_say_so_on_both_sides() {
    let cluster = |id: &str, cluster_id: &str| {
        Setup::new(Plugins::usual())
            .id(id)
            .flag("--cluster-id", cluster_id)
    };
    let blue = cluster("n1", "blue").ready().await;
    let green = cluster("n2", "green").seeds(&[&blue]).ready().await;
    told(
        &blue,
        "other-cluster",
        &[
            "blue",
            &blue.cluster,
            "green",
            &green.cluster,
            "--cluster-id",
        ],
    )
    .await;
    told(
        &green,
        "other-cluster",
        &["green", &green.cluster, &blue.cluster, "--cluster-id"],
    )
    .await;
    for node in [&blue, &green] {
        let metric = r#"meshage_gossip_rejected_total{because="other-cluster"}"#;
        until(|| async { node.metric(metric).await > 1 }).await;
        assert_eq!(node.view().await.len(), 1);
    }
}

#[tokio::test]
async fn a_node_with_a_secret_and_one_without_say_so_on_both_sides() {
    let open = Setup::new(Plugins::usual()).id("n1").ready().await;
    let sealed = Setup::new(Plugins::usual())
        .id("n2")
        .secret(&Secret::shared())
        .seeds(&[&open])
        .ready()
        .await;
    told(
        &open,
        "gossip-rejected",
        &[r#""because":"sealed""#, &sealed.cluster, &open.cluster],
    )
    .await;
    told(&sealed, "seed-silent", &[&open.cluster, "--secret-file"]).await;
    let noise = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    noise.send_to(b"noise", &open.cluster).await.unwrap();
    open.log_line(r#""because":"no-gossip""#).await;
    until(|| async {
        open.metric(r#"meshage_gossip_rejected_total{because="no-gossip"}"#)
            .await
            > 0
    })
    .await;
}

#[tokio::test]
async fn a_seed_that_is_no_cluster_port_is_told() {
    let first = Setup::new(Plugins::usual()).id("n1").ready().await;
    let second = Setup::new(Plugins::usual())
        .id("n2")
        .flag("--seeds", &first.http)
        .ready()
        .await;
    let parts = [
        "meshage",
        &first.http,
        &second.cluster,
        "cluster port",
        "--secret-file",
    ];
    told(&second, "seed-silent", &parts).await;
    counted(&second, "silent").await;
}

#[tokio::test]
async fn a_seed_of_the_other_family_is_told() {
    // The node is bound to IPv4, which every host has.
    let node = Setup::new(Plugins::usual())
        .flag("--seeds", "[::1]:9742")
        .ready()
        .await;
    told(
        &node,
        "seed-not-sent",
        &["[::1]:9742", &node.cluster, "IPv6", "--bind"],
    )
    .await;
    counted(&node, "not-sent").await;
}

#[tokio::test]
async fn names_that_do_not_resolve_hold_up_no_seed_that_can_be_asked() {
    let first = Setup::new(Plugins::usual()).id("n1").ready().await;
    let (_, port) = first.cluster.rsplit_once(':').unwrap();
    let seeds = format!("one.invalid:1,two.invalid:2,three.invalid:3,localhost:{port}");
    let second = Setup::new(Plugins::usual())
        .id("n2")
        .flag("--seeds", &seeds)
        .start()
        .await;
    wait_for_mesh(&[&first, &second]).await;
    told(
        &second,
        "seed-not-resolved",
        &[".invalid:", &second.cluster],
    )
    .await;
    counted(&second, "not-resolved").await;
}

#[tokio::test]
async fn a_seed_that_is_well_is_no_problem_and_one_that_is_not_is_told_ever_less_often() {
    let first = Setup::new(Plugins::usual()).id("n1").ready().await;
    let seeds = format!("{},none.invalid:1", first.cluster);
    let second = Setup::new(Plugins::usual())
        .id("n2")
        .flag("--seeds", &seeds)
        .start()
        .await;
    wait_for_mesh(&[&first, &second]).await;
    let looks = async |because: &str| second.metric(&problems(because)).await;
    until(|| async { looks("not-resolved").await > 6 }).await;
    for because in ["silent", "not-sent"] {
        assert_eq!(looks(because).await, 0, "{because}");
    }
    // The intervals between the lines grow: the fifth comes after more than a minute.
    assert!(second.events("seed-not-resolved") < 5, "each look is told");
}
