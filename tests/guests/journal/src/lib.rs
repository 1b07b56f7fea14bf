//! The stream `journal` of the tests: each message appends an id to the entity's list and gets the
//! list back, and does what its query asks for besides.

#[path = "../../fickle/src/fetch.rs"]
#[allow(dead_code)]
mod fetch;

use std::thread::sleep;
use std::time::{Duration, SystemTime};

use meshage_sdk::{Entity, Failure, Json, Message, Query, Timer, Value, json};
use serde::Deserialize;

/// What a message is to do, in this order.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Deletes all values.
    #[serde(default)]
    clear: bool,
    /// Appends this to the list.
    append: Option<String>,
    /// Writes so many bytes to the value `set`, so many times, to names with a number at the end.
    set: Option<String>,
    #[serde(default)]
    bytes: usize,
    #[serde(default = "once")]
    times: usize,
    delete: Option<String>,
    /// Waits for so long, in the host.
    #[serde(default)]
    wait_ms: u64,
    /// Waits until this server answers: `host:port/`.
    wait_for: Option<String>,
    /// Calls the entity of the first of these keys, by commas, which calls the next one, and so on; each
    /// appends the id of this one. In a `GET`, they read.
    call: Option<String>,
    /// How the called one ends.
    call_then: Option<String>,
    /// Sends an append of `send_id` to the entity of this key.
    send: Option<String>,
    send_id: Option<String>,
    /// To this stream, and how it ends there.
    send_to: Option<String>,
    send_then: Option<String>,
    /// Whom it calls there.
    send_call: Option<String>,
    /// Sets or removes the timer of this name, which appends `timer-NAME`.
    remind: Option<String>,
    cancel: Option<String>,
    /// How often the timer sets itself again when it comes.
    #[serde(default)]
    again: u64,
    /// Sets so many timers, the first one after `after_ms`, each so much later than the one before. When
    /// they come they append how late they are in milliseconds.
    #[serde(default)]
    timers: u64,
    #[serde(default)]
    every_ms: u64,
    /// When what is sent is due, and the timer.
    #[serde(default)]
    after_ms: u64,
    /// How it ends: `trap`, `fail`, `spin`; a reply otherwise.
    then: Option<String>,
    /// Returns so many bytes.
    #[serde(default)]
    reply_bytes: usize,
    /// Returns the size of this value, and the list.
    get: Option<String>,
    /// Returns the names with this prefix.
    scan: Option<String>,
}

fn once() -> usize {
    1
}

#[meshage_sdk::handler]
fn handle(
    message: Message,
    entity: Entity,
    timer: Option<Timer>,
    Query(query): Query<Wanted>,
) -> Result<Json<Value>, Failure> {
    // What was sent by another one has it in its body.
    let wanted = match message.body() {
        [] => query,
        _ => message.json()?,
    };
    if wanted.clear {
        entity.clear();
    }
    let mut list: Vec<String> = entity.get("list")?.unwrap_or_default();
    if let Some(id) = &wanted.append {
        list.push(id.clone());
        entity.set("list", &list)?;
    }
    if let Some(timer) = &timer {
        list.push(match timer.name().strip_prefix("due-") {
            Some(due) => format!("{due}+{}", now_ms().saturating_sub(number(due)?)),
            None => format!("timer-{}", timer.name()),
        });
        entity.set("list", &list)?;
        let again: u64 = entity.get("again")?.unwrap_or_default();
        if again > 0 {
            entity.set("again", &(again - 1))?;
            entity.remind(timer.name(), Duration::from_millis(1))?;
        }
    }
    if wanted.again > 0 {
        entity.set("again", &wanted.again)?;
    }
    let after = Duration::from_millis(wanted.after_ms);
    let called = match &wanted.call {
        // Which one depends on the state.
        Some(keys) if keys == "last" => {
            let last = list.iter().rev().nth(1).cloned().unwrap_or_default();
            Some(call(&entity, &last, &wanted)?)
        }
        Some(keys) => Some(call(&entity, keys, &wanted)?),
        None => None,
    };
    if let Some(key) = &wanted.send {
        let body = json!({
            "append": wanted.send_id,
            "then": wanted.send_then,
            "call": wanted.send_call,
        });
        let stream = wanted.send_to.as_deref().unwrap_or("journal");
        entity.send_after(stream, key, &body, after)?;
    }
    if let Some(name) = &wanted.remind {
        entity.remind(name, after)?;
    }
    for number in 0..wanted.timers {
        let after = after + Duration::from_millis(number * wanted.every_ms);
        let due = now_ms() + after.as_millis() as u64;
        entity.remind(format!("due-{due}"), after)?;
    }
    if let Some(name) = &wanted.cancel {
        entity.cancel(name);
    }
    if let Some(name) = &wanted.set {
        write(&entity, name, &wanted);
    }
    if let Some(name) = &wanted.delete {
        entity.delete(name);
    }
    if wanted.wait_ms > 0 {
        sleep(Duration::from_millis(wanted.wait_ms));
    }
    if let Some(target) = &wanted.wait_for {
        fetch::wait_for(target).map_err(Failure::internal)?;
    }
    match wanted.then.as_deref() {
        Some("trap") => panic!("asked to"),
        Some("fail") => return Err(Failure::conflict(json!(list))),
        Some("spin") => spin(),
        _ => {}
    }
    if wanted.reply_bytes > 0 {
        return Ok(Json("x".repeat(wanted.reply_bytes).into()));
    }
    if let Some(name) = &wanted.get {
        let bytes = entity.get_bytes(name).map(|value| value.len());
        return Ok(Json(json!({ "bytes": bytes, "list": list })));
    }
    if let Some(prefix) = &wanted.scan {
        let names: Vec<String> = entity.scan(prefix).map(|(name, _)| name).collect();
        return Ok(Json(json!({ "names": names })));
    }
    Ok(Json(
        json!({ "id": message.id(), "list": list, "called": called }),
    ))
}

fn number(text: &str) -> Result<u64, Failure> {
    text.parse().map_err(Failure::internal)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as u64
}

fn call(entity: &Entity, keys: &str, wanted: &Wanted) -> Result<Value, Failure> {
    let (key, others) = keys.split_once(',').unwrap_or((keys, ""));
    let others = (!others.is_empty()).then_some(others);
    let reply = match &wanted.append {
        Some(append) => {
            let body = json!({ "append": append, "call": others, "then": wanted.call_then });
            entity.call("journal", key, &body)?
        }
        None => {
            let query = others.map_or_else(String::new, |others| format!("call={others}"));
            entity.call_get("journal", key, query)?
        }
    };
    reply.json()
}

fn write(entity: &Entity, name: &str, wanted: &Wanted) {
    let value = vec![b'x'; wanted.bytes];
    if wanted.times == 1 {
        entity.set_bytes(name, value);
        return;
    }
    for number in 0..wanted.times {
        entity.set_bytes(&format!("{name}{number:04}"), &value);
    }
}

fn spin() {
    loop {
        std::hint::black_box(());
    }
}
