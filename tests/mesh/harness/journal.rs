//! The guest `journal`: every message appends an id that is its own to the list of its entity, and
//! gets the list back. From that follows what must hold, whatever dies: all lists of an entity are
//! beginnings of one another; what was acknowledged is there once, and in the order in which each
//! client sent it; what was refused is not there; and nobody sees a list that is older than one that
//! anybody has seen before he asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use http::Method;
use tokio::task::JoinSet;

use super::node::Log;
use super::{Answer, Client, Node, until};

/// One of this many requests of a client is a read.
const READS: u64 = 4;

/// What was sent, and how it ended.
#[derive(Debug)]
pub(crate) struct Event {
    key: String,
    /// What was to be appended; `None` for a read.
    id: Option<String>,
    client: u64,
    began: Instant,
    ended: Instant,
    end: End,
}

#[derive(Debug)]
enum End {
    /// The list that came back.
    List(Vec<String>),
    /// The node said that nothing was done.
    NotDone(String),
    /// It may have been done.
    Unknown(String),
}

/// Clients that write and read until they are stopped, each to one key after the other.
pub(crate) struct Writers {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    targets: Arc<Mutex<Vec<String>>>,
    clients: JoinSet<Vec<Event>>,
    logs: Vec<Arc<Log>>,
}

/// Everything that was sent.
pub(crate) struct Journal {
    events: Vec<Event>,
    logs: Vec<Arc<Log>>,
}

impl Writers {
    /// `clients` clients that write to `keys` keys through these nodes.
    pub(crate) fn start(clients: u64, keys: u64, nodes: &[&Node]) -> Self {
        let mut writers = Self {
            is_over: Arc::default(),
            answered: Arc::default(),
            targets: Arc::default(),
            clients: JoinSet::new(),
            logs: Vec::new(),
        };
        writers.send_to(nodes);
        for client in 0..clients {
            let (is_over, answered) = (writers.is_over.clone(), writers.answered.clone());
            let targets = writers.targets.clone();
            writers
                .clients
                .spawn(write(client, keys, targets, is_over, answered));
        }
        writers
    }

    /// Sends to these nodes from now on.
    pub(crate) fn send_to(&mut self, nodes: &[&Node]) {
        *self.targets.lock().unwrap() = nodes.iter().map(|node| node.http.clone()).collect();
        for log in nodes.iter().map(|node| node.log()) {
            if !self.logs.iter().any(|known| Arc::ptr_eq(known, &log)) {
                self.logs.push(log);
            }
        }
    }

    /// Waits until this many more requests have ended, in whatever way.
    pub(crate) async fn wait_for(&self, answers: u64) {
        let enough = self.answered.load(Ordering::Relaxed) + answers;
        until(|| async { self.answered.load(Ordering::Relaxed) >= enough }).await;
    }

    /// Stops, and checks everything against what is there now.
    pub(crate) async fn check(self, node: &Node) -> Journal {
        self.is_over.store(true, Ordering::Relaxed);
        let events = self.clients.join_all().await.into_iter().flatten();
        let journal = Journal {
            events: events.collect(),
            logs: self.logs,
        };
        let lists = journal.read_all(node).await;
        if let Err(problem) = journal.check(&lists) {
            journal.fail(&problem);
        }
        journal
    }
}

async fn write(
    client: u64,
    keys: u64,
    targets: Arc<Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
) -> Vec<Event> {
    let http = Client::new();
    let mut events = Vec::new();
    let mut number = client;
    while !is_over.load(Ordering::Relaxed) {
        let target = {
            let targets = targets.lock().unwrap();
            targets[number as usize % targets.len()].clone()
        };
        number += 1;
        let key = format!("k{}", fastrand::u64(..keys));
        let id = (!number.is_multiple_of(READS)).then(|| format!("{client}-{number}"));
        events.push(send(&http, &target, &key, id, client, "").await);
        answered.fetch_add(1, Ordering::Relaxed);
    }
    events
}

/// Sends one append, or a read, with more in its query.
async fn send(
    http: &Client,
    target: &str,
    key: &str,
    id: Option<String>,
    client: u64,
    query: &str,
) -> Event {
    let (method, append) = match &id {
        Some(id) => (Method::POST, format!("append={id}")),
        None => (Method::GET, String::new()),
    };
    let url = format!("http://{target}/api/journal/{key}?{append}{query}");
    let began = Instant::now();
    let answer = http.request(method, &url).try_send().await;
    let ended = Instant::now();
    let end = match answer {
        Ok(answer) => end_of(&answer),
        // The node may have died after it had the message.
        Err(error) => End::Unknown(error),
    };
    Event {
        key: key.to_owned(),
        id,
        client,
        began,
        ended,
        end,
    }
}

fn end_of(answer: &Answer) -> End {
    if answer.status == 200 {
        return End::List(list(answer));
    }
    let text = answer.text().to_owned();
    // A client whose node leaves, or whose owner was lost, does not know.
    let is_known = answer.status < 500 || answer.json()["retryable"] == true;
    if is_known && answer.status != 504 {
        End::NotDone(text)
    } else {
        End::Unknown(text)
    }
}

fn list(answer: &Answer) -> Vec<String> {
    serde_json::from_value(answer.json()["list"].clone()).unwrap()
}

impl Journal {
    /// The lists of all keys as they are now.
    async fn read_all(&self, node: &Node) -> BTreeMap<String, Vec<String>> {
        let keys: BTreeSet<&str> = self.events.iter().map(|event| event.key.as_str()).collect();
        let mut lists = BTreeMap::new();
        for key in keys {
            let path = format!("/api/journal/{key}");
            // A node may not have noticed yet that the store works again.
            until(|| async { node.get(&path).send().await.status != 503 }).await;
            let answer = node.get(&path).send().await;
            answer.ok();
            lists.insert(key.to_owned(), list(&answer));
        }
        lists
    }

    fn check(&self, lists: &BTreeMap<String, Vec<String>>) -> Result<(), String> {
        for (key, last) in lists {
            let events: Vec<&Event> = self
                .events
                .iter()
                .filter(|event| event.key == *key)
                .collect();
            check_once(&events, last)?;
            check_lists(&events, last)?;
            check_order(&events, last)?;
            check_age(&events)?;
        }
        Ok(())
    }

    /// Requests that were answered with a list.
    pub(crate) fn good(&self) -> usize {
        let is_good = |event: &&Event| matches!(event.end, End::List(_));
        self.events.iter().filter(is_good).count()
    }

    /// What was answered instead of a list, each with how often.
    pub(crate) fn bad(&self) -> BTreeMap<String, usize> {
        let mut bad = BTreeMap::new();
        for event in &self.events {
            if let End::NotDone(text) | End::Unknown(text) = &event.end {
                let kind = serde_json::from_str::<serde_json::Value>(text)
                    .ok()
                    .and_then(|problem| Some(problem["type"].as_str()?.to_owned()));
                *bad.entry(kind.unwrap_or_else(|| "no answer".into()))
                    .or_default() += 1;
            }
        }
        bad
    }

    /// Fails if any request was answered with anything but a list.
    pub(crate) fn must_be_good(&self) {
        let Some(first) = self.events.iter().map(|event| event.began).min() else {
            return;
        };
        let bad: Vec<String> = self
            .events
            .iter()
            .filter(|event| !matches!(event.end, End::List(_)))
            .map(|event| {
                let (began, time) = (event.began - first, event.ended - event.began);
                format!("at {began:?}, after {time:?}: {event:?}")
            })
            .collect();
        if !bad.is_empty() {
            self.fail(&bad.join("\n"));
        }
    }

    fn fail(&self, problem: &str) -> ! {
        let logs: Vec<String> = self.logs.iter().map(|log| log.text()).collect();
        panic!("{problem}; the nodes' logs:\n{}", logs.join("\n\n"));
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }
}

/// What was acknowledged is there once, what was refused is not there, and nothing is there twice.
fn check_once(events: &[&Event], last: &[String]) -> Result<(), String> {
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for id in last {
        *found.entry(id).or_default() += 1;
    }
    if let Some((id, times)) = found.iter().find(|(_, times)| **times > 1) {
        return Err(format!("{id} is there {times} times: {last:?}"));
    }
    for event in events {
        let Some(id) = &event.id else { continue };
        let is_there = found.contains_key(id.as_str());
        match &event.end {
            End::List(_) if !is_there => {
                return Err(format!("{id} was acknowledged and is lost: {last:?}"));
            }
            End::NotDone(text) if is_there => {
                return Err(format!(
                    "{id} was done, and the node said otherwise: {text}"
                ));
            }
            End::List(_) | End::NotDone(_) | End::Unknown(_) => {}
        }
    }
    Ok(())
}

/// Every list is a beginning of the last one, and that of an append ends in its id.
fn check_lists(events: &[&Event], last: &[String]) -> Result<(), String> {
    for event in events {
        let End::List(list) = &event.end else {
            continue;
        };
        if !last.starts_with(list) {
            return Err(format!("{list:?} is no beginning of {last:?}"));
        }
        if event.id.is_some() && list.last() != event.id.as_ref() {
            return Err(format!("{:?} is not the last of {list:?}", event.id));
        }
    }
    Ok(())
}

/// What a client has sent is there in the order in which it sent it.
fn check_order(events: &[&Event], last: &[String]) -> Result<(), String> {
    let mut latest: BTreeMap<u64, usize> = BTreeMap::new();
    for event in events {
        let Some(id) = &event.id else { continue };
        let Some(place) = last.iter().position(|found| found == id) else {
            continue;
        };
        if !matches!(event.end, End::List(_)) {
            continue;
        }
        if let Some(before) = latest.insert(event.client, place)
            && before > place
        {
            return Err(format!(
                "{id} overtook what its client sent before it: {last:?}"
            ));
        }
    }
    Ok(())
}

/// Nobody sees a list that is older than one that was seen before he asked.
fn check_age(events: &[&Event]) -> Result<(), String> {
    let mut seen: Vec<(Instant, usize)> = events
        .iter()
        .filter_map(|event| match &event.end {
            End::List(list) => Some((event.ended, list.len())),
            End::NotDone(_) | End::Unknown(_) => None,
        })
        .collect();
    seen.sort_unstable();
    let mut longest = 0;
    for (_, length) in &mut seen {
        longest = longest.max(*length);
        *length = longest;
    }
    for event in events {
        let End::List(list) = &event.end else {
            continue;
        };
        let before = seen.partition_point(|(ended, _)| *ended < event.began);
        let known = before.checked_sub(1).map_or(0, |index| seen[index].1);
        if list.len() < known {
            return Err(format!(
                "{} of {} got a list of {} when one of {known} had been seen",
                event.id.as_deref().unwrap_or("a read"),
                event.key,
                list.len()
            ));
        }
    }
    Ok(())
}
