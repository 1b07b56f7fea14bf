//! A plugin that is dropped on one node is live on all of them; the highest revision wins, whatever happens to nodes, files
//! and the network.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use minisign::KeyPair;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::harness::{Node, Plugins, Setup, Traffic, binary, refs, stamped, until, wait_for_mesh};

/// Where a node lives, over restarts.
struct Home {
    id: String,
    plugins: Plugins,
    data: Arc<TempDir>,
}

impl Home {
    fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            plugins: Plugins::empty(),
            data: Arc::new(TempDir::new().unwrap()),
        }
    }

    fn setup(&self, seeds: &[&Node]) -> Setup {
        Setup::new(self.plugins.clone())
            .id(&self.id)
            .seeds(seeds)
            .flag("--data-dir", self.data.path().to_str().unwrap())
            .flag("--share-plugins", "true")
    }

    fn drop_file(&self, stream: &str, component: &[u8]) {
        self.plugins.put(&format!("{stream}.wasm"), component);
    }

    fn remove(&self, stream: &str) {
        fs::remove_file(self.plugins.path().join(format!("{stream}.wasm"))).unwrap();
    }
}

/// A mesh that shares its plugins, and has none yet.
async fn mesh(size: usize) -> (Vec<Home>, Vec<Node>) {
    let homes: Vec<Home> = (1..=size).map(|it| Home::new(&format!("n{it}"))).collect();
    let mut nodes = Vec::new();
    for home in &homes {
        nodes.push(home.setup(&refs(&nodes)).start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    (homes, nodes)
}

async fn kill(mut node: Node) {
    node.kill().await;
}

fn digest(component: &[u8]) -> String {
    format!("{:x}", Sha256::digest(component))
}

/// What `/plugins` says of a stream: state, digest and error of each version.
async fn versions(node: &Node, stream: &str) -> Vec<[String; 3]> {
    let listed = node.admin("/plugins").await.json();
    let of_stream = |plugin: &&Value| plugin["stream"] == stream;
    let plugins = listed["plugins"].as_array().unwrap().iter();
    let text = |plugin: &Value, field: &str| plugin[field].as_str().unwrap_or_default().to_owned();
    plugins
        .filter(of_stream)
        .map(|plugin| ["state", "digest", "error"].map(|field| text(plugin, field)))
        .collect()
}

/// Waits until each node runs this component, and everybody sees that.
async fn wait_until_live(nodes: &[&Node], stream: &str, component: &[u8]) {
    let digest = digest(component);
    for node in nodes {
        for other in nodes {
            until(|| async {
                let view = node.view().await;
                let seen = view.get(&other.id);
                seen.is_some_and(|seen| seen.offers.get(stream) == Some(&digest))
            })
            .await;
        }
    }
}

async fn wait_until_gone(from: &Node, nodes: &[&Node], stream: &str) {
    for node in nodes {
        until(|| async { !node.view().await[&from.id].offers.contains_key(stream) }).await;
    }
}

async fn wait_for_error(node: &Node, stream: &str, part: &str) {
    until(|| async {
        let versions = versions(node, stream).await;
        versions.iter().any(|[_, _, error]| error.contains(part))
    })
    .await;
}

/// What the node says of a stream in `GET /releases`.
async fn shared(node: &Node, stream: &str) -> Value {
    let listed = node.admin("/releases").await.json();
    let streams = listed["streams"].as_array().unwrap();
    let found = streams.iter().find(|it| it["stream"] == stream);
    found.cloned().unwrap_or_default()
}

async fn current(node: &Node, stream: &str) -> u64 {
    let shared = shared(node, stream).await;
    shared["revisions"][0]["number"].as_u64().unwrap_or(0)
}

async fn wait_for_revision(nodes: &[&Node], stream: &str, number: u64) {
    for node in nodes {
        until(|| async { current(node, stream).await == number }).await;
    }
}

/// Runs `meshage-host plugins …` for a node.
fn plugins(node: &Node, arguments: &[&str]) -> Output {
    let (_, port) = node.admin.rsplit_once(':').unwrap();
    Command::new(binary())
        .args(["--admin-port", port, "plugins"])
        .args(arguments)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let text = [&*output.stdout, &*output.stderr].concat();
    String::from_utf8(text).unwrap()
}

fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    said(&output)
}

fn failed(output: Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    said(&output)
}

#[tokio::test]
async fn what_one_node_is_given_runs_on_all_and_no_request_fails() {
    let (homes, nodes) = mesh(3).await;
    let nodes = refs(&nodes);
    let [one, two, three] = [0, 1, 2].map(|it| stamped("echo", it));
    homes[1].drop_file("echo", &one);
    wait_until_live(&nodes, "echo", &one).await;
    let traffic = Traffic::start("echo", &nodes);
    traffic.wait_for(200).await;

    // Replaced by another node, and broken by a third.
    homes[0].drop_file("echo", &two);
    wait_until_live(&nodes, "echo", &two).await;
    homes[2].drop_file("echo", b"broken");
    wait_for_error(nodes[2], "echo", "not WebAssembly").await;
    traffic.wait_for(200).await;
    assert_eq!(current(nodes[2], "echo").await, 2);
    // A good one comes from elsewhere: the broken file is no matter any more.
    homes[1].drop_file("echo", &three);
    wait_until_live(&nodes, "echo", &three).await;
    until(|| async {
        versions(nodes[2], "echo")
            .await
            .iter()
            .all(|it| it[2].is_empty())
    })
    .await;

    // Rolled back, by the command, on a node that has no file of it.
    let listed = succeeded(plugins(nodes[2], &["list"]));
    assert!(listed.contains("on n1, n2, n3"), "{listed}");
    let text = succeeded(plugins(nodes[2], &["use", "echo", "2"]));
    assert!(text.contains("echo: revision 4 is that of 2"), "{text}");
    wait_until_live(&nodes, "echo", &two).await;
    let shadowed = shared(nodes[1], "echo").await["shadowed"].to_string();
    assert!(shadowed.contains("revision 4"), "{shadowed}");
    for (arguments, wrong) in [
        (
            &["use", "echo", "9"][..],
            "\"9\" of the stream echo, but 4 (",
        ),
        (&["use", "echo", "4"], "is what the mesh runs"),
        (&["use", "echo"], "no file of the stream echo"),
        (&["use", "other", "1"], "knows no stream other"),
        (&["remove", "other"], "knows no stream other"),
        (&["remove", "a/b"], "'/'"),
    ] {
        let text = failed(plugins(nodes[0], arguments));
        assert!(text.contains(wrong), "{arguments:?}: {text}");
    }

    // A file that is removed goes from its node alone, and a removed stream from all.
    homes[0].remove("echo");
    wait_until_gone(nodes[0], &nodes, "echo").await;
    assert_eq!(shared(nodes[0], "echo").await["removedHere"], true);
    traffic.wait_for(200).await;
    let sent = traffic.none_failed().await;
    assert!(sent > 600, "{sent} are few");
    succeeded(plugins(nodes[1], &["remove", "echo"]));
    for node in &nodes {
        wait_until_gone(node, &nodes, "echo").await;
    }
    // A file that is only touched brings nothing back; somebody's word does.
    homes[1].drop_file("echo", &three);
    succeeded(plugins(nodes[1], &["use", "echo"]));
    wait_until_live(&nodes, "echo", &three).await;
    wait_for_revision(&nodes, "echo", 6).await;
}

#[tokio::test]
async fn two_at_once_on_two_nodes_come_to_one_and_the_other_is_kept() {
    let (homes, nodes) = mesh(3).await;
    let nodes = refs(&nodes);
    let components = [stamped("echo", 1), stamped("echo", 2)];
    for (home, component) in homes.iter().zip(&components) {
        home.drop_file("echo", component);
    }
    until(|| async {
        let mut offers = Vec::new();
        for node in &nodes {
            let view = node.view().await;
            offers.extend(view.values().map(|it| it.offers.get("echo").cloned()));
        }
        offers.iter().all(|it| it.is_some() && *it == offers[0])
    })
    .await;
    let winner = nodes[2].view().await["n3"].offers["echo"].clone();
    let loser = components.iter().find(|it| digest(it) != winner).unwrap();
    // Unless one was later than the news of the other, both are revision 1. It can be had again where it is, by its name.
    let loses = components.iter().position(|it| it == loser).unwrap();
    let shared = shared(nodes[loses], "echo").await;
    let revisions = shared["revisions"].as_array().unwrap();
    assert_eq!(revisions.len(), 2, "{shared}");
    assert!(shared["shadowed"].is_string(), "{shared}");
    let name = revisions[1]["release"].as_str().unwrap();
    succeeded(plugins(nodes[loses], &["use", "echo", &name[..12]]));
    wait_until_live(&nodes, "echo", loser).await;
}

#[tokio::test]
async fn who_joins_takes_the_meshs_word_and_keeps_its_own_files_aside() {
    let home = Home::new("n1");
    let first = home.setup(&[]).ready().await;
    home.drop_file("echo", &stamped("echo", 1));
    wait_for_revision(&[&first], "echo", 1).await;
    home.drop_file("echo", &stamped("echo", 2));
    wait_for_revision(&[&first], "echo", 2).await;

    let late = Home::new("n2");
    late.drop_file("echo", &stamped("echo", 1));
    late.drop_file("own", &stamped("echo", 3));
    let second = late.setup(&[&first]).ready().await;
    let nodes = [&first, &second];
    wait_until_live(&nodes, "echo", &stamped("echo", 2)).await;
    let own = shared(&second, "own").await["shadowed"].to_string();
    assert!(own.contains("did not know it"), "{own}");
    assert!(versions(&second, "own").await.is_empty());
    let listed = succeeded(plugins(&second, &["list"]));
    for part in ["the mesh runs revision 2", "did not know it"] {
        assert!(listed.contains(part), "{part}: {listed}");
    }
    succeeded(plugins(&second, &["use", "own"]));
    wait_until_live(&nodes, "own", &stamped("echo", 3)).await;

    // What is known outlives the nodes, and the mesh's word a node that was away.
    kill(second).await;
    home.drop_file("echo", &stamped("echo", 4));
    wait_for_revision(&[&first], "echo", 3).await;
    let second = late.setup(&[&first]).ready().await;
    wait_until_live(&[&first, &second], "echo", &stamped("echo", 4)).await;
    let ran = shared(&second, "echo").await["revisions"][0]["release"].clone();
    until(|| async { known_of(&late, "echo")["ran"] == ran }).await;
    kill(second).await;
    kill(first).await;
    let alone = late.setup(&[]).ready().await;
    wait_until_live(&[&alone], "echo", &stamped("echo", 4)).await;
    assert_eq!(current(&alone, "echo").await, 3);
    // Nobody knows better: a file that was replaced while the node was down counts.
    kill(alone).await;
    late.drop_file("echo", &stamped("echo", 5));
    let alone = late.setup(&[]).ready().await;
    wait_until_live(&[&alone], "echo", &stamped("echo", 5)).await;
    wait_for_revision(&[&alone], "echo", 4).await;
    // What was removed here stays so.
    late.remove("own");
    wait_until_gone(&alone, &[&alone], "own").await;
    until(|| async { known_of(&late, "own")["removed_at"] == 1 }).await;
    kill(alone).await;
    let alone = late.setup(&[]).ready().await;
    assert!(!alone.view().await["n2"].offers.contains_key("own"));
}

#[tokio::test]
async fn nodes_that_start_at_once_with_the_same_files_agree() {
    let homes: Vec<Home> = (1..=3).map(|it| Home::new(&format!("n{it}"))).collect();
    for home in &homes {
        home.drop_file("echo", &stamped("echo", 1));
    }
    let first = homes[0].setup(&[]).start().await;
    let mut nodes = vec![first];
    for home in &homes[1..] {
        nodes.push(home.setup(&[&nodes[0]]).start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    wait_until_live(&refs(&nodes), "echo", &stamped("echo", 1)).await;
    wait_for_revision(&refs(&nodes), "echo", 1).await;
    for node in &nodes {
        assert!(shared(node, "echo").await["shadowed"].is_null());
    }
}

/// A component with this many bytes more, which nobody runs.
fn large(bytes: usize) -> Vec<u8> {
    let mut component = fs::read(crate::harness::guest("echo")).unwrap();
    let mut section = vec![4];
    section.extend(b"bulk");
    section.extend((0..bytes).map(|it| (it * 31 % 251) as u8));
    let mut length = section.len();
    component.push(0);
    while length >= 0x80 {
        component.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    component.push(length as u8);
    component.extend(section);
    component
}

#[tokio::test]
async fn a_large_one_arrives_although_nodes_die_in_the_middle() {
    let (homes, mut nodes) = mesh(2).await;
    let component = large(60 << 20);
    homes[0].drop_file("echo", &component);
    wait_for_revision(&refs(&nodes), "echo", 1).await;
    // It has heard of it, and dies, most likely while it fetches.
    kill(nodes.pop().unwrap()).await;
    let second = homes[1].setup(&[&nodes[0]]).start().await;
    wait_until_live(&[&nodes[0], &second], "echo", &component).await;
    // Both have it: who has given it first need not be there.
    kill(nodes.pop().unwrap()).await;
    let third = Home::new("n3");
    let third = third.setup(&[&second]).start().await;
    wait_until_live(&[&second, &third], "echo", &component).await;
}

fn sign(home: &Home, content: &[u8], keys: &KeyPair, comment: &str) {
    let content = Cursor::new(content);
    let signature = minisign::sign(None, &keys.sk, content, Some(comment), None).unwrap();
    let signature = signature.into_string();
    home.plugins.put("echo.wasm.minisig", signature.as_bytes());
}

/// A signed file, with its signature first, so that the file is never there without.
fn drop_signed(home: &Home, component: &[u8], keys: &KeyPair, comment: &str) {
    sign(home, component, keys, comment);
    home.drop_file("echo", component);
}

#[tokio::test]
async fn each_node_trusts_whom_it_trusts_and_old_releases_do_not_come_back() {
    let new_keys = || KeyPair::generate_unencrypted_keypair().unwrap();
    let (keys, others) = (new_keys(), new_keys());
    let trusted = |home: &Home, keys: &KeyPair| {
        let file = home.data.path().join("trusted-keys");
        fs::write(&file, keys.pk.to_base64()).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let homes = ["n1", "n2", "n3"].map(Home::new);
    let mut nodes = Vec::new();
    for (home, keys) in homes.iter().zip([&keys, &keys, &others]) {
        let setup = home.setup(&refs(&nodes));
        let setup = setup.flag("--trusted-keys", &trusted(home, keys));
        nodes.push(setup.start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    let [first, second] = [1, 2].map(|it| stamped("echo", it));
    drop_signed(&homes[0], &first, &keys, "stream:echo version:1");
    let two = [&nodes[0], &nodes[1]];
    wait_until_live(&two, "echo", &first).await;
    wait_for_error(&nodes[2], "echo", "a key that is not trusted").await;
    until(|| async {
        let shared = shared(&nodes[2], "echo").await;
        shared["nodes"] == json!(["n1", "n2"]) && shared["idleNodes"] == json!(["n3"])
    })
    .await;
    assert!(!nodes[0].view().await["n3"].offers.contains_key("echo"));

    drop_signed(&homes[1], &second, &keys, "stream:echo version:2");
    wait_until_live(&two, "echo", &second).await;
    // A signature that is good, and old, or for another stream.
    until(|| async { shared(&nodes[0], "echo").await["shadowed"].is_string() }).await;
    let signature = fs::read(homes[0].plugins.path().join("echo.wasm.minisig")).unwrap();
    succeeded(plugins(&nodes[0], &["use", "echo"]));
    wait_for_error(&nodes[0], "echo", "version 1 is older than 2").await;
    drop_signed(&homes[0], &first, &keys, "stream:cart version:3");
    wait_for_error(&nodes[0], "echo", "names the stream \"cart\"").await;
    drop_signed(&homes[0], &first, &keys, "whatever");
    wait_for_error(&nodes[0], "echo", "names no stream").await;
    assert_eq!(current(&nodes[1], "echo").await, 2);
    // On purpose it may go back, also where the file is that old one.
    homes[0].plugins.put("echo.wasm.minisig", &signature);
    until(|| async { shared(&nodes[0], "echo").await["shadowed"].is_string() }).await;
    succeeded(plugins(&nodes[1], &["use", "echo", "1"]));
    // What is acknowledged is on disk.
    assert_eq!(known_of(&homes[1], "echo")["revisions"][0]["number"], 3);
    wait_until_live(&two, "echo", &first).await;
    until(|| async {
        versions(&nodes[0], "echo")
            .await
            .iter()
            .all(|it| it[2].is_empty())
    })
    .await;
    // A restart finds what the node trusts.
    for (place, home) in homes.iter().enumerate() {
        let file = home.data.path().join("trusted-keys");
        let seeds: Vec<&Node> = nodes.iter().filter(|it| it.id != home.id).collect();
        let setup = home.setup(&seeds);
        let setup = setup.flag("--trusted-keys", file.to_str().unwrap());
        nodes[place].kill().await;
        nodes[place] = setup.ready().await;
    }
    wait_for_mesh(&refs(&nodes)).await;
    wait_until_live(&[&nodes[0], &nodes[1]], "echo", &first).await;
}

/// The file in which a node keeps what it knows.
fn records(home: &Home) -> PathBuf {
    let data = home.data.path().join("shared-plugins");
    let mesh = fs::read_dir(data).unwrap().next().unwrap().unwrap().path();
    mesh.join(format!("{}.json", home.id))
}

fn known(home: &Home) -> Option<Value> {
    serde_json::from_slice(&fs::read(records(home)).ok()?).ok()
}

/// What it knows of a stream.
fn known_of(home: &Home, stream: &str) -> Value {
    known(home).unwrap_or_default()["streams"][stream].clone()
}

#[tokio::test]
async fn what_is_lost_is_found_again_and_what_nobody_has_takes_nothing_away() {
    let (homes, mut nodes) = mesh(2).await;
    let [one, two, three] = [1, 2, 3].map(|it| stamped("echo", it));
    homes[0].drop_file("echo", &one);
    wait_until_live(&refs(&nodes), "echo", &one).await;
    // Somebody cleans up on the first node, whose file it is: who joins gets it all the same.
    fs::remove_dir_all(homes[0].data.path().join("shared-plugins")).unwrap();
    kill(nodes.pop().unwrap()).await;
    let third = Home::new("n3");
    let node = third.setup(&[&nodes[0]]).ready().await;
    wait_until_live(&[&nodes[0], &node], "echo", &one).await;
    nodes.push(node);

    // The only node that has a release dies; the other one has heard of it, and runs what it ran, over a restart, too.
    homes[0].drop_file("echo", &two);
    wait_until_live(&refs(&nodes), "echo", &two).await;
    let ran = shared(&nodes[1], "echo").await["revisions"][0]["release"].clone();
    until(|| async { known_of(&third, "echo")["ran"] == ran }).await;
    kill(nodes.pop().unwrap()).await;
    homes[0].drop_file("echo", &three);
    wait_until_live(&refs(&nodes), "echo", &three).await;
    until(|| async { known_of(&homes[0], "echo")["revisions"][0]["number"] == 3 }).await;
    kill(nodes.pop().unwrap()).await;
    let mut own = known(&third).unwrap();
    own["streams"]["echo"]["revisions"] = known_of(&homes[0], "echo")["revisions"].clone();
    fs::write(records(&third), own.to_string()).unwrap();
    let node = third.setup(&[]).ready().await;
    wait_until_live(&[&node], "echo", &two).await;
    until(|| async { shared(&node, "echo").await["problem"] == "no live node has it" }).await;
    let traffic = Traffic::start("echo", &[&node]);
    let first = homes[0].setup(&[&node]).ready().await;
    wait_until_live(&[&first, &node], "echo", &three).await;
    traffic.none_failed().await;
}

#[tokio::test]
async fn a_directory_that_goes_away_removes_nothing() {
    let plugins = Plugins::empty();
    let mounted = plugins.subdirectory("mounted");
    fs::create_dir(mounted.path()).unwrap();
    let home = Home {
        plugins: mounted,
        ..Home::new("n1")
    };
    let node = home.setup(&[]).ready().await;
    home.drop_file("echo", &stamped("echo", 1));
    wait_until_live(&[&node], "echo", &stamped("echo", 1)).await;
    let traffic = Traffic::start("echo", &[&node]);
    // As when something is mounted over it, and unmounted.
    let aside = plugins.path().join("aside");
    fs::rename(home.plugins.path(), &aside).unwrap();
    fs::create_dir(home.plugins.path()).unwrap();
    home.drop_file("other", &stamped("echo", 2));
    wait_until_live(&[&node], "other", &stamped("echo", 2)).await;
    traffic.wait_for(500).await;
    let restored = |from: &Path, to: &Path| {
        fs::remove_dir_all(to).unwrap();
        fs::rename(from, to).unwrap();
    };
    restored(&aside, home.plugins.path());
    home.drop_file("third", &stamped("echo", 3));
    wait_until_live(&[&node], "third", &stamped("echo", 3)).await;
    traffic.none_failed().await;
    assert_eq!(current(&node, "echo").await, 1);
    // Who removes a file there means it.
    home.remove("echo");
    wait_until_gone(&node, &[&node], "echo").await;
}

#[tokio::test]
async fn a_node_that_does_not_share_goes_its_own_way() {
    let home = Home::new("n1");
    let sharing = home.setup(&[]).ready().await;
    home.drop_file("echo", &stamped("echo", 1));
    wait_until_live(&[&sharing], "echo", &stamped("echo", 1)).await;
    let own = Plugins::empty().with_file("own.wasm", stamped("echo", 2));
    let other = Setup::new(own.clone()).id("n2").seeds(&[&sharing]);
    let other = other.ready().await;
    wait_for_mesh(&[&sharing, &other]).await;
    for node in [&sharing, &other] {
        let view = node.view().await;
        assert_eq!(view["n1"].streams(), ["echo"]);
        assert_eq!(view["n2"].streams(), ["own"]);
        node.post("/api/echo/1").json("{}").send().await.ok();
        node.post("/api/own/1").json("{}").send().await.ok();
    }
    assert_eq!(other.admin("/releases").await.status, 404);
    let text = failed(plugins(&other, &["list"]));
    assert!(text.contains("--share-plugins"), "{text}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_sides_of_a_split_come_to_one_when_it_heals() {
    use crate::harness::{Path as Way, Wire};
    let wire = Wire::lay(3);
    let homes: Vec<Home> = (1..=3).map(|it| Home::new(&format!("n{it}"))).collect();
    let mut nodes = Vec::new();
    for (number, home) in (1..).zip(&homes) {
        let seeds = refs(&nodes);
        let setup = Setup::new(home.plugins.clone()).on(&wire, number);
        let setup = setup.seeds(&seeds).flag("--share-plugins", "true");
        let setup = setup.flag("--data-dir", home.data.path().to_str().unwrap());
        nodes.push(setup.flag("--share-unsigned", "true").start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    homes[0].drop_file("echo", &stamped("echo", 1));
    wait_until_live(&refs(&nodes), "echo", &stamped("echo", 1)).await;
    wire.between(&[1, 2], &[3], Way::Cut);
    let sides = [&refs(&nodes)[..2], &refs(&nodes)[2..]];
    for side in sides {
        for node in side {
            until(|| async { node.view().await.len() == side.len() }).await;
        }
    }
    homes[2].drop_file("echo", &stamped("echo", 9));
    wait_until_live(sides[1], "echo", &stamped("echo", 9)).await;
    for version in 2..=3 {
        homes[1].drop_file("echo", &stamped("echo", version));
        wait_until_live(sides[0], "echo", &stamped("echo", version)).await;
    }
    wire.heal();
    // Two changes are more than one.
    wait_until_live(&refs(&nodes), "echo", &stamped("echo", 3)).await;
    wait_for_revision(&refs(&nodes), "echo", 3).await;
    let shadowed = shared(&nodes[2], "echo").await["shadowed"].to_string();
    assert!(shadowed.contains("revision 3"), "{shadowed}");
}

#[tokio::test]
async fn on_a_network_sharing_needs_keys_or_a_word_that_it_does_not() {
    let secret = crate::harness::Secret::shared();
    let open = |home: &Home| {
        let setup = home.setup(&[]).flag("--bind", "0.0.0.0").secret(&secret);
        setup.flag("--advertise", "127.0.0.1")
    };
    let home = Home::new("n1");
    let (code, said) = open(&home).fail().await;
    assert_eq!(code, 2, "{said}");
    for part in ["share_plugins", "trusted_keys", "share_unsigned"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    open(&home).flag("--share-unsigned", "true").ready().await;
}
