//! The catalog: the plugins of this node, as an immutable snapshot that is swapped atomically.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use serde::Serialize;

use crate::message::{Digest, Fault, Message, Outcome, Refusal, StreamName};
use crate::runtime::Handler;

/// Every plugin of the node, those that failed included, by the name their file gives them.
#[derive(Default)]
pub struct Catalog {
    plugins: ArcSwap<BTreeMap<String, Arc<Plugin>>>,
}

/// What became of one file of the plugins directory.
pub struct Plugin {
    /// The file's name without `.wasm`: the stream, unless it cannot be one.
    pub name: String,
    pub file: PathBuf,
    pub digest: Digest,
    pub loaded_at: SystemTime,
    pub state: PluginState,
}

pub enum PluginState {
    Ready(StreamName, Box<Handler>),
    /// Why it does not run.
    Failed(String),
}

/// The names of plugin states in the admin API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StateName {
    Ready,
    Failed,
}

impl Plugin {
    pub fn state_name(&self) -> StateName {
        match self.state {
            PluginState::Ready(..) => StateName::Ready,
            PluginState::Failed(_) => StateName::Failed,
        }
    }

    pub fn error(&self) -> Option<&str> {
        match &self.state {
            PluginState::Ready(..) => None,
            PluginState::Failed(error) => Some(error),
        }
    }

    /// Messages that have begun to run on this version, ever.
    pub fn calls(&self) -> u64 {
        self.handler().map_or(0, Handler::calls)
    }

    pub fn handler(&self) -> Option<&Handler> {
        match &self.state {
            PluginState::Ready(_, handler) => Some(handler),
            PluginState::Failed(_) => None,
        }
    }
}

impl Catalog {
    /// Makes these the plugins of the node. Messages that run on replaced ones run to their end.
    pub fn replace(&self, plugins: impl IntoIterator<Item = Plugin>) {
        let plugins = plugins.into_iter().map(|plugin| (plugin.name.clone(), Arc::new(plugin))).collect();
        self.plugins.store(Arc::new(plugins));
    }

    /// Every plugin, by name.
    pub fn plugins(&self) -> Arc<BTreeMap<String, Arc<Plugin>>> {
        self.plugins.load_full()
    }

    /// The streams that this node offers, with the version of each.
    pub fn streams(&self) -> BTreeMap<StreamName, Digest> {
        let plugins = self.plugins.load();
        plugins
            .values()
            .filter_map(|plugin| match &plugin.state {
                PluginState::Ready(stream, _) => Some((stream.clone(), plugin.digest.clone())),
                PluginState::Failed(_) => None,
            })
            .collect()
    }

    /// Runs a message on this node's plugin, or refuses it if there is none.
    pub async fn run(&self, message: &Message, deadline: Instant) -> Outcome {
        let plugin = self.plugins.load().get(message.stream.as_str()).cloned();
        match plugin.as_deref() {
            Some(Plugin { state: PluginState::Ready(_, handler), .. }) => handler.invoke(message, deadline).await,
            _ => Err(Fault::Refused(Refusal::NotOffered)),
        }
    }
}
