//! From a node that answers to one that is ready: loads the plugins, joins the mesh, and keeps
//! offering what the source of its plugins has.

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::NodeError;
use super::parts::Parts;
use crate::config::{Config, PluginTerms};
use crate::membership::NodeState;
use crate::plugins::{Directory, Loader, Offers, Reconciler};
use crate::runtime::{Engine, HostSettings};

impl Parts {
    /// Loads the plugins, joins the mesh, and only then says that it is ready. Then it keeps
    /// offering what the plugins directory has. Returns what has ended before its time, if
    /// something has.
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
        };
        let directory = Directory::new(config.plugins.directory.clone());
        let mut reconciler = Reconciler::new(directory, loader, self.catalog.clone());
        reconciler.load_all().await?;
        self.readiness.plugins_loaded();
        self.gossip.first_round().await;
        // Before the others can hear that it is ready.
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
        // Routed before it is said, so that ready means ready.
        self.dispatcher.follow(&self.gossip.view());
        self.readiness.joined();
        info!(event = "ready", streams = offered, "ready");
        // Nothing but the first comes to an end, unless by a bug.
        tokio::select! {
            () = leave.cancelled() => Ok(None),
            () = reconciler.run() => Ok(Some("what keeps the plugins")),
            () = self.announce_offers(&mut offers) => Ok(Some("what tells the mesh of them")),
            () = engine.ended() => Ok(Some("a thread of the engine")),
        }
    }

    /// Tells the mesh whenever this node offers something else.
    async fn announce_offers(&self, offers: &mut watch::Receiver<Offers>) {
        // The sender is in the catalog, which outlives this.
        while offers.changed().await.is_ok() {
            let streams = offers.borrow_and_update().clone();
            self.gossip.announce(|own| own.streams = streams).await;
            self.dispatcher.follow(&self.gossip.view());
        }
    }
}
