//! Brings releases here that other nodes have, and keeps what is known on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::{Sharing, StoreError};
use crate::membership::{Node, View};
use crate::message::{NodeId, RELEASE_PART_BYTES, ReleaseId};
use crate::runtime::COMPONENT_BYTES_MAX;

/// Releases that are fetched at once: each is in memory meanwhile.
const FETCHES_MAX: usize = 2;

/// Before what could not be fetched, or saved, is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long one node may take for a release: 64 MiB over a slow line.
const FETCH_MAX: Duration = Duration::from_secs(600);

/// The longest release: a component, and what is beside it.
const RELEASE_BYTES_MAX: usize = COMPONENT_BYTES_MAX as usize + (1 << 20);

/// Asks other nodes for releases.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// The bytes of a release from an offset on, none at its end; `None`: the node has not got it.
    ///
    /// # Errors
    /// Why the node does not answer.
    async fn part(
        &self,
        node: &NodeId,
        release: ReleaseId,
        from: u64,
    ) -> Result<Option<Bytes>, String>;
}

/// What is under way, and what was tried.
#[derive(Default)]
struct Fetching {
    tasks: JoinSet<ReleaseId>,
    running: BTreeSet<ReleaseId>,
    /// When a release was last asked for in vain.
    tried: BTreeMap<ReleaseId, Instant>,
}

impl Fetching {
    /// Those of the missing ones that it is time for, the longest untried first.
    fn due(&self, missing: &[ReleaseId]) -> Vec<ReleaseId> {
        let tried = |release: &ReleaseId| self.tried.get(release).copied();
        let is_due = |release: &&ReleaseId| {
            !self.running.contains(*release)
                && tried(release).is_none_or(|tried| tried.elapsed() >= RETRY_AFTER)
        };
        let mut due: Vec<ReleaseId> = missing.iter().filter(is_due).copied().collect();
        due.sort_by_key(tried);
        due
    }
}

impl Sharing {
    /// Follows what the mesh knows, and fetches what is to run here; never returns.
    pub async fn follow(
        self: Arc<Self>,
        mut view: watch::Receiver<Arc<View>>,
        fetch: Arc<dyn Fetch>,
    ) {
        let mut fetching = Fetching::default();
        let mut unsaved = String::new();
        loop {
            let seen = view.borrow_and_update().clone();
            self.hear(&seen);
            let is_saved = self.save(&mut unsaved).await;
            let missing = self.missing();
            fetching
                .tried
                .retain(|release, _| missing.contains(release));
            for release in fetching.due(&missing) {
                if fetching.running.len() == FETCHES_MAX {
                    break;
                }
                fetching.running.insert(release);
                let nodes = holders(&seen, release);
                let (sharing, fetch) = (self.clone(), fetch.clone());
                fetching.tasks.spawn(async move {
                    sharing.bring(release, nodes, &*fetch).await;
                    release
                });
            }
            tokio::select! {
                changed = view.changed() => if changed.is_err() {
                    return;
                },
                () = self.wake.notified() => {}
                Some(done) = fetching.tasks.join_next() => match done {
                    Ok(release) => {
                        fetching.running.remove(&release);
                        fetching.tried.insert(release, Instant::now());
                    }
                    // A panic, which the log has.
                    Err(_) => {
                        fetching.tasks.shutdown().await;
                        fetching.running.clear();
                    }
                },
                () = sleep(RETRY_AFTER), if !is_saved || !missing.is_empty() => {}
            }
        }
    }

    /// Returns whether everything is saved. `problem` is why it last was not.
    async fn save(self: &Arc<Self>, problem: &mut String) -> bool {
        let kept = {
            let mut state = self.lock();
            if !std::mem::take(&mut state.is_unsaved) {
                return true;
            }
            let named: BTreeSet<ReleaseId> = state.records.named().collect();
            let packed: BTreeSet<_> = state.packed.values().map(|(_, it)| *it).collect();
            state
                .here
                .retain(|it| named.contains(it) || packed.contains(it));
            state.records.kept()
        };
        let sharing = self.clone();
        let saving = spawn_blocking(move || {
            sharing.store.save(&kept)?;
            sharing.store.sweep(&kept);
            Ok::<_, StoreError>(())
        });
        let saved = saving.await.map_err(io::Error::from);
        let error = match saved {
            Ok(Ok(())) => {
                problem.clear();
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        if *problem != error {
            warn!(
                event = "plugins-not-saved",
                error, "what the mesh shares cannot be kept here; it is tried again"
            );
            *problem = error;
        }
        self.lock().is_unsaved = true;
        false
    }

    /// Brings a release here: from this node's own directory, or from one of these nodes.
    async fn bring(self: &Arc<Self>, release: ReleaseId, nodes: Vec<NodeId>, fetch: &dyn Fetch) {
        let sharing = self.clone();
        if spawn_blocking(move || sharing.restore(release))
            .await
            .unwrap_or_default()
        {
            return;
        }
        let mut problem = "no live node has it".to_owned();
        for node in nodes {
            let fetched = timeout(FETCH_MAX, self.fetch(&node, release, fetch)).await;
            let fetched = fetched.unwrap_or_else(|_| Err(format!("it took over {FETCH_MAX:?}")));
            match fetched {
                Ok(bytes) => {
                    info!(event = "release-fetched", %release, %node, bytes, "a release was fetched");
                    self.change(|state| {
                        state.problems.remove(&release);
                        state.here.insert(release)
                    });
                    return;
                }
                Err(error) => {
                    debug!(event = "release-not-fetched", %release, %node, error, "a node does not hand out a release");
                    problem = format!("{node}: {error}");
                }
            }
        }
        let known = self.lock().problems.insert(release, problem.clone());
        if known.as_ref() != Some(&problem) {
            warn!(event = "release-unavailable", %release, error = problem, "a release that is to run cannot be fetched; it is tried again");
        }
    }

    /// Fetches a release from a node, and keeps it. Returns its size.
    async fn fetch(
        self: &Arc<Self>,
        node: &NodeId,
        release: ReleaseId,
        fetch: &dyn Fetch,
    ) -> Result<usize, String> {
        let bytes = whole(node, release, fetch).await?;
        let (sharing, length) = (self.clone(), bytes.len());
        let keeping = spawn_blocking(move || {
            if super::release::name(&bytes) != release {
                return Err("what it sent is not what it was asked for".to_owned());
            }
            let put = sharing.store.put(release, &bytes);
            put.map_err(|error| error.to_string())
        });
        keeping.await.map_err(|error| error.to_string())??;
        Ok(length)
    }
}

/// The nodes that have a release, in any order.
pub(super) fn holders(view: &View, release: ReleaseId) -> Vec<NodeId> {
    let has = |node: &&Node| {
        let mut shared = node.releases.iter().flatten();
        shared.any(|(_, it)| it.is_here && it.revision.release == Some(release))
    };
    let nodes = view.others().filter(has).map(|node| node.node_id.clone());
    let mut nodes: Vec<NodeId> = nodes.collect();
    fastrand::shuffle(&mut nodes);
    nodes
}

/// Fetches a release part by part: messages between the nodes come in between.
async fn whole(node: &NodeId, release: ReleaseId, fetch: &dyn Fetch) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    loop {
        let part = fetch.part(node, release, bytes.len() as u64).await?;
        let part = part.ok_or("it has not got it any more")?;
        bytes.extend_from_slice(&part);
        if part.len() < RELEASE_PART_BYTES {
            return Ok(bytes);
        }
        if bytes.len() > RELEASE_BYTES_MAX {
            return Err(format!("it is longer than {RELEASE_BYTES_MAX} bytes"));
        }
    }
}
