//! Brings releases here that other nodes have, and keeps what is known on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::release::name_of;
use super::{Packed, Sharing, StoreError};
use crate::background;
use crate::membership::{Node, View};
use crate::message::{NodeId, RELEASE_PART_BYTES, ReleaseId};
use crate::runtime::COMPONENT_BYTES_MAX;

/// Releases that are fetched at once: each is in memory meanwhile.
const FETCHES_MAX: usize = 2;

/// Before what could not be fetched, or saved, is tried again, first and at most.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

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
    tasks: JoinSet<(ReleaseId, Brought)>,
    running: BTreeSet<ReleaseId>,
    /// When a release was last asked for in vain, and after how long it is asked for again.
    tried: BTreeMap<ReleaseId, (Instant, Duration)>,
}

impl Fetching {
    /// Those of the missing ones that it is time for, the longest untried first.
    fn due(&self, missing: &[ReleaseId]) -> Vec<ReleaseId> {
        let tried = |release: &ReleaseId| self.tried.get(release).copied();
        let is_due = |release: &&ReleaseId| {
            !self.running.contains(*release)
                && tried(release).is_none_or(|(tried, pause)| tried.elapsed() >= pause)
        };
        let mut due: Vec<ReleaseId> = missing.iter().filter(is_due).copied().collect();
        due.sort_by_key(tried);
        due
    }

    /// Notes how an attempt has ended. What nodes do not give, or cannot be kept here, is asked for ever less often.
    fn note(&mut self, release: ReleaseId, brought: Brought) {
        let pause = match (brought, self.tried.get(&release)) {
            (Brought::NotGiven, Some((_, before))) => (*before * 2).min(RETRY_AFTER_MAX),
            _ => RETRY_AFTER,
        };
        self.tried.insert(release, (Instant::now(), pause));
    }
}

/// How an attempt to bring a release here has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Brought {
    Here,
    /// No live node has it.
    Nowhere,
    /// A node that has it was asked in vain.
    NotGiven,
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
            let is_saved = self.keep(&mut unsaved).await && self.save(&mut unsaved).await;
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
                fetching
                    .tasks
                    .spawn(async move { (release, sharing.bring(release, nodes, &*fetch).await) });
            }
            tokio::select! {
                changed = view.changed() => if changed.is_err() {
                    return;
                },
                () = self.wake.notified() => {}
                Some(done) = fetching.tasks.join_next() => match done {
                    Ok((release, brought)) => {
                        fetching.running.remove(&release);
                        fetching.note(release, brought);
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

    /// Keeps the files that have loaded, which are the mesh's then. Returns whether all are kept; `problem` is why not.
    async fn keep(self: &Arc<Self>, problem: &mut String) -> bool {
        loop {
            let next = self.lock().to_keep.pop_first();
            let Some((stream, (packed, signed))) = next else {
                return true;
            };
            let sharing = self.clone();
            let Packed {
                version,
                name,
                parts,
            } = packed.clone();
            let kept = spawn_blocking(move || sharing.store.put(name.release, &parts)).await;
            if !log_kept(kept, problem) {
                let mut state = self.lock();
                state.to_keep.entry(stream).or_insert((packed, signed));
                return false;
            }
            let made = self.change(|state| {
                state.here.insert(name.release);
                let file = Some((version, name.component));
                let records = &mut state.records;
                records.loaded(&stream, file, name.release, signed)
            });
            // What is to run may be another one now.
            self.changed.notify_one();
            if let Some(revision) = made {
                info!(event = "plugin-released", %stream, revision = revision.number, release = %name.release, "the mesh gets this plugin");
            }
        }
    }

    /// Saves what is known. Returns whether it is; `problem` is why not.
    pub(super) async fn save(self: &Arc<Self>, problem: &mut String) -> bool {
        let _saving = self.saving.lock().await;
        let kept = {
            let mut state = self.lock();
            if !std::mem::take(&mut state.is_unsaved) {
                return true;
            }
            let named: BTreeSet<ReleaseId> = state.records.named().collect();
            state.here.retain(|it| named.contains(it));
            state.records.kept()
        };
        let sharing = self.clone();
        let saving = spawn_blocking(move || {
            sharing.store.save(&kept)?;
            sharing.store.sweep(&kept);
            Ok(())
        });
        let is_saved = log_kept(saving.await, problem);
        if !is_saved {
            self.lock().is_unsaved = true;
        }
        is_saved
    }

    /// Brings a release here: from this node's own directory, or from one of these nodes.
    async fn bring(
        self: &Arc<Self>,
        release: ReleaseId,
        nodes: Vec<NodeId>,
        fetch: &dyn Fetch,
    ) -> Brought {
        let sharing = self.clone();
        if spawn_blocking(move || sharing.restore(release))
            .await
            .unwrap_or_default()
        {
            return Brought::Here;
        }
        let brought = match nodes.is_empty() {
            true => Brought::Nowhere,
            false => Brought::NotGiven,
        };
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
                    return Brought::Here;
                }
                Err(error) => {
                    debug!(event = "release-not-fetched", %release, %node, error, "a release could not be fetched from a node");
                    problem = format!("from {node}: {error}");
                }
            }
        }
        let known = self.lock().problems.insert(release, problem.clone());
        if known.as_ref() != Some(&problem) {
            warn!(event = "release-unavailable", %release, error = problem, "a release that is to run cannot be fetched; it is tried again");
        }
        brought
    }

    /// Fetches a release from a node, and keeps it. Returns its size.
    async fn fetch(
        self: &Arc<Self>,
        node: &NodeId,
        release: ReleaseId,
        fetch: &dyn Fetch,
    ) -> Result<usize, String> {
        let parts = whole(node, release, fetch).await?;
        let length = parts.iter().map(Bytes::len).sum();
        let sharing = self.clone();
        let keeping = spawn_blocking(move || {
            let put = sharing.store.put(release, &parts);
            put.map_err(|error| format!("it cannot be kept here: {error}"))
        });
        keeping.await.map_err(|error| error.to_string())??;
        Ok(length)
    }
}

/// Whether something was kept; if not, and not for the same reason as before, it is told.
fn log_kept(kept: Result<Result<(), StoreError>, JoinError>, problem: &mut String) -> bool {
    let error = match kept {
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
    false
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
async fn whole(node: &NodeId, release: ReleaseId, fetch: &dyn Fetch) -> Result<Vec<Bytes>, String> {
    let (mut parts, mut length, mut hash) = (Vec::new(), 0, Sha256::new());
    loop {
        background::turn().await;
        let part = fetch.part(node, release, length as u64).await?;
        let part = part.ok_or("it has not got it any more")?;
        length += part.len();
        hash.update(&part);
        let is_last = part.len() < RELEASE_PART_BYTES;
        parts.push(part);
        if is_last {
            return match name_of(hash) == release {
                true => Ok(parts),
                false => Err("what it sent is not what it was asked for".to_owned()),
            };
        }
        if length > RELEASE_BYTES_MAX {
            return Err(format!("it is longer than {RELEASE_BYTES_MAX} bytes"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::sharing::release::name;

    const A: ReleaseId = ReleaseId([0xa; 32]);
    const B: ReleaseId = ReleaseId([0xb; 32]);
    const C: ReleaseId = ReleaseId([0xc; 32]);

    #[test]
    fn what_cannot_be_had_leaves_the_way_to_the_rest() {
        let mut fetching = Fetching::default();
        let missing = [A, B, C];
        fetching.running.extend([A, B]);
        assert_eq!(fetching.due(&missing), [C]);
        fetching.running.clear();
        fetching.note(A, Brought::NotGiven);
        fetching.note(B, Brought::Nowhere);
        assert_eq!(fetching.due(&missing), [C]);
        // Those that were tried come after those that were not, when it is time for them.
        for (tried, _) in fetching.tried.values_mut() {
            *tried -= RETRY_AFTER;
        }
        assert_eq!(fetching.due(&missing), [C, A, B]);
        // The longer in vain, the less often; for what nobody has, nobody is asked.
        for _ in 0..10 {
            fetching.note(A, Brought::NotGiven);
            fetching.note(B, Brought::Nowhere);
        }
        assert_eq!(fetching.tried[&A].1, RETRY_AFTER_MAX);
        assert_eq!(fetching.tried[&B].1, RETRY_AFTER);
    }

    /// A node that hands out these bytes in parts of this size.
    struct Holder(Vec<u8>, usize);

    #[async_trait]
    impl Fetch for Holder {
        async fn part(&self, _: &NodeId, _: ReleaseId, from: u64) -> Result<Option<Bytes>, String> {
            let rest = self.0.get(from as usize..);
            Ok(rest.map(|rest| Bytes::copy_from_slice(&rest[..rest.len().min(self.1)])))
        }
    }

    #[tokio::test]
    async fn a_release_is_fetched_to_its_end_and_no_further() {
        let node = "n1".try_into().unwrap();
        for length in [0, 1, RELEASE_PART_BYTES, 2 * RELEASE_PART_BYTES + 7] {
            let bytes = vec![7; length];
            let holder = Holder(bytes.clone(), RELEASE_PART_BYTES);
            let parts = whole(&node, name(&bytes), &holder).await.unwrap();
            assert_eq!(parts.concat(), bytes);
        }
        // Who hands out a byte at a time is done after the first, which is not what was asked for.
        let slow = Holder(vec![7; 1 << 20], 1);
        let error = whole(&node, A, &slow).await.unwrap_err();
        assert!(error.contains("not what it was asked for"), "{error}");
        let endless = Holder(
            vec![7; RELEASE_BYTES_MAX + RELEASE_PART_BYTES],
            RELEASE_PART_BYTES,
        );
        let error = whole(&node, A, &endless).await.unwrap_err();
        assert!(error.contains("longer"), "{error}");
    }
}
