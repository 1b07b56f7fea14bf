//! Clocks of hosts that jump, forward and back.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::{
    Node, Setup, State, Writers, act, journal, list, on_both_stores, refs, skipped, until,
    wait_for_mesh,
};

on_both_stores!(what_is_acknowledged_is_there_once_whatever_the_clocks_say);

/// Where Debian's package has its library, on each architecture.
const LIBRARIES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
];

/// The clock of one host: the real one and so much.
struct Clock(TempDir);

impl Clock {
    fn new() -> Self {
        let clock = Self(TempDir::new().unwrap());
        clock.jump("+0");
        clock
    }

    fn jump(&self, ahead: &str) {
        // Whoever reads it meanwhile sees one of the two.
        let beside = self.0.path().join("new");
        fs::write(&beside, ahead).unwrap();
        fs::rename(beside, self.0.path().join("clock")).unwrap();
    }

    fn setup(&self, library: &str, number: usize, state: &State) -> Setup {
        Setup::new(journal())
            .id(&format!("n{number}"))
            .state(state)
            .variable("LD_PRELOAD", library)
            .variable("FAKETIME_TIMESTAMP_FILE", self.0.path().join("clock"))
            .variable("FAKETIME_NO_CACHE", "1")
            .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }
}

/// On one host nodes have one clock; on several, which then share a server, each has its own.
async fn what_is_acknowledged_is_there_once_whatever_the_clocks_say(state: State) {
    let test = "what_is_acknowledged_is_there_once_whatever_the_clocks_say";
    let mut libraries = LIBRARIES.into_iter();
    let Some(library) = libraries.find(|library| Path::new(library).exists()) else {
        return skipped(test, "libfaketime (`apt-get install faketime`)");
    };
    let clocks = [Clock::new(), Clock::new()];
    let clock_of = |number: usize| match &state {
        State::Sqlite(_) => &clocks[0],
        State::Postgres { .. } => &clocks[number - 1],
    };
    let mut nodes: Vec<Node> = Vec::new();
    for number in 1..=2 {
        let setup = clock_of(number).setup(library, number, &state);
        nodes.push(setup.seeds(&refs(&nodes)).start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    let writers = Writers::start(6, 3, &refs(&nodes));
    let mut sent = 0;
    for (number, ahead) in [
        (1, "+2h"),
        (2, "-1h"),
        (1, "+0"),
        (1, "-2d"),
        (2, "+0"),
        (1, "+0"),
    ] {
        for from in 0..10 {
            let query = format!("send=to{}&send_id={sent}", from % 3);
            until(|| async {
                act(&nodes[from % 2], &format!("from{from}"), &query)
                    .await
                    .status
                    == 200
            })
            .await;
            sent += 1;
        }
        writers.wait_for(200).await;
        clock_of(number).jump(ahead);
        writers.wait_for(200).await;
    }
    let journal = writers.check(&nodes[0]).await;
    assert!(journal.good() * 2 > journal.len(), "{:?}", journal.bad());
    until(|| async { state.sends().await == 0 }).await;
    let mut arrived = 0;
    for to in 0..3 {
        let list = list(&nodes[0], &format!("to{to}")).await;
        let list: Vec<String> = serde_json::from_str(&list).unwrap();
        arrived += list.len();
    }
    // The client sends a message again when it is refused, and nothing was done then.
    assert_eq!(arrived, sent);
    // A timer comes by the clock that is right now.
    act(&nodes[0], "timed", "remind=t&after_ms=100").await.ok();
    let due = until(|| async { list(&nodes[0], "timed").await == r#"["timer-t"]"# });
    tokio::time::timeout(Duration::from_secs(30), due)
        .await
        .unwrap();
}
