//! Any change of the plugins directory takes effect without a restart, and no request fails.

use std::fs;
use std::time::SystemTime;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::harness::{
    Gate, Node, Plugins, Setup, Traffic, stamped, until, wait_for_mesh, yielding,
};

fn digest(component: &[u8]) -> String {
    format!("{:x}", Sha256::digest(component))
}

/// State, digest and error of each version of a stream, from `/plugins`.
async fn versions(node: &Node, stream: &str) -> Vec<(String, String, String)> {
    let listed = node.admin("/plugins").await.json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of_stream = listed["plugins"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|plugin| plugin["stream"] == stream);
    of_stream
        .map(|plugin| {
            (
                text(&plugin["state"]),
                text(&plugin["digest"]),
                text(&plugin["error"]),
            )
        })
        .collect()
}

/// Waits until each node runs this component for the stream, without an error for its file, and
/// sees that all others do.
async fn wait_until_serving(nodes: &[&Node], stream: &str, component: &[u8]) {
    let digest = digest(component);
    for node in nodes {
        until(|| async {
            let versions = versions(node, stream).await;
            let is_failed = versions.iter().any(|(state, ..)| state == "failed");
            versions
                .iter()
                .any(|(state, found, _)| state == "ready" && *found == digest)
                && !is_failed
        })
        .await;
        // Its view shows this version on all nodes.
        for other in nodes {
            until(|| async { node.view().await[&other.id].offers.get(stream) == Some(&digest) })
                .await;
        }
    }
}

async fn wait_until_failed(node: &Node, stream: &str, error: &str) {
    until(|| async {
        versions(node, stream)
            .await
            .iter()
            .any(|(state, _, found)| state == "failed" && found.contains(error))
    })
    .await;
}

async fn wait_until_gone(nodes: &[&Node], stream: &str) {
    for node in nodes {
        until(|| async { versions(node, stream).await.is_empty() }).await;
        for other in nodes {
            until(|| async { !node.view().await[&other.id].offers.contains_key(stream) }).await;
        }
    }
}

/// Logged when the system reports a change, so that the node need not wait for its next scan.
const EVENT: &str = "plugins-directory-changed";

/// Two nodes with one plugins directory.
async fn pair(plugins: &Plugins) -> [Node; 2] {
    let first = Setup::new(plugins.clone()).id("n1").start().await;
    let second = Setup::new(plugins.clone())
        .id("n2")
        .seeds(&[&first])
        .start()
        .await;
    wait_for_mesh(&[&first, &second]).await;
    [first, second]
}

#[tokio::test]
async fn under_load_nothing_that_happens_to_the_directory_fails_a_request() {
    let plugins = Plugins::empty().with_file("echo.wasm", stamped("echo", 0));
    let nodes = pair(&plugins).await;
    let nodes = [&nodes[0], &nodes[1]];
    let traffic = Traffic::start("echo", &nodes);

    // Replaced.
    plugins.put("echo.wasm", &stamped("echo", 1));
    wait_until_serving(&nodes, "echo", &stamped("echo", 1)).await;
    // Broken: the last good version keeps running.
    plugins.put("echo.wasm", b"broken");
    for node in nodes {
        wait_until_failed(node, "echo", "not WebAssembly").await;
    }
    assert_eq!(versions(nodes[0], "echo").await[0].0, "ready");
    // Repaired with the version that is running already.
    plugins.put("echo.wasm", &stamped("echo", 1));
    wait_until_serving(&nodes, "echo", &stamped("echo", 1)).await;
    // Another plugin is added, used, and removed.
    plugins.put("other.wasm", &stamped("echo", 2));
    wait_until_serving(&nodes, "other", &stamped("echo", 2)).await;
    let others = Traffic::start("other", &nodes);
    nodes[0].post("/api/other/1").send().await.ok();
    others.none_failed().await;
    fs::remove_file(plugins.path().join("other.wasm")).unwrap();
    wait_until_gone(&nodes, "other").await;
    nodes[0]
        .post("/api/other/1")
        .send()
        .await
        .problem(404, "no-candidate");
    // A burst: twenty changes in two seconds, of which the last one wins.
    let mut changes = tokio::time::interval(std::time::Duration::from_millis(100));
    for number in 10..30 {
        changes.tick().await;
        plugins.put("echo.wasm", &stamped("echo", number));
    }
    wait_until_serving(&nodes, "echo", &stamped("echo", 29)).await;

    let sent = traffic.none_failed().await;
    assert!(sent > 1_000, "{sent} are few");
    // Of all those versions only one is still in memory.
    for node in nodes {
        node.wait_for_metric(r#"meshage_plugin_versions{stream="echo"} 1"#)
            .await;
        // A stream that nobody offers any more has no metrics either.
        until(|| async {
            !node
                .admin("/metrics")
                .await
                .text()
                .contains(r#"stream="other""#)
        })
        .await;
    }
}

#[tokio::test]
async fn what_is_loaded_while_messages_run_yields_to_them() {
    const NAME: &str = "background";

    let plugins = Plugins::empty().with_file("echo.wasm", stamped("echo", 0));
    let node = Setup::new(plugins.clone()).start().await;
    wait_until_serving(&[&node], "echo", &stamped("echo", 0)).await;
    // With no messages, nothing has to yield.
    plugins.put("echo.wasm", &stamped("echo", 1));
    wait_until_serving(&[&node], "echo", &stamped("echo", 1)).await;
    assert!(yielding(&node, NAME).is_empty());
    let traffic = Traffic::start("echo", &[&node]);
    for version in 2..=255 {
        plugins.put("echo.wasm", &stamped("echo", version));
        wait_until_serving(&[&node], "echo", &stamped("echo", version)).await;
        // Unless the messages had to wait for a processor just then.
        if !yielding(&node, NAME).is_empty() {
            break;
        }
    }
    traffic.none_failed().await;
    // Each does so as soon as it has begun.
    until(|| async {
        let threads = yielding(&node, NAME);
        !threads.is_empty() && threads.iter().all(|yields| *yields)
    })
    .await;
}

#[tokio::test]
async fn removed_on_one_node_the_other_takes_over_and_no_request_fails() {
    let plugins = || Plugins::empty().with("echo", "echo");
    let second_plugins = plugins();
    let first = Setup::new(plugins()).id("n1").start().await;
    let second = Setup::new(second_plugins.clone())
        .id("n2")
        .seeds(&[&first])
        .start()
        .await;
    let nodes = [&first, &second];
    wait_for_mesh(&nodes).await;
    let traffic = Traffic::start("echo", &nodes);
    for _ in 0..2 {
        fs::remove_file(second_plugins.path().join("echo.wasm")).unwrap();
        until(|| async { versions(&second, "echo").await.is_empty() }).await;
        until(|| async { first.ranking("echo", "1").await == ["n1"] }).await;
        second_plugins.clone().with("echo", "echo");
        until(|| async { first.ranking("echo", "1").await.len() == 2 }).await;
    }
    traffic.none_failed().await;
}

#[tokio::test]
async fn a_version_that_is_replaced_finishes_what_it_runs_and_is_freed() {
    let gate = Gate::new().await;
    let plugins = Plugins::empty().with_file("fickle.wasm", stamped("fickle", 0));
    let plugins = plugins.with_file("fickle.toml", gate.manifest());
    let node = Setup::new(plugins.clone()).ready().await;
    assert_eq!(node.post("/api/fickle/1?calls").send().await.ok(), "1");
    let path = format!("/api/fickle/1?fetch={}/", gate.addr);
    let running = node.post(&path).send();
    let replaced = async {
        node.wait_until_running("fickle", 1).await;
        plugins.put("fickle.wasm", &stamped("fickle", 1));
        wait_until_serving(&[&node], "fickle", &stamped("fickle", 1)).await;
        let states = versions(&node, "fickle")
            .await
            .into_iter()
            .map(|(state, found, _)| (state, found));
        let expected = [("ready", 1), ("draining", 0)];
        let expected =
            expected.map(|(state, number)| (state.to_owned(), digest(&stamped("fickle", number))));
        assert_eq!(states.collect::<Vec<_>>(), expected);
        node.wait_for_metric(r#"meshage_plugin_versions{stream="fickle"} 2"#)
            .await;
        // New messages run on the new version.
        assert_eq!(node.post("/api/fickle/1?calls").send().await.ok(), "1");
        assert_eq!(node.post("/api/fickle/1?calls").send().await.ok(), "2");
        gate.open();
    };
    let (answer, ()) = tokio::join!(running, replaced);
    assert_eq!(answer.ok(), "open");
    node.wait_for_metric(r#"meshage_plugin_versions{stream="fickle"} 1"#)
        .await;
    assert_eq!(versions(&node, "fickle").await.len(), 1);
    // The counter goes on across versions.
    node.wait_for_metric(r#"meshage_calls_total{stream="fickle"} 4"#)
        .await;
}

#[tokio::test]
async fn versions_of_a_plugin_share_its_permits_and_its_counts() {
    let gate = Gate::new().await;
    let manifest = format!("concurrency = 1\nqueue = 0\n{}", gate.manifest());
    let plugins = Plugins::empty()
        .with_file("fickle.wasm", stamped("fickle", 0))
        .with_file("fickle.toml", manifest);
    let node = Setup::new(plugins.clone()).ready().await;
    let path = format!("/api/fickle/1?fetch={}/", gate.addr);
    let running = node.post(&path).send();
    let replaced = async {
        node.wait_until_running("fickle", 1).await;
        plugins.put("fickle.wasm", &stamped("fickle", 1));
        wait_until_serving(&[&node], "fickle", &stamped("fickle", 1)).await;
        // The only permit is still held by the message that runs on the version before.
        let refused = node.post("/api/fickle/1?calls").send().await;
        refused.problem(503, "overloaded");
        gate.open();
    };
    let (answer, ()) = tokio::join!(running, replaced);
    assert_eq!(answer.ok(), "open");
    assert_eq!(node.post("/api/fickle/1?calls").send().await.ok(), "1");
    let plugins = node.admin("/plugins").await.json();
    assert_eq!(plugins["plugins"][0]["calls"], 2);
}

#[tokio::test]
async fn a_file_that_is_touched_makes_no_other_version() {
    let plugins = Plugins::empty().with("fickle", "fickle");
    let node = Setup::new(plugins.clone()).ready().await;
    assert_eq!(node.post("/api/fickle/1?calls").send().await.ok(), "1");
    for times in 1..=2 {
        let file = fs::File::options()
            .append(true)
            .open(plugins.path().join("fickle.wasm"))
            .unwrap();
        file.set_modified(SystemTime::now()).unwrap();
        until(|| async { node.events("plugin-unchanged") == times }).await;
        let listed = versions(&node, "fickle").await;
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!(listed[0].0, "ready");
    }
    // The instance is the same one as before: its count goes on.
    assert_eq!(node.post("/api/fickle/1?calls").send().await.ok(), "2");
    assert_eq!(
        node.admin("/plugins").await.json()["plugins"][0]["calls"],
        2
    );
    node.wait_for_metric(r#"meshage_calls_total{stream="fickle"} 2"#)
        .await;
    node.wait_for_metric(r#"meshage_instances{stream="fickle",state="idle"} 1"#)
        .await;
}

#[tokio::test]
async fn a_file_written_in_place_and_slowly_is_taken_when_it_is_whole() {
    let plugins = Plugins::empty().with_file("echo.wasm", stamped("echo", 0));
    let nodes = pair(&plugins).await;
    let nodes = [&nodes[0], &nodes[1]];
    let traffic = Traffic::start("echo", &nodes);
    // Overwritten in place, in one write.
    fs::write(plugins.path().join("echo.wasm"), stamped("echo", 1)).unwrap();
    wait_until_serving(&nodes, "echo", &stamped("echo", 1)).await;
    // A torn write: the second half arrives after the first has been rejected.
    let whole = stamped("echo", 2);
    fs::write(plugins.path().join("echo.wasm"), &whole[..whole.len() / 2]).unwrap();
    for node in nodes {
        wait_until_failed(node, "echo", "cut off").await;
    }
    fs::write(plugins.path().join("echo.wasm"), &whole).unwrap();
    wait_until_serving(&nodes, "echo", &whole).await;
    traffic.none_failed().await;
}

#[tokio::test]
async fn a_file_that_stays_broken_is_told_once() {
    let plugins = Plugins::empty()
        .with_file("echo.wasm", stamped("echo", 0))
        .with_file("bad.wasm", "bad");
    let node = Setup::new(plugins.clone()).ready().await;
    node.event("plugin-failed").await;
    plugins.put("echo.wasm", b"broken");
    wait_until_failed(&node, "echo", "not WebAssembly").await;
    until(|| async { node.events("plugin-failed") == 2 }).await;
    let line: Value = serde_json::from_str(&node.log_line(r#""plugin":"echo""#).await).unwrap();
    assert_eq!(line["level"], "ERROR");
    assert_eq!(line["event"], "plugin-failed");
    assert_eq!(line["serving"], digest(&stamped("echo", 0)));
    plugins.put("echo.wasm", &stamped("echo", 0));
    node.event("plugin-unchanged").await;
    assert_eq!(node.events("plugin-failed"), 2);
}

#[tokio::test]
async fn links_are_followed_wherever_they_lead() {
    // As Kubernetes mounts files: each name is a link through `..data`, a link that is replaced
    // atomically.
    let plugins = Plugins::empty();
    let at = |name: &str| plugins.path().join(name);
    let mount = |number: u8| {
        fs::create_dir(at(&format!("..version_{number}"))).unwrap();
        fs::write(
            at(&format!("..version_{number}/echo.wasm")),
            stamped("echo", number),
        )
        .unwrap();
        std::os::unix::fs::symlink(format!("..version_{number}"), at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    mount(0);
    std::os::unix::fs::symlink("..data/echo.wasm", at("echo.wasm")).unwrap();
    // And a link to a file elsewhere, whose changes raise no event for this directory.
    let elsewhere = Plugins::empty().with_file("target.wasm", stamped("echo", 10));
    std::os::unix::fs::symlink(elsewhere.path().join("target.wasm"), at("far.wasm")).unwrap();

    let nodes = pair(&plugins).await;
    let nodes = [&nodes[0], &nodes[1]];
    wait_until_serving(&nodes, "echo", &stamped("echo", 0)).await;
    wait_until_serving(&nodes, "far", &stamped("echo", 10)).await;
    let traffic = Traffic::start("echo", &nodes);
    for number in 1..4 {
        mount(number);
        fs::remove_dir_all(at(&format!("..version_{}", number - 1))).unwrap();
        wait_until_serving(&nodes, "echo", &stamped("echo", number)).await;
    }
    elsewhere.put("target.wasm", &stamped("echo", 11));
    wait_until_serving(&nodes, "far", &stamped("echo", 11)).await;
    traffic.none_failed().await;
}

#[tokio::test]
async fn a_directory_that_vanishes_takes_nothing_with_it() {
    let parent = Plugins::empty();
    let directory = parent.path().join("plugins");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("echo.wasm"), stamped("echo", 0)).unwrap();
    fs::write(directory.join("other.wasm"), stamped("echo", 0)).unwrap();
    let debug = "info,meshage_host::plugins=debug";
    let node = Setup::new(parent.subdirectory("plugins"))
        .flag("--log", debug)
        .ready()
        .await;
    let traffic = Traffic::start("echo", &[&node]);
    fs::rename(&directory, parent.path().join("away")).unwrap();
    node.event("plugins-directory-unreadable").await;
    // The node keeps looking for the directory.
    until(|| async { node.events("plugins-directory-still-unreadable") > 3 }).await;
    node.post("/api/other/1").send().await.ok();
    // The same directory comes back, and vanishes again.
    fs::rename(parent.path().join("away"), &directory).unwrap();
    node.event("plugins-directory-readable").await;
    node.post("/api/other/1").send().await.ok();
    fs::rename(&directory, parent.path().join("away")).unwrap();
    // Another directory takes its place: it is watched, and plugins that are not in it are removed.
    fs::create_dir(parent.path().join("new")).unwrap();
    fs::write(parent.path().join("new/echo.wasm"), stamped("echo", 1)).unwrap();
    fs::rename(parent.path().join("new"), &directory).unwrap();
    wait_until_serving(&[&node], "echo", &stamped("echo", 1)).await;
    wait_until_gone(&[&node], "other").await;
    let events = node.log_lines(EVENT);
    fs::write(directory.join("echo.wasm"), stamped("echo", 2)).unwrap();
    until(|| async { node.log_lines(EVENT) > events }).await;
    wait_until_serving(&[&node], "echo", &stamped("echo", 2)).await;
    traffic.none_failed().await;
}

#[tokio::test]
async fn a_manifest_takes_effect_without_its_component() {
    let plugins = Plugins::empty().with("fickle", "fickle");
    let node = Setup::new(plugins.clone()).ready().await;
    let traffic = Traffic::start("fickle", &[&node]);
    let seen = async || {
        node.post("/api/fickle/1?headers")
            .header("x-tenant", "a")
            .send()
            .await
    };
    assert_eq!(seen().await.ok(), "");
    plugins.put("fickle.toml", b"headers = [\"x-tenant\"]\n");
    until(|| async { seen().await.ok() == "x-tenant: a" }).await;
    // A wrong manifest is reported and changes nothing.
    plugins.put("fickle.toml", b"header = []\n");
    wait_until_failed(&node, "fickle", "unknown key \"header\"").await;
    assert_eq!(seen().await.ok(), "x-tenant: a");
    // Nor does a directory in its place, until that is removed.
    fs::remove_file(plugins.path().join("fickle.toml")).unwrap();
    fs::create_dir(plugins.path().join("fickle.toml")).unwrap();
    wait_until_failed(&node, "fickle", "is no regular file").await;
    assert_eq!(seen().await.ok(), "x-tenant: a");
    fs::remove_dir(plugins.path().join("fickle.toml")).unwrap();
    until(|| async { seen().await.ok().is_empty() }).await;
    until(|| async { versions(&node, "fickle").await.len() == 1 }).await;
    traffic.none_failed().await;
}

#[tokio::test]
async fn a_hundred_plugins_at_once_are_all_there_soon() {
    let plugins = Plugins::empty().with("echo", "echo");
    let nodes = pair(&plugins).await;
    let nodes = [&nodes[0], &nodes[1]];
    let traffic = Traffic::start("echo", &nodes);
    let component = stamped("echo", 1);
    let streams: Vec<String> = (0..100).map(|number| format!("stream-{number}")).collect();
    for stream in &streams {
        plugins.put(&format!("{stream}.wasm"), &component);
    }
    for stream in &streams {
        wait_until_serving(&nodes, stream, &component).await;
        nodes[0].post(&format!("/api/{stream}/1")).send().await.ok();
    }
    for stream in &streams {
        fs::remove_file(plugins.path().join(format!("{stream}.wasm"))).unwrap();
    }
    for stream in &streams {
        wait_until_gone(&nodes, stream).await;
    }
    traffic.none_failed().await;
}

#[tokio::test]
async fn a_directory_behind_a_link_is_followed_when_the_link_is_flipped() {
    let parent = Plugins::empty();
    let at = |name: &str| parent.path().join(name);
    let release = |number: u8| {
        let name = format!("release-{number}");
        fs::create_dir(at(&name)).unwrap();
        fs::write(at(&name).join("echo.wasm"), stamped("echo", number)).unwrap();
        std::os::unix::fs::symlink(&name, at("tmp")).unwrap();
        fs::rename(at("tmp"), at("current")).unwrap();
    };
    release(0);
    let debug = "info,meshage_host::plugins=debug";
    let node = Setup::new(parent.subdirectory("current"))
        .flag("--log", debug)
        .ready()
        .await;
    let traffic = Traffic::start("echo", &[&node]);
    release(1);
    wait_until_serving(&[&node], "echo", &stamped("echo", 1)).await;
    // The directory that the link now leads to is watched.
    let events = node.log_lines(EVENT);
    fs::write(at("release-1/echo.wasm"), stamped("echo", 2)).unwrap();
    until(|| async { node.log_lines(EVENT) > events }).await;
    wait_until_serving(&[&node], "echo", &stamped("echo", 2)).await;
    traffic.none_failed().await;
}

#[tokio::test]
async fn a_plugin_that_is_removed_and_comes_back_the_same_is_there_again() {
    let plugins = Plugins::empty().with_file("echo.wasm", stamped("echo", 0));
    let node = Setup::new(plugins.clone()).ready().await;
    for round in 0..3 {
        fs::remove_file(plugins.path().join("echo.wasm")).unwrap();
        until(|| async {
            versions(&node, "echo")
                .await
                .iter()
                .all(|(state, ..)| state == "draining")
        })
        .await;
        // It returns while it is still being withdrawn, queued behind others that keep the loader
        // busy.
        for other in 0..6 {
            plugins.put(
                &format!("other-{other}.wasm"),
                &stamped("fickle", 100 + round * 6 + other),
            );
        }
        plugins.put("echo.wasm", &stamped("echo", 0));
        wait_until_serving(&[&node], "echo", &stamped("echo", 0)).await;
        node.wait_for_metric(r#"meshage_plugin_versions{stream="echo"} 1"#)
            .await;
        node.post("/api/echo/1").send().await.ok();
    }
}

#[tokio::test]
async fn nodes_of_one_host_compile_a_component_once() {
    let data = tempfile::tempdir().unwrap();
    let plugins = Plugins::empty().with_file("echo.wasm", stamped("echo", 0));
    let node = |id: &str| {
        Setup::new(plugins.clone())
            .id(id)
            .flag("--data-dir", data.path().to_str().unwrap())
    };
    let first = node("n1").start().await;
    let second = node("n2").seeds(&[&first]).start().await;
    let nodes = [&first, &second];
    wait_for_mesh(&nodes).await;
    for version in 1..5 {
        plugins.put("echo.wasm", &stamped("echo", version));
        wait_until_serving(&nodes, "echo", &stamped("echo", version)).await;
    }
    let name = "meshage_components_compiled_total";
    assert_eq!(first.metric(name).await + second.metric(name).await, 5);
}

#[tokio::test]
async fn what_is_no_file_is_told_and_holds_nobody_up() {
    let plugins = Plugins::usual().with("piped", "echo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        plugins.path().join("piped.toml"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let mut node = Setup::new(plugins).ready().await;
    wait_until_failed(&node, "piped", "piped.toml is no regular file").await;
    node.post("/api/echo/1").send().await.ok();
    node.signal(rustix::process::Signal::TERM);
    assert!(node.ended().await.success());
}
