//! Makes a started node ready: loads the plugins, joins the mesh, and keeps the offers in line with
//! the source of its plugins.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::info;
use uuid::Uuid;

use super::error::NodeError;
use super::manager;
use super::parts::Parts;
use crate::background;
use crate::config::{Config, PluginTerms};
use crate::membership::{NodeState, View};
use crate::message::{Offer, SharedReleases};
use crate::plugins::{Directory, Loader, Offers, Reconciler, Source};
use crate::runtime::{Engine, HostSettings};

/// How long a node that joins waits for what the mesh shares before it takes part without.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);

impl Parts {
    /// Loads the plugins, joins the mesh, and only then reports ready. Then keeps the offers in
    /// line with the plugins directory. Returns the name of a task that ended unexpectedly, if one
    /// did.
    pub(super) async fn offer_until(
        &self,
        config: &Config,
        leave: &CancellationToken,
    ) -> Result<Option<&'static str>, NodeError> {
        let data_dir = config.plugins.data_dir.clone();
        let settings = HostSettings {
            outbound_authorities: config.plugins.outbound_authorities.clone(),
        };
        let engine = spawn_blocking(move || Engine::new(data_dir.as_deref(), &settings)).await??;
        let PluginTerms {
            timeout_max,
            trusted_keys,
        } = config.plugins.terms.clone();
        let loader = Loader {
            engine: engine.clone(),
            timeout_max,
            trusted_keys,
            store: self.entities.clone(),
        };
        let source = self.source(config).await;
        let mut reconciler = Reconciler::new(source, loader, self.catalog.clone());
        reconciler.load_all().await?;
        self.readiness.plugins_loaded();
        self.gossip.first_round().await;
        // Before other nodes can learn that it is ready.
        self.local.open();
        let offers = self.catalog.offers();
        let releases = self.sharing.as_ref().map(|sharing| sharing.announced());
        let offered = self.announce(&offers, NodeState::Ready).await;
        self.readiness.joined();
        info!(event = "ready", streams = offered, "ready");
        manager::is_ready();
        background::begin();
        // Only the first branch ends, unless there is a bug.
        tokio::select! {
            () = leave.cancelled() => Ok(None),
            () = reconciler.run() => Ok(Some("what keeps the plugins")),
            () = self.announce_offers(offers, releases) => Ok(Some("what tells the mesh of them")),
            () = engine.ended() => Ok(Some("a thread of the engine")),
            () = self.entities.ended() => Ok(Some("the store of entities' state")),
        }
    }

    /// Where plugins come from.
    async fn source(&self, config: &Config) -> Arc<dyn Source> {
        let Some(sharing) = self.sharing.clone() else {
            return Arc::new(Directory::new(config.plugins.directory.clone()));
        };
        // The mesh's word counts, and the mesh has to be heard first.
        self.gossip.first_round().await;
        sharing.join(&self.gossip.view().borrow());
        let mut known = sharing.announced();
        let view = self.gossip.view();
        let caught_up = known.wait_for(|_| sharing.has_caught_up(&view.borrow()));
        if timeout(CATCH_UP_MAX, caught_up).await.is_err() {
            info!(
                event = "releases-missing",
                "some of what the mesh shares is not here yet: going on without"
            );
        }
        sharing
    }

    /// Announces what this node offers now. Returns the number of streams.
    async fn announce(&self, offers: &watch::Receiver<Offers>, state: NodeState) -> usize {
        let mut streams = offers.borrow().clone();
        let view = self.gossip.view().borrow().clone();
        let store = self.store_to_offer(&view, &streams);
        if store.is_none() {
            streams.retain(|_, offer| !offer.properties.is_stateful);
        }
        let offered = streams.len();
        let releases = self.sharing.as_ref().map(|sharing| sharing.announced());
        let releases = releases.map(|known| known.borrow().clone());
        self.gossip
            .announce(|own| {
                own.streams = streams;
                own.releases = releases;
                own.store = store;
                own.state = state;
            })
            .await;
        // Routes are in place before anybody learns of it.
        self.dispatcher.follow(&self.gossip.view());
        offered
    }

    /// The store on which this node offers stateful streams: its own, unless the mesh has another.
    fn store_to_offer(&self, view: &View, streams: &Offers) -> Option<Uuid> {
        let is_stateful = |offer: &Offer| offer.properties.is_stateful;
        let own = self.entities.store_id()?;
        if !streams.values().any(is_stateful) {
            return None;
        }
        let elders = view.store_elders(own);
        let is_shared = elders.is_empty();
        self.entities.set_elders(elders);
        is_shared.then_some(own)
    }

    /// Announces the offers of this node, and the releases that it knows, whenever they change, or the mesh's store does.
    async fn announce_offers(
        &self,
        mut offers: watch::Receiver<Offers>,
        mut releases: Option<watch::Receiver<SharedReleases>>,
    ) {
        let mut view = self.gossip.view();
        loop {
            let released = async {
                match &mut releases {
                    Some(releases) => releases.changed().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                // The sender is in a part of the node, which outlives this.
                changed = released => if changed.is_err() {
                    return;
                },
                changed = offers.changed() => {
                    // The sender is in the catalog, which outlives this.
                    if changed.is_err() {
                        return;
                    }
                }
                changed = view.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let seen = view.borrow_and_update().clone();
                    let own = seen.nodes.get(&seen.self_id).and_then(|own| own.store);
                    if self.store_to_offer(&seen, &offers.borrow()) == own {
                        continue;
                    }
                }
            }
            offers.mark_unchanged();
            self.announce(&offers, NodeState::Ready).await;
        }
    }
}
