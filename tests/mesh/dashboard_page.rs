//! What a person sees of a mesh in a real browser.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use fantoccini::Locator;
use rustix::process::Signal;

use crate::harness::{
    Browser, Node, Plugins, Setup, State, act, journal, journal_mesh, journal_setup, refs, until,
    wait_for_mesh,
};

const TOKEN: &str = "the-token-of-operators";

/// Opens the dashboard of a node.
async fn open(browser: &Browser, node: &Node) {
    browser
        .page
        .goto(&format!("http://{}/", node.admin))
        .await
        .unwrap();
}

/// Nothing came from elsewhere, and nothing went wrong that the page does not show.
async fn check_is_clean(browser: &Browser, node: &Node) {
    let own = format!("http://{}/", node.admin);
    let requests = browser.requests().await;
    assert!(requests.len() > 3, "{requests:?}");
    let foreign = requests.iter().find(|url| !url.starts_with(&own));
    assert_eq!(foreign, None);
    let console = browser.console().await;
    assert!(console.is_empty(), "{console:?}");
}

#[tokio::test]
async fn a_browser_shows_that_a_mesh_is_well_and_what_is_wrong() {
    let Some(browser) =
        Browser::start("a_browser_shows_that_a_mesh_is_well_and_what_is_wrong").await
    else {
        return;
    };
    let state = State::sqlite();
    let plugins = journal();
    let first = Setup::new(plugins.clone())
        .id("n1")
        .state(&state)
        .start()
        .await;
    let mut nodes = vec![first];
    for number in 2..=3 {
        nodes.push(
            journal_setup(number, &state)
                .seeds(&[&nodes[0]])
                .start()
                .await,
        );
    }
    wait_for_mesh(&refs(&nodes)).await;
    open(&browser, &nodes[0]).await;
    browser.shows("#verdict", "Well").await;
    browser.shows("#nodes tbody", "n3").await;
    act(&nodes[0], "a", "append=x").await.ok();
    browser.shows("#streams tbody", "journal").await;

    browser.picture("dashboard.png", 1_000).await;

    // A message that is not tried again.
    let to = nodes[0].key_owned_by("journal", "n1").await;
    act(
        &nodes[0],
        "a",
        &format!("send={to}&send_id=x&send_then=trap"),
    )
    .await
    .ok();
    let failed = r#"meshage_sends_total{outcome="failed"}"#;
    until(|| async {
        let mut failures = 0;
        for node in &nodes {
            failures += node.metric(failed).await;
        }
        failures > 0
    })
    .await;
    state
        .execute("UPDATE meshage_send SET tries = 19, wake_at = 1")
        .await;
    browser.shows("#findings", "stuck").await;
    browser.shows("#verdict", "Look").await;

    // A plugin that cannot be loaded.
    plugins.put("broken.wasm", b"no component");
    browser.shows("#findings", "broken").await;
    browser.shows("#findings", "WebAssembly").await;

    nodes[2].kill().await;
    browser.shows("#findings", "n3").await;
    browser.shows("#nodes tbody", "gone").await;
    browser.shows("#events tbody", "node-gone").await;
    browser.picture("dashboard-look.png", 620).await;
    check_is_clean(&browser, &nodes[0]).await;
    browser.end().await;
}

#[tokio::test]
async fn what_an_entity_holds_and_who_owns_a_key_is_found_in_a_browser() {
    let test = "what_an_entity_holds_and_who_owns_a_key_is_found_in_a_browser";
    let Some(browser) = Browser::start(test).await else {
        return;
    };
    let state = State::sqlite();
    let nodes = journal_mesh(1, &state).await;
    act(&nodes[0], "cart-17", "append=apples").await.ok();
    open(&browser, &nodes[0]).await;
    browser.shows("#nodes tbody", "n1").await;
    let press = async |css: &str| {
        let button = browser
            .page
            .wait()
            .for_element(Locator::Css(css))
            .await
            .unwrap();
        button.click().await.unwrap();
    };
    until(|| async { browser.text("#browse select").await.contains("journal") }).await;
    press("#browse button").await;
    browser.shows("#keys", "cart-17").await;
    press("#keys li button, #keys li a").await;
    browser.shows("#entity", "apples").await;

    let type_in = async |css: &str, text: &str| {
        let field = browser.page.find(Locator::Css(css)).await.unwrap();
        field.send_keys(text).await.unwrap();
    };
    type_in("#owner input[name=stream]", "journal").await;
    type_in("#owner input[name=key]", "cart-17").await;
    press("#owner button").await;
    browser.shows("#owner ol", "n1").await;
    check_is_clean(&browser, &nodes[0]).await;
    browser.end().await;
}

#[tokio::test]
async fn a_browser_logs_in_with_a_token_and_out() {
    let Some(browser) = Browser::start("a_browser_logs_in_with_a_token_and_out").await else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tokens");
    fs::write(&file, TOKEN).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let node = Setup::new(Plugins::empty().with("echo", "echo"))
        .id("n1")
        .flag("--token-file", file.to_str().unwrap())
        .ready()
        .await;
    open(&browser, &node).await;
    let enter = async |token: &str| {
        let field = browser
            .page
            .wait()
            .for_element(Locator::Css("#login input[name=token]"));
        let field = field.await.unwrap();
        field.clear().await.unwrap();
        field.send_keys(token).await.unwrap();
        let button = browser
            .page
            .find(Locator::Css("#login button"))
            .await
            .unwrap();
        button.click().await.unwrap();
    };
    browser.shows("#login", "Token").await;
    enter("some-other-token-0123").await;
    browser.shows("#login .answer", "token").await;
    enter(TOKEN).await;
    browser.shows("#nodes tbody", "n1").await;
    browser.shows("#verdict", "Well").await;
    let out = browser.page.find(Locator::Css("#log-out")).await.unwrap();
    out.click().await.unwrap();
    browser.shows("#login", "Token").await;
    assert_eq!(browser.text("#nodes tbody").await, "");
    browser.end().await;
}

/// A page that is left open must not hold up a node that leaves.
#[tokio::test]
async fn an_open_page_does_not_hold_up_leaving() {
    let Some(browser) = Browser::start("an_open_page_does_not_hold_up_leaving").await else {
        return;
    };
    let mut node = Setup::new(Plugins::empty().with("echo", "echo"))
        .id("n1")
        .ready()
        .await;
    open(&browser, &node).await;
    browser.shows("#nodes tbody", "n1").await;
    let began = Instant::now();
    node.signal(Signal::TERM);
    assert!(node.ended().await.success());
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    browser.end().await;
}
