//! The last events of the log, for operators: those that have a name, whatever the log's filter is.

use std::collections::VecDeque;
use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event as Logged, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Events that are kept.
const KEPT: usize = 100;

/// Of one name no more are kept, so that what fails again and again leaves room for the rest.
const KEPT_OF_ONE_NAME: usize = 20;

const TEXT_BYTES_MAX: usize = 1024;

/// The field that names an event.
const NAME: &str = "event";

/// The node that an event is about, and its state.
const NODE: &str = "node_id";
const STATE: &str = "state";

/// The last events. Clones share them.
#[derive(Clone, Default)]
pub struct Events(Arc<Mutex<VecDeque<Event>>>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Milliseconds since 1970.
    pub at: u64,
    pub level: &'static str,
    #[serde(rename = "event")]
    pub name: String,
    /// What the log says, and the fields behind it.
    pub text: String,
    /// The node that it is about, and the state of it.
    #[serde(skip)]
    pub node: Option<String>,
    #[serde(skip)]
    pub state: Option<String>,
}

impl Events {
    /// The oldest first.
    pub fn all(&self) -> Vec<Event> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().cloned().collect()
    }

    fn push(&self, event: Event) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |kept: &Event| kept.name == event.name;
        let excess = if kept.iter().filter(|kept| same(kept)).count() >= KEPT_OF_ONE_NAME {
            kept.iter().position(same)
        } else {
            (kept.len() >= KEPT).then_some(0)
        };
        if let Some(oldest) = excess {
            kept.remove(oldest);
        }
        kept.push_back(event);
    }
}

impl<S: Subscriber> Layer<S> for Events {
    fn on_event(&self, logged: &Logged<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        logged.record(&mut fields);
        let Some(name) = fields.name else {
            return;
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut text = fields.message + &fields.others;
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        self.push(Event {
            at: now.map_or(0, |now| now.as_millis() as u64),
            level: logged.metadata().level().as_str(),
            name,
            text,
            node: fields.node,
            state: fields.state,
        });
    }
}

#[derive(Default)]
struct Fields {
    name: Option<String>,
    message: String,
    others: String,
    node: Option<String>,
    state: Option<String>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: String) {
        match field.name() {
            NAME => self.name = Some(value),
            "message" => self.message = value,
            name => {
                let _ = write!(self.others, ", {name}: {value}");
                match name {
                    NODE => self.node = Some(value),
                    STATE => self.state = Some(value),
                    _ => {}
                }
            }
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing::{info, warn};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn what_has_a_name_is_kept_with_its_fields() {
        let events = Events::default();
        let subscriber = tracing_subscriber::registry().with(events.clone());
        tracing::subscriber::with_default(subscriber, || {
            info!("nothing to see");
            warn!(event = "node-gone", node_id = %"n2", nodes = 1, "node gone");
        });
        let all = events.all();
        assert_eq!(all.len(), 1, "{all:?}");
        let Event {
            level,
            name,
            text,
            node,
            ..
        } = &all[0];
        assert_eq!((*level, name.as_str()), ("WARN", "node-gone"));
        assert_eq!(text, "node gone, node_id: n2, nodes: 1");
        assert_eq!(node.as_deref(), Some("n2"));
    }

    #[test]
    fn what_comes_again_and_again_leaves_room_for_the_rest() {
        let events = Events::default();
        let push = |name: &str, at| {
            events.push(Event {
                at,
                level: "INFO",
                name: name.into(),
                text: String::new(),
                node: None,
                state: None,
            });
        };
        push("once", 0);
        for at in 1..=500 {
            push("often", at);
        }
        let all = events.all();
        assert_eq!(all.len(), KEPT_OF_ONE_NAME + 1);
        assert_eq!((all[0].name.as_str(), all[1].at), ("once", 481));
        for at in 1..=200 {
            push(&format!("event {at}"), at);
        }
        assert_eq!(events.all().len(), KEPT);
    }
}
