//! The handler `tally`, which is written in several languages, and does the same in each.

use serde_json::{Value, json};

use super::{Answer, Node, Plugins, Setup, State, refs, until, wait_for_mesh};

async fn act(node: &Node, stream: &str, key: &str, body: &Value) -> Answer {
    let request = node.post(&format!("/api/{stream}/{key}"));
    request.json(&body.to_string()).send().await
}

/// The examples of a document in this language.
pub(crate) fn examples(document: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let parts = document.split(fence.as_str()).skip(1);
    parts
        .map(|part| part.split("```").next().unwrap().to_owned())
        .collect()
}

/// Checks a cart, as documents show it, on a node with it.
pub(crate) async fn check_cart(component: Vec<u8>) {
    let state = State::sqlite();
    let plugins = Plugins::empty().with_file("cart.wasm", component);
    let node = Setup::new(plugins).state(&state).ready().await;
    act(&node, "cart", "ada", &json!({}))
        .await
        .problem(400, "invalid");
    let items = json!({"items": ["tea"]});
    assert_eq!(
        act(&node, "cart", "ada", &json!({"item": "tea"}))
            .await
            .json(),
        items
    );
    assert_eq!(node.get("/api/cart/ada").send().await.json(), items);
}

/// Checks state, timers, messages and calls of the component, on two nodes.
pub(crate) async fn check_tally(component: Vec<u8>) {
    let state = State::sqlite();
    let mut nodes = Vec::new();
    for number in 1..=2 {
        let plugins = Plugins::empty().with_file("tally.wasm", &component);
        let setup = Setup::new(plugins).id(&format!("n{number}")).state(&state);
        nodes.push(setup.seeds(&refs(&nodes)).ready().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    let node = &nodes[0];
    // One is forwarded, the other is not.
    let keys = [
        node.key_owned_by("tally", "n1").await,
        node.key_owned_by("tally", "n2").await,
    ];
    for (key, other) in [(&keys[0], &keys[1]), (&keys[1], &keys[0])] {
        let ask = async |query: &str, body: Value| {
            act(node, "tally", &format!("{key}?{query}"), &body).await
        };
        let get = async |key: &str| node.get(&format!("/api/tally/{key}")).send().await.json();
        act(node, "tally", &format!("{other}?act=clear"), &json!({})).await;
        act(node, "tally", &format!("{key}?act=clear"), &json!({})).await;
        assert_eq!(get(key).await, json!({"values": []}));
        assert_eq!(ask("", json!({})).await.ok(), r#"{"count":1}"#);
        assert_eq!(ask("", json!({"by": 4})).await.ok(), r#"{"count":5}"#);
        ask("act=fail", json!({})).await.problem(409, "conflict");
        node.get(&format!("/api/tally/{key}?write=1"))
            .send()
            .await
            .problem(500, "read-only");
        for name in ["b", "a"] {
            assert_eq!(
                ask("act=set", json!({"name": name, "value": [name]}))
                    .await
                    .status,
                204
            );
        }
        let expected = json!({"count": 5, "values": [["v/a", ["a"]], ["v/b", ["b"]]]});
        assert_eq!(get(key).await, expected);
        // A timer, one that is cancelled, and one that takes another's place.
        ask("act=remind", json!({"name": "never", "delay": 60_000})).await;
        ask("act=cancel", json!({"name": "never"})).await;
        ask("act=remind", json!({"name": "once", "delay": 60_000})).await;
        ask("act=remind", json!({"name": "once", "delay": 10})).await;
        until(async || get(key).await["timers"] == json!(["once"])).await;
        // A message, and a call, to an entity of the other node.
        assert_eq!(
            ask("act=send", json!({"to": other, "by": 7})).await.ok(),
            r#"{"count":12}"#
        );
        until(async || get(other).await["count"] == 7).await;
        assert_eq!(
            ask("act=call", json!({"to": other, "by": 1})).await.ok(),
            r#"{"count":8}"#
        );
        assert_eq!(
            ask("act=ask", json!({"to": other})).await.json()["count"],
            8
        );
        ask("act=call", json!({"to": key}))
            .await
            .problem(508, "cycle");
        assert_eq!(ask("act=clear", json!({})).await.status, 204);
        assert_eq!(get(key).await, json!({"values": []}));
    }
}
