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

/// Every plugin of the node, and what failed to become one.
#[derive(Default)]
pub struct Catalog {
    snapshot: ArcSwap<Snapshot>,
    offers: watch::Sender<Offers>,
    /// Held while the snapshot changes. In it, the replaced versions, some of which may still run.
    replaced: Mutex<Vec<Weak<Plugin>>>,
}

/// The streams that this node offers.
pub type Offers = BTreeMap<StreamName, Offer>;

#[derive(Default, Clone)]
struct Snapshot {
    /// What messages run on.
    plugins: BTreeMap<StreamName, Arc<Plugin>>,
    /// Those of them that are not offered any more: they run what still arrives.
    withdrawn: Withdrawals,
    failed: BTreeMap<String, Arc<Failed>>,
}

/// One version of a plugin, ready to run.
pub struct Plugin {
    pub stream: StreamName,
    /// What it was made of, for people.
    pub origin: String,
    pub digest: Digest,
    /// The text of its manifest; empty if it has none.
    pub manifest: String,
    pub loaded_at: SystemTime,
    pub handler: Handler,
    /// That of the stream, which all its versions share.
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
        };
        Offer {
            digest: self.digest.clone(),
            properties,
        }
    }
}

/// What did not become a plugin. An older version of it may run on.
pub struct Failed {
    /// The stream, unless it cannot be one.
    pub name: String,
    /// What it would have been made of, for people.
    pub origin: String,
    pub digest: Digest,
    pub failed_at: SystemTime,
    /// Whether it stays so as long as the file is what it is.
    pub is_lasting: bool,
    pub error: String,
}

/// The states of plugins in the admin API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PluginState {
    /// Messages run on it.
    Ready,
    /// It was replaced or removed, and finishes what it is running.
    Draining,
    /// It could not be loaded.
    Failed,
}

impl Catalog {
    /// Offers a plugin, instead of an older version if there is one. Messages that run on that one
    /// run to their end.
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

    /// Offers a stream no longer, but runs what still arrives for it. Returns the withdrawal, which
    /// is to be ended later; `None` if there is nothing to withdraw, or it has been.
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

    /// Ends a withdrawal, and forgets its plugin, unless that, or another version, has been offered
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

    /// Makes the next snapshot of the present one. What the change takes out of it may still run.
    fn change(&self, change: impl FnOnce(&mut Snapshot) -> Option<Arc<Plugin>>) {
        let mut replaced = self.lock();
        let mut snapshot = Snapshot::clone(&self.snapshot.load());
        if let Some(old) = change(&mut snapshot) {
            replaced.push(Arc::downgrade(&old));
        }
        self.publish(&mut replaced, snapshot);
    }

    fn publish(&self, replaced: &mut Vec<Weak<Plugin>>, snapshot: Snapshot) {
        // A version that is offered again, or still, is not a replaced one.
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

    /// What this node offers, now and whenever it changes.
    pub fn offers(&self) -> watch::Receiver<Offers> {
        self.offers.subscribe()
    }

    /// The version that runs the messages of a stream.
    pub fn plugin(&self, name: &str) -> Option<Arc<Plugin>> {
        self.snapshot.load().plugins.get(name).cloned()
    }

    /// The admission of a stream, as long as any version of it is in memory.
    pub(super) fn admission(&self, name: &str) -> Option<Arc<Admission>> {
        let current = self.plugin(name);
        let replaced = || {
            let versions = self.lock();
            let mut versions = versions.iter().filter_map(Weak::upgrade);
            versions.find(|plugin| plugin.stream.as_str() == name)
        };
        Some(current.or_else(replaced)?.admission.clone())
    }

    /// Every version that is in memory, by stream, the one that messages run on first.
    pub fn plugins(&self) -> Vec<(PluginState, Arc<Plugin>)> {
        // Together, so that no version is in both, or in neither.
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

    /// What could not be loaded, by name.
    pub fn failed(&self) -> Vec<Arc<Failed>> {
        self.snapshot.load().failed.values().cloned().collect()
    }
}
