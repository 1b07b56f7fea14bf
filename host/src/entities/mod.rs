//! Entities: messages of stateful streams run one after the other for each key, on state that is
//! committed before the answer leaves. `ARCHITECTURE.md` tells how.

mod as_http;
mod cache;
mod cell;
mod commit;
mod crossing;
mod describe;
mod entity;
mod layers;
mod letter;
mod outbox;
mod record;
mod run;
mod sends;
mod store;
mod transfer;
mod turn;
mod view;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use metrics::counter;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::bodies::BodyMemory;
use crate::calls::Calls;
use crate::message::{Message, NodeId, Refusal, StoreTime};
use crate::plugins::{Catalog, Plugin, StateStore};
use crate::telemetry::names;
use cache::Cache;
use cell::{Cell, Ticket};
use outbox::Outbox;
use store::{Make, Store};

pub use outbox::{Deliver, Delivered};
pub use sends::{list_sends, retry_sends};
pub use store::{PostgresUrl, StoreError};
pub use transfer::{Copied, TransferError, copy, export};

/// How long the store may take to be opened. Plugins without state are loaded afterwards.
const OPEN_MAX: Duration = Duration::from_secs(20);

/// Where the state of entities is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateLocation {
    Sqlite(PathBuf),
    Postgres(Box<PostgresUrl>),
    /// Nowhere, for this reason: there are no stateful streams.
    Nowhere(&'static str),
}

#[derive(Debug, Clone)]
pub struct EntitiesConfig {
    pub location: StateLocation,
    pub cluster_id: String,
    /// Memory for entities that are not in use.
    pub cache_bytes_max: usize,
    /// How long the reply of a message with an `Idempotency-Key` is kept.
    pub idempotency_ttl: Duration,
    pub node_id: NodeId,
}

/// Runs messages of stateful streams.
pub struct Entities {
    config: EntitiesConfig,
    catalog: Arc<Catalog>,
    bodies: &'static BodyMemory,
    /// Opened when the first stateful plugin is loaded.
    active: OnceLock<Arc<Active>>,
    outbox: Arc<Outbox>,
    calls: Arc<Calls>,
    /// It is being opened.
    opening: Mutex<Option<Opening>>,
    /// Cancelled when the store has ended.
    ended: CancellationToken,
    /// The nodes whose store the mesh has, if it is not this node's: it then runs no messages of
    /// stateful streams.
    elders: ArcSwap<Vec<NodeId>>,
}

/// Ends however long it takes, as the library cannot be stopped: who comes later waits for the same.
struct Opening {
    late_at: Instant,
    task: JoinHandle<Result<Arc<Active>, StoreError>>,
}

/// The store, and the entities that are in memory.
struct Active {
    store: Store,
    /// The id of the store.
    store_id: Uuid,
    cache: Cache,
}

/// A message of a stateful stream that was admitted.
pub struct EntityMessage {
    /// The plugin's current version at that time.
    plugin: Arc<Plugin>,
    active: Arc<Active>,
    way: Way,
}

enum Way {
    /// Beside the queue, on committed state.
    Read(Arc<Cell>),
    /// One after the other.
    Turn(Ticket),
}

impl Entities {
    pub fn new(
        config: EntitiesConfig,
        catalog: Arc<Catalog>,
        calls: Arc<Calls>,
        bodies: &'static BodyMemory,
    ) -> Self {
        Self {
            calls,
            outbox: Outbox::new(config.node_id.clone()),
            config,
            catalog,
            bodies,
            active: OnceLock::new(),
            opening: Mutex::default(),
            ended: CancellationToken::new(),
            elders: ArcSwap::default(),
        }
    }

    /// Gives a message its place in the order of its entity's messages. It never waits, so messages
    /// have the order in which they arrive.
    ///
    /// # Errors
    /// Why the message may not run here. Nothing of it has run.
    pub fn admit(&self, plugin: Arc<Plugin>, message: &Message) -> Result<EntityMessage, Refusal> {
        let active = self.active.get().ok_or(Refusal::StateUnavailable)?;
        if !self.elders.load().is_empty() {
            return Err(Refusal::NotOffered);
        }
        if !active.store.is_good() {
            counter!(names::STATE_REFUSED).increment(1);
            return Err(Refusal::StateUnavailable);
        }
        let cell = active.cache.get(&message.stream, &message.partition_key);
        let way = if message.is_read() {
            Way::Read(cell)
        } else {
            Way::Turn(active.ticket(cell, &plugin, message)?)
        };
        let active = active.clone();
        Ok(EntityMessage {
            plugin,
            active,
            way,
        })
    }

    /// Delivers what handlers send from now on.
    pub fn deliver_by(&self, deliver: Arc<dyn Deliver>, runtime: Handle) {
        self.outbox.deliver_by(deliver, runtime);
    }

    /// The id of the store, once it is open.
    pub fn store_id(&self) -> Option<Uuid> {
        self.active.get().map(|active| active.store_id)
    }

    /// The store's clock, as far as this node knows; without a store this host's.
    pub fn store_time(&self) -> StoreTime {
        let active = self.active.get();
        active.map_or_else(store::host_time, |active| active.store.now())
    }

    /// Takes note of the nodes that live: what those had to deliver that are gone is for the others.
    pub fn note_nodes(&self, nodes: BTreeSet<NodeId>) {
        self.outbox.note_nodes(nodes);
    }

    /// Sets the nodes whose store the mesh has instead of this node's; none: it has this one's.
    pub fn set_elders(&self, elders: Vec<NodeId>) {
        if **self.elders.load() == elders {
            return;
        }
        let nodes: Vec<&str> = elders.iter().map(NodeId::as_str).collect();
        if nodes.is_empty() {
            info!(
                event = "state-shared",
                "the mesh has no other store any more: stateful streams are offered"
            );
        } else {
            warn!(
                event = "state-not-shared",
                nodes = nodes.join(", "),
                "{}",
                not_shared(&elders)
            );
        }
        self.elders.store(Arc::new(elders));
    }

    /// Why stateful streams are not offered, if they are not.
    pub fn not_shared(&self) -> Option<String> {
        let elders = self.elders.load();
        (!elders.is_empty()).then(|| not_shared(&elders))
    }

    /// Takes no messages any more, and ends when what was handed over is committed.
    pub async fn close(&self) {
        if let Some(active) = self.active.get() {
            active.store.close().await;
        }
    }

    /// Resolves when the store has ended without being closed, which is a bug.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

fn not_shared(elders: &[NodeId]) -> String {
    let nodes: Vec<&str> = elders.iter().map(NodeId::as_str).collect();
    format!(
        "state-not-shared: the mesh keeps its state in another store (that of {}); start this node with their --state",
        nodes.join(", ")
    )
}

#[async_trait]
impl StateStore for Entities {
    async fn open(&self) -> Result<(), String> {
        let mut opening = self.opening.lock().await;
        if self.active.get().is_some() {
            return Ok(());
        }
        let Opening { late_at, task } = opening.get_or_insert_with(|| Opening {
            late_at: Instant::now() + OPEN_MAX,
            task: tokio::spawn(Active::open(
                self.config.clone(),
                self.outbox.clone(),
                self.ended.clone(),
            )),
        });
        let opened = timeout_at(*late_at, task)
            .await
            .map_err(|_| format!("the store was not open within {OPEN_MAX:?}"))?;
        *opening = None;
        let active = opened
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        // Nobody else opens it meanwhile.
        let _ = self.active.set(active);
        Ok(())
    }
}

impl Active {
    async fn open(
        config: EntitiesConfig,
        outbox: Arc<Outbox>,
        ended: CancellationToken,
    ) -> Result<Arc<Self>, StoreError> {
        let EntitiesConfig {
            location,
            cluster_id,
            cache_bytes_max,
            ..
        } = config;
        let (store, store_id) =
            open(&location, &cluster_id, Make::IfMissing, outbox, ended).await?;
        Ok(Arc::new(Self {
            store,
            store_id,
            cache: Cache::new(cache_bytes_max),
        }))
    }

    /// A place in the queue of an entity.
    fn ticket(
        self: &Arc<Self>,
        cell: Arc<Cell>,
        plugin: &Plugin,
        message: &Message,
    ) -> Result<Ticket, Refusal> {
        let max = plugin.handler.limits().queue_per_key;
        Ticket::new(cell, self.clone(), max, message.chain.clone())
            .map_err(|entity::Full| Refusal::QueueFull)
    }
}

async fn open(
    location: &StateLocation,
    cluster: &str,
    make: Make,
    outbox: Arc<Outbox>,
    ended: CancellationToken,
) -> Result<(Store, Uuid), StoreError> {
    match location.clone() {
        StateLocation::Sqlite(path) => {
            let cluster = cluster.to_owned();
            let opening = tokio::task::spawn_blocking(move || {
                Store::open_sqlite(&path, &cluster, make, outbox, ended)
            });
            opening
                .await
                .unwrap_or_else(|error| Err(StoreError(error.to_string())))
        }
        StateLocation::Postgres(url) => {
            Store::open_postgres(&url, cluster, make, outbox, ended).await
        }
        StateLocation::Nowhere(because) => Err(StoreError(because.into())),
    }
}
