//! The catalog: the plugins of this node, as an immutable snapshot that is swapped atomically.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::watch;

use super::admission::Admission;
use super::withdrawals::{Withdrawal, Withdrawals};
use crate::message::{Digest, Offer, StreamName, StreamProperties};
use crate::runtime::Handler;

/// Every plugin of the node, and every file that failed to load.
#[derive(Default)]
pub struct Catalog {
    snapshot: ArcSwap<Snapshot>,
    offers: watch::Sender<Offers>,
    /// Held while the snapshot changes. Contains the replaced versions, some of which may still
    /// run.
    replaced: Mutex<Vec<Weak<Plugin>>>,
}

/// The streams that this node offers.
pub type Offers = BTreeMap<StreamName, Offer>;

#[derive(Default, Clone)]
struct Snapshot {
    /// The current version of each stream, which messages run on.
    plugins: BTreeMap<StreamName, Arc<Plugin>>,
    /// The streams that are no longer offered: their plugins still run messages that arrive.
    withdrawn: Withdrawals,
    failed: BTreeMap<String, Arc<Failed>>,
}

/// One version of a plugin, ready to run.
pub struct Plugin {
    pub stream: StreamName,
    /// Where it came from, for people.
    pub origin: String,
    pub digest: Digest,
    /// The text of its manifest; empty if it has none.
    pub manifest: String,
    pub loaded_at: SystemTime,
    pub handler: Handler,
    /// The admission of the stream, shared by all its versions.
    pub admission: Arc<Admission>,
}

impl AsRef<Admission> for Plugin {
    fn as_ref(&self) -> &Admission {
        &self.admission
    }
}

impl Plugin {
    fn offer(&self) -> Offer {
        let properties = StreamProperties {
            takes_idempotency_keys: self.handler.limits().takes_idempotency_keys,
            is_stateful: self.handler.is_stateful(),
            keeps_records: self.handler.is_stateful(),
            takes_http: self.handler.takes_http(),
        };
        Offer {
            digest: self.digest.clone(),
            properties,
        }
    }
}

/// A plugin that could not be loaded. An older version of it may still run.
pub struct Failed {
    /// The stream name, possibly an invalid one.
    pub name: String,
    /// Where it came from, for people.
    pub origin: String,
    pub digest: Digest,
    pub failed_at: SystemTime,
    /// Whether the failure is permanent until the file changes.
    pub is_lasting: bool,
    pub error: String,
}

/// The states of plugins in the admin API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PluginState {
    /// The current version: messages run on it.
    Ready,
    /// It was replaced or removed, and finishes its running messages.
    Draining,
    /// It could not be loaded.
    Failed,
}

impl Catalog {
    /// Offers a plugin, in place of an older version if there is one. Messages on the older version
    /// run to completion.
    pub(super) fn offer(&self, plugin: Arc<Plugin>) {
        self.change(|snapshot| {
            plugin.admission.resize(plugin.handler.limits());
            let stream = plugin.stream.clone();
            snapshot.failed.remove(stream.as_str());
            snapshot.withdrawn.cancel(&stream);
            snapshot.plugins.insert(stream, plugin)
        });
    }

    pub(super) fn fail(&self, failed: Failed) {
        self.change(|snapshot| {
            snapshot
                .failed
                .insert(failed.name.clone(), Arc::new(failed));
            None
        });
    }

    /// Stops offering a stream, but still runs messages that arrive for it. Returns the withdrawal,
    /// to be passed to `remove_withdrawn` later; `None` if there is no such plugin, or it is
    /// withdrawn already.
    pub(super) fn withdraw(&self, name: &str) -> Option<Withdrawal> {
        let mut withdrawal = None;
        self.change(|snapshot| {
            snapshot.failed.remove(name);
            if let Some((stream, _)) = snapshot.plugins.get_key_value(name) {
                withdrawal = snapshot.withdrawn.begin(stream);
            }
            None
        });
        withdrawal
    }

    /// Ends a withdrawal and removes its plugin, unless this or another version has been offered
    /// since.
    pub(super) fn remove_withdrawn(&self, withdrawal: &Withdrawal) {
        self.change(|snapshot| {
            if snapshot.withdrawn.end(withdrawal) {
                snapshot.plugins.remove(&withdrawal.stream)
            } else {
                None
            }
        });
    }

    /// Replaces the snapshot by a changed copy. A plugin that the change takes out may still run.
    fn change(&self, change: impl FnOnce(&mut Snapshot) -> Option<Arc<Plugin>>) {
        let mut replaced = self.lock();
        let mut snapshot = Snapshot::clone(&self.snapshot.load());
        if let Some(old) = change(&mut snapshot) {
            replaced.push(Arc::downgrade(&old));
        }
        self.publish(&mut replaced, snapshot);
    }

    fn publish(&self, replaced: &mut Vec<Weak<Plugin>>, snapshot: Snapshot) {
        // A version that is current, still or again, does not count as replaced.
        let is_current = |old: &Weak<Plugin>| {
            snapshot
                .plugins
                .values()
                .any(|current| std::ptr::eq(Arc::as_ptr(current), old.as_ptr()))
        };
        replaced.retain(|old| old.strong_count() > 0 && !is_current(old));
        let offers: Offers = snapshot
            .plugins
            .iter()
            .filter(|(stream, _)| !snapshot.withdrawn.contains(stream))
            .map(|(stream, plugin)| (stream.clone(), plugin.offer()))
            .collect();
        self.snapshot.store(Arc::new(snapshot));
        self.offers.send_if_modified(|published| {
            let is_news = *published != offers;
            *published = offers;
            is_news
        });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Plugin>>> {
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this node offers, updated on every change.
    pub fn offers(&self) -> watch::Receiver<Offers> {
        self.offers.subscribe()
    }

    /// The current version of a stream.
    pub fn plugin(&self, name: &str) -> Option<Arc<Plugin>> {
        self.snapshot.load().plugins.get(name).cloned()
    }

    /// The admission of a stream, if any version of it is still in memory.
    pub(super) fn admission(&self, name: &str) -> Option<Arc<Admission>> {
        let current = self.plugin(name);
        let replaced = || {
            let versions = self.lock();
            let mut versions = versions.iter().filter_map(Weak::upgrade);
            versions.find(|plugin| plugin.stream.as_str() == name)
        };
        Some(current.or_else(replaced)?.admission.clone())
    }

    /// Every version in memory, by stream, the current one first.
    pub fn plugins(&self) -> Vec<(PluginState, Arc<Plugin>)> {
        // Read under one lock, so that no version is in both, or in neither.
        let (replaced, snapshot) = {
            let replaced = self.lock();
            (
                replaced
                    .iter()
                    .filter_map(Weak::upgrade)
                    .collect::<Vec<_>>(),
                self.snapshot.load(),
            )
        };
        let state = |stream: &StreamName| {
            if snapshot.withdrawn.contains(stream) {
                PluginState::Draining
            } else {
                PluginState::Ready
            }
        };
        let mut plugins: Vec<_> = snapshot
            .plugins
            .iter()
            .map(|(stream, plugin)| (state(stream), plugin.clone()))
            .collect();
        plugins.extend(
            replaced
                .into_iter()
                .map(|plugin| (PluginState::Draining, plugin)),
        );
        plugins.sort_by(|(_, one), (_, other)| one.stream.cmp(&other.stream));
        plugins
    }

    /// The plugins that could not be loaded, by name.
    pub fn failed(&self) -> Vec<Arc<Failed>> {
        self.snapshot.load().failed.values().cloned().collect()
    }
}
