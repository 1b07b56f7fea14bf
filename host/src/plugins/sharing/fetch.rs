//! Brings releases here that other nodes have, and keeps what is known on disk.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{Sharing, StoreError, log_unsaved};
use crate::membership::View;
use crate::message::{NodeId, ReleaseId};
use crate::runtime::COMPONENT_BYTES_MAX;

/// Releases that are fetched at once: each is in memory meanwhile.
const FETCHES_MAX: usize = 2;

/// Before what could not be fetched, or saved, is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

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

impl Sharing {
    /// Follows what the mesh knows, and fetches what is to run here; never returns.
    pub async fn follow(
        self: Arc<Self>,
        mut view: watch::Receiver<Arc<View>>,
        fetch: Arc<dyn Fetch>,
    ) {
        let mut fetches = JoinSet::new();
        let mut fetching = BTreeSet::new();
        loop {
            let seen = view.borrow_and_update().clone();
            self.hear(&seen);
            let is_saved = self.save().await;
            let missing = self.missing();
            let mut is_waiting = !is_saved;
            for release in missing {
                if fetching.contains(&release) {
                    continue;
                }
                let nodes = holders(&seen, release);
                if nodes.is_empty() || fetching.len() == FETCHES_MAX {
                    is_waiting = true;
                    continue;
                }
                fetching.insert(release);
                let (sharing, fetch) = (self.clone(), fetch.clone());
                fetches.spawn(async move {
                    let is_here = sharing.fetch(release, nodes, &*fetch).await;
                    if !is_here {
                        sleep(RETRY_AFTER).await;
                    }
                    release
                });
            }
            tokio::select! {
                changed = view.changed() => if changed.is_err() {
                    return;
                },
                () = self.wake.notified() => {}
                Some(done) = fetches.join_next() => match done {
                    Ok(release) => {
                        fetching.remove(&release);
                    }
                    // A panic, which the log has: whatever is missing is fetched anew.
                    Err(_) => {
                        fetches.shutdown().await;
                        fetching.clear();
                    }
                },
                () = sleep(RETRY_AFTER), if is_waiting => {}
            }
        }
    }

    /// Returns whether everything is saved.
    async fn save(self: &Arc<Self>) -> bool {
        let kept = {
            let mut state = self.lock();
            if !state.is_unsaved {
                return true;
            }
            state.is_unsaved = false;
            state.records.kept()
        };
        let sharing = self.clone();
        let saved = spawn_blocking(move || {
            sharing.store.save(&kept)?;
            sharing.store.sweep(&kept);
            Ok::<_, StoreError>(())
        });
        match saved.await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => log_unsaved(&error),
            // It panicked, which the log has.
            Err(_) => {}
        }
        self.lock().is_unsaved = true;
        false
    }

    /// Brings a release here from one of these nodes. Returns whether it is here.
    async fn fetch(
        self: &Arc<Self>,
        release: ReleaseId,
        nodes: Vec<NodeId>,
        fetch: &dyn Fetch,
    ) -> bool {
        let mut problem = String::new();
        for node in nodes {
            let bytes = match whole(&node, release, fetch).await {
                Ok(bytes) => bytes,
                Err(error) => {
                    debug!(event = "release-not-fetched", %release, %node, error, "a node does not hand out a release");
                    problem = format!("{node}: {error}");
                    continue;
                }
            };
            let (sharing, length) = (self.clone(), bytes.len());
            let kept = spawn_blocking(move || {
                if super::release::name(&bytes) != release {
                    return Err("what it sent is not what it was asked for".to_owned());
                }
                let put = sharing.store.put(release, &bytes);
                put.map_err(|error| error.to_string())
            });
            match kept.await.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(()) => {
                    info!(event = "release-fetched", %release, %node, bytes = length, "a release was fetched");
                    self.change(|state| {
                        state.problems.remove(&release);
                        state.here.insert(release)
                    });
                    return true;
                }
                Err(error) => problem = format!("{node}: {error}"),
            }
        }
        let is_news = {
            let mut state = self.lock();
            state.problems.insert(release, problem.clone()).as_ref() != Some(&problem)
        };
        if is_news {
            warn!(event = "release-unavailable", %release, error = problem, "a release that is to run cannot be fetched; it is tried again");
        }
        false
    }
}

/// The nodes that have a release, in any order.
fn holders(view: &View, release: ReleaseId) -> Vec<NodeId> {
    let has = |node: &&crate::membership::Node| {
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
        if part.is_empty() {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&part);
        if bytes.len() > RELEASE_BYTES_MAX {
            return Err(format!("it is longer than {RELEASE_BYTES_MAX} bytes"));
        }
    }
}
