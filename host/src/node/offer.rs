//! Makes a started node ready: loads the plugins, joins the mesh, and keeps the offers in line with
//! the source of its plugins.

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::error::NodeError;
use super::parts::Parts;
use crate::config::{Config, PluginTerms};
use crate::membership::NodeState;
use crate::plugins::{Directory, Loader, Offers, Reconciler};
use crate::runtime::{Engine, HostSettings};

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
        let directory = Directory::new(config.plugins.directory.clone());
        let mut reconciler = Reconciler::new(directory, loader, self.catalog.clone());
        reconciler.load_all().await?;
        self.readiness.plugins_loaded();
        self.gossip.first_round().await;
        // Before other nodes can learn that it is ready.
        self.local.open();
        let mut offers = self.catalog.offers();
        let streams = offers.borrow_and_update().clone();
        let offered = streams.len();
        self.gossip
            .announce(|own| {
                own.streams = streams;
                own.state = NodeState::Ready;
            })
            .await;
        // Routes are in place before the node reports ready.
        self.dispatcher.follow(&self.gossip.view());
        self.readiness.joined();
        info!(event = "ready", streams = offered, "ready");
        // Only the first branch ends, unless there is a bug.
        tokio::select! {
            () = leave.cancelled() => Ok(None),
            () = reconciler.run() => Ok(Some("what keeps the plugins")),
            () = self.announce_offers(&mut offers) => Ok(Some("what tells the mesh of them")),
            () = engine.ended() => Ok(Some("a thread of the engine")),
            () = self.entities.ended() => Ok(Some("the store of entities' state")),
        }
    }

    /// Announces the offers of this node whenever they change.
    async fn announce_offers(&self, offers: &mut watch::Receiver<Offers>) {
        // The sender is in the catalog, which outlives this.
        while offers.changed().await.is_ok() {
            let streams = offers.borrow_and_update().clone();
            self.gossip.announce(|own| own.streams = streams).await;
            self.dispatcher.follow(&self.gossip.view());
        }
    }
}
