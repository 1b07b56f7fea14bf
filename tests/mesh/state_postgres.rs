//! Entities on PostgreSQL when the server, or the way to it, fails.

use std::sync::Arc;

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustix::process::Signal;
use test_postgres::Postgres;

use crate::harness::{
    Node, Path, Proxy, ProxyMode as Mode, Setup, State, Wire, Writers, act, journal, journal_mesh,
    list, refs, skipped, until, wait_for_mesh,
};

/// A server for the test alone, and a database; `None` if there is no PostgreSQL here.
async fn server(test: &str) -> Option<(Arc<Postgres>, State)> {
    if !Postgres::is_installed() {
        skipped(test, "PostgreSQL (`apt-get install postgresql`)");
        return None;
    }
    let server = Postgres::start().await;
    let state = State::on(server.clone()).await;
    Some((server, state))
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_has_everything() {
    let test = "a_server_that_is_killed_and_comes_back_has_everything";
    let Some((server, state)) = server(test).await else {
        return;
    };
    let nodes = journal_mesh(2, &state).await;
    let writers = Writers::start(8, 3, &refs(&nodes));
    for _ in 0..3 {
        writers.wait_for(300).await;
        server.kill().await;
        // Refused at once, not after a while.
        until(|| async { act(&nodes[0], "other", "append=x").await.status == 503 }).await;
        let answer = act(&nodes[0], "other", "append=x").await;
        let problem = answer.problem(503, "state-unavailable");
        assert_eq!(problem["retryable"], true);
        nodes[0].post("/api/echo/1").json("{}").send().await.ok();
        server.run().await;
        until(|| async { act(&nodes[0], "other", "append=y").await.status == 200 }).await;
        until(|| async { act(&nodes[1], "other", "append=z").await.status == 200 }).await;
    }
    let journal = writers.check(&nodes[0]).await;
    println!(
        "{} of {} answered, {:?}",
        journal.good(),
        journal.len(),
        journal.bad()
    );
    assert!(journal.good() > 500, "{:?}", journal.bad());
}

#[tokio::test]
async fn a_server_that_is_shut_down_and_restarted_loses_nothing() {
    let test = "a_server_that_is_shut_down_and_restarted_loses_nothing";
    let Some((server, state)) = server(test).await else {
        return;
    };
    let nodes = journal_mesh(2, &state).await;
    let writers = Writers::start(8, 3, &refs(&nodes));
    writers.wait_for(300).await;
    // Fast shutdown: it ends the connections.
    server.signal(Signal::INT);
    until(|| async { act(&nodes[0], "other", "append=x").await.status == 503 }).await;
    server.kill().await;
    server.run().await;
    until(|| async { act(&nodes[0], "other", "append=y").await.status == 200 }).await;
    writers.wait_for(300).await;
    writers.check(&nodes[0]).await;
}

#[tokio::test]
async fn a_server_that_hangs_holds_up_stateful_streams_alone() {
    let test = "a_server_that_hangs_holds_up_stateful_streams_alone";
    let Some((server, state)) = server(test).await else {
        return;
    };
    let nodes = journal_mesh(2, &state).await;
    let writers = Writers::start(4, 3, &refs(&nodes));
    writers.wait_for(200).await;
    server.signal_all(Signal::STOP);
    until(|| async { act(&nodes[0], "other", "append=x").await.status == 503 }).await;
    for node in &nodes {
        node.post("/api/echo/1").json("{}").send().await.ok();
    }
    server.signal_all(Signal::CONT);
    until(|| async { act(&nodes[0], "other", "append=y").await.status == 200 }).await;
    writers.wait_for(200).await;
    writers.check(&nodes[0]).await;
}

#[tokio::test]
async fn a_node_that_hangs_is_taken_over_and_knows_when_it_comes_back() {
    let test = "a_node_that_hangs_is_taken_over_and_knows_when_it_comes_back";
    let Some((_server, state)) = server(test).await else {
        return;
    };
    let nodes = journal_mesh(3, &state).await;
    let mut writers = Writers::start(8, 3, &refs(&nodes));
    for _ in 0..2 {
        writers.wait_for(300).await;
        nodes[0].hang().await;
        writers.send_to(&[&nodes[1], &nodes[2]]);
        writers.wait_for(600).await;
        nodes[0].signal(Signal::CONT);
        wait_for_mesh(&refs(&nodes)).await;
        writers.send_to(&refs(&nodes));
    }
    let journal = writers.check(&nodes[1]).await;
    println!(
        "{} of {} answered, {:?}",
        journal.good(),
        journal.len(),
        journal.bad()
    );
}

/// Two nodes that do not see each other, so that each owns every key; the first is behind a proxy.
struct Split {
    proxy: Proxy,
    nodes: Vec<Node>,
    _wire: Wire,
}

impl Split {
    async fn new(server: Arc<Postgres>, state: &State) -> Self {
        let wire = Wire::lay(2);
        let proxy = Proxy::new(server);
        let behind = state.behind(&proxy);
        let setup = |number| Setup::new(journal()).on(&wire, number);
        let first = setup(1).flag("--state", &behind).start().await;
        let second = setup(2).state(state).seeds(&[&first]).start().await;
        let nodes = vec![first, second];
        wait_for_mesh(&refs(&nodes)).await;
        wire.between(&[1], &[2], Path::Cut);
        for node in &nodes {
            until(|| async { node.view().await.len() == 1 }).await;
        }
        Self {
            proxy,
            nodes,
            _wire: wire,
        }
    }
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_counts_although_another_came_on_top() {
    let test = "a_commit_whose_answer_is_lost_counts_although_another_came_on_top";
    let Some((server, state)) = server(test).await else {
        return;
    };
    let Split {
        proxy,
        nodes,
        _wire,
    } = Split::new(server, &state).await;
    act(&nodes[0], "k", "append=a").await.ok();
    // The server commits, and the connection dies before the answer.
    proxy.set(Mode::ClosesAfterAnswer);
    let in_doubt = act(&nodes[0], "k", "append=b");
    let meanwhile = async {
        proxy.closed().await;
        act(&nodes[1], "k", "append=c").await.ok();
        proxy.set(Mode::Open);
    };
    let (in_doubt, ()) = tokio::join!(in_doubt, meanwhile);
    in_doubt.ok();
    assert_eq!(in_doubt.json()["list"].to_string(), r#"["a","b"]"#);
    for node in &nodes {
        assert_eq!(list(node, "k").await, r#"["a","b","c"]"#);
    }
    nodes[0].event("commit-unknown").await;
}

#[tokio::test]
async fn a_commit_that_did_not_reach_the_server_is_sent_again() {
    let test = "a_commit_that_did_not_reach_the_server_is_sent_again";
    let Some((server, state)) = server(test).await else {
        return;
    };
    let Split {
        proxy,
        nodes,
        _wire,
    } = Split::new(server, &state).await;
    act(&nodes[0], "k", "append=a").await.ok();
    proxy.set(Mode::ClosesBeforeServer);
    let in_doubt = act(&nodes[0], "k", "append=b");
    let meanwhile = async {
        proxy.closed().await;
        // The other one is first; the resent one is fenced, and runs again on its state.
        act(&nodes[1], "k", "append=c").await.ok();
        proxy.set(Mode::Open);
    };
    let (in_doubt, ()) = tokio::join!(in_doubt, meanwhile);
    in_doubt.ok();
    assert_eq!(list(&nodes[0], "k").await, r#"["a","c","b"]"#);
    // Nobody in between: it is sent again, and done once.
    proxy.set(Mode::ClosesBeforeServer);
    let again = async {
        proxy.closed().await;
        proxy.set(Mode::Open);
    };
    let (answer, ()) = tokio::join!(act(&nodes[0], "k", "append=d"), again);
    answer.ok();
    assert_eq!(list(&nodes[1], "k").await, r#"["a","c","b","d"]"#);
}

#[tokio::test]
async fn a_side_that_does_not_reach_the_store_says_so_at_once() {
    let test = "a_side_that_does_not_reach_the_store_says_so_at_once";
    let Some((server, state)) = server(test).await else {
        return;
    };
    let Split {
        proxy,
        nodes,
        _wire,
    } = Split::new(server, &state).await;
    let writers = Writers::start(8, 3, &refs(&nodes));
    writers.wait_for(300).await;
    proxy.set(Mode::Closed);
    until(|| async { act(&nodes[0], "other", "append=x").await.status == 503 }).await;
    act(&nodes[0], "other", "append=x")
        .await
        .problem(503, "state-unavailable");
    act(&nodes[1], "other", "append=y").await.ok();
    writers.wait_for(300).await;
    proxy.set(Mode::Open);
    until(|| async { act(&nodes[0], "other", "append=z").await.status == 200 }).await;
    writers.wait_for(300).await;
    writers.check(&nodes[1]).await;
}

#[tokio::test]
async fn connections_that_are_cut_in_commits_again_and_again_lose_nothing() {
    let test = "connections_that_are_cut_in_commits_again_and_again_lose_nothing";
    let Some((server, state)) = server(test).await else {
        return;
    };
    let Split {
        proxy,
        nodes,
        _wire,
    } = Split::new(server, &state).await;
    let writers = Writers::start(8, 3, &refs(&nodes));
    for round in 0..20 {
        writers.wait_for(50).await;
        proxy.set(if round % 2 == 0 {
            Mode::ClosesAfterAnswer
        } else {
            Mode::ClosesBeforeServer
        });
        proxy.closed().await;
        writers.wait_for(20).await;
        proxy.set(Mode::Open);
    }
    writers.wait_for(100).await;
    let journal = writers.check(&nodes[1]).await;
    println!(
        "{} of {} answered, {:?}",
        journal.good(),
        journal.len(),
        journal.bad()
    );
}

#[tokio::test]
async fn one_commit_that_the_server_rejects_fails_alone() {
    let test = "one_commit_that_the_server_rejects_fails_alone";
    let Some((server, state)) = server(test).await else {
        return;
    };
    let nodes = journal_mesh(1, &state).await;
    let node = &nodes[0];
    act(node, "k", "append=a").await.ok();
    let own = server.connect(&state.database()).await.unwrap();
    own.batch_execute("ALTER TABLE meshage_entity ADD CONSTRAINT own CHECK (key <> 'bad')")
        .await
        .unwrap();
    // They gather while the table is locked.
    own.batch_execute("BEGIN; LOCK TABLE meshage_entity IN SHARE MODE")
        .await
        .unwrap();
    let keys: Vec<String> = (0..128).map(|number| format!("good-{number}")).collect();
    let good = keys.iter().map(|key| act(node, key, "append=x"));
    let all = async {
        let bad = act(node, "bad", "append=x");
        tokio::join!(bad, futures_util::future::join_all(good))
    };
    let release = async {
        until(|| async { node.served("journal").await >= 130 }).await;
        own.batch_execute("COMMIT").await.unwrap();
    };
    let ((bad, good), ()) = tokio::join!(all, release);
    bad.problem(500, "crashed");
    for answer in good {
        answer.ok();
    }
}

#[tokio::test]
async fn two_nodes_that_batch_the_same_entities_do_not_block_each_other() {
    let test = "two_nodes_that_batch_the_same_entities_do_not_block_each_other";
    let Some((server, state)) = server(test).await else {
        return;
    };
    let Split {
        proxy,
        nodes,
        _wire,
    } = Split::new(server, &state).await;
    let writers = Writers::start(32, 40, &refs(&nodes));
    writers.wait_for(5_000).await;
    let journal = writers.check(&nodes[0]).await;
    println!(
        "{} of {} answered, {:?}",
        journal.good(),
        journal.len(),
        journal.bad()
    );
    drop(proxy);
}

#[tokio::test]
async fn state_that_was_set_back_counts() {
    let Some((server, state)) = server("state_that_was_set_back_counts").await else {
        return;
    };
    let nodes = journal_mesh(2, &state).await;
    act(&nodes[0], "k", "append=a").await.ok();
    let own = server.connect(&state.database()).await.unwrap();
    own.batch_execute(
        "CREATE TABLE backup AS TABLE meshage_entity; CREATE TABLE backup_values AS TABLE meshage_value",
    )
    .await
    .unwrap();
    act(&nodes[0], "k", "append=b").await.ok();
    own.batch_execute(
        "BEGIN; DELETE FROM meshage_entity; INSERT INTO meshage_entity TABLE backup;
         DELETE FROM meshage_value; INSERT INTO meshage_value TABLE backup_values; COMMIT",
    )
    .await
    .unwrap();
    act(&nodes[1], "k", "append=c").await.ok();
    for node in &nodes {
        assert_eq!(list(node, "k").await, r#"["a","c"]"#);
    }
}

#[tokio::test]
async fn tables_of_a_later_version_are_left_alone() {
    let Some((server, state)) = server("tables_of_a_later_version_are_left_alone").await else {
        return;
    };
    let nodes = journal_mesh(1, &state).await;
    act(&nodes[0], "k", "append=a").await.ok();
    let own = server.connect(&state.database()).await.unwrap();
    // A later version that this one can go on with.
    own.batch_execute("UPDATE meshage_store SET version = 3")
        .await
        .unwrap();
    act(&nodes[0], "k", "append=b").await.ok();
    // One that it cannot: the running node stops writing, and a new one says why.
    own.batch_execute("UPDATE meshage_store SET version = 4, compatible = 4")
        .await
        .unwrap();
    act(&nodes[0], "k", "append=c")
        .await
        .problem(503, "state-unavailable");
    let told = nodes[0].event("state-unavailable").await;
    assert!(told.contains("upgrade it"), "{told}");
    let later = Setup::new(journal())
        .id("later")
        .state(&state)
        .ready()
        .await;
    let listed = later.admin("/plugins").await;
    assert!(
        listed.text().contains("tables are of version 4"),
        "{}",
        listed.text()
    );
    let other = Setup::new(journal())
        .flag("--cluster-id", "other")
        .state(&state);
    own.batch_execute("UPDATE meshage_store SET compatible = 1")
        .await
        .unwrap();
    let listed = other.ready().await.admin("/plugins").await;
    assert!(
        listed
            .text()
            .contains(r#"state of the cluster \"meshage\""#),
        "{}",
        listed.text()
    );
}

#[tokio::test]
async fn a_node_with_another_store_does_not_offer_what_keeps_state() {
    let test = "a_node_with_another_store_does_not_offer_what_keeps_state";
    let Some((_server, state)) = server(test).await else {
        return;
    };
    let mut nodes = journal_mesh(2, &state).await;
    let laptop = State::sqlite();
    let guest = Setup::new(journal())
        .id("laptop")
        .state(&laptop)
        .seeds(&refs(&nodes))
        .ready()
        .await;
    let told = guest.event("state-not-shared").await;
    assert!(told.contains("with their --state"), "{told}");
    let listed = guest.admin("/plugins").await;
    assert!(
        listed.text().contains("state-not-shared"),
        "{}",
        listed.text()
    );
    // It forwards, and never runs it itself.
    for key in 0..30 {
        act(&guest, &format!("k{key}"), "append=a").await.ok();
    }
    assert_eq!(guest.served("journal").await, 0);
    // The elders may restart one after the other.
    for _ in 0..2 {
        let mut old = nodes.remove(0);
        old.signal(Signal::TERM);
        assert!(old.ended().await.success());
        let id = old.id.clone();
        let back = Setup::new(journal())
            .id(&id)
            .state(&state)
            .seeds(&refs(&nodes));
        nodes.push(back.ready().await);
        until(|| async { guest.view().await.len() == 3 }).await;
    }
    act(&guest, "k1", "append=b").await.ok();
    assert_eq!(guest.served("journal").await, 0);
    // Once they are gone it has the only store.
    for node in &mut nodes {
        node.kill().await;
    }
    guest.event("state-shared").await;
    until(|| async { act(&guest, "k1", "append=own").await.status == 200 }).await;
}

/// A certificate for this address, and its key.
fn certificate(address: &str) -> CertifiedKey<KeyPair> {
    generate_simple_self_signed([address.to_owned()]).unwrap()
}

#[tokio::test]
async fn a_server_elsewhere_is_reached_over_tls_at_the_first_host_that_answers() {
    if !Postgres::is_installed() {
        skipped(
            "TLS to PostgreSQL",
            "PostgreSQL (`apt-get install postgresql`)",
        );
        return;
    }
    // Addresses of this machine that no other test has.
    let (address, nobody) = ("127.45.16.1", "127.45.16.2");
    let own = certificate(address);
    let key = own.signing_key.serialize_pem();
    let server = Postgres::start_with_tls(address, &own.cert.pem(), &key).await;
    let database = server.database().await;
    let directory = tempfile::TempDir::new().unwrap();
    let write = |name: &str, certificate: &CertifiedKey<KeyPair>| {
        let path = directory.path().join(name);
        std::fs::write(&path, certificate.cert.pem()).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (write("right", &own), write("wrong", &certificate(address)));
    let url = |root: &str| {
        format!(
            "postgres://postgres@{nobody},{address}/{database}?sslmode=verify-full&sslrootcert={root}"
        )
    };
    let setup = || Setup::new(journal()).id("n1");
    let node = setup().flag("--state", &url(&right)).ready().await;
    act(&node, "k", "append=a").await.ok();
    assert_eq!(list(&node, "k").await, r#"["a"]"#);
    let client = server.connect(&database).await.unwrap();
    let encrypted = "SELECT bool_and(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
                     WHERE a.application_name = 'meshage-host'";
    let row = client.query_one(encrypted, &[]).await.unwrap();
    assert_eq!(row.get::<_, Option<bool>>(0), Some(true));
    let other = setup().flag("--state", &url(&wrong)).start().await;
    let told = other.event("plugin-failed").await;
    assert!(told.contains("certificate"), "{told}");
}

#[tokio::test]
async fn a_commit_that_waits_for_a_lock_does_not_gather_processes_at_the_server() {
    let Some((server, state)) = server("a commit that waits for a lock").await else {
        return;
    };
    let node = Setup::new(journal()).id("n1").state(&state).ready().await;
    act(&node, "k", "append=a").await.ok();
    let lock = server.connect(&state.database()).await.unwrap();
    let watch = server.connect(&state.database()).await.unwrap();
    lock.execute("BEGIN", &[]).await.unwrap();
    lock.execute("SELECT 1 FROM meshage_entity FOR UPDATE", &[])
        .await
        .unwrap();
    let waiting = "SELECT pid FROM pg_stat_activity
                   WHERE application_name = 'meshage-host' AND wait_event_type = 'Lock'";
    let pids = || async {
        let rows = watch.query(waiting, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>()
    };
    let released = async {
        until(|| async { pids().await.len() == 1 }).await;
        let first = pids().await;
        // It is given up, and sent again.
        node.event("commit-unknown").await;
        until(|| async { pids().await.len() == 1 && pids().await != first }).await;
        lock.execute("ROLLBACK", &[]).await.unwrap();
    };
    let (answer, ()) = tokio::join!(act(&node, "k", "append=b"), released);
    answer.ok();
    assert_eq!(list(&node, "k").await, r#"["a","b"]"#);
}
