//! Warm instances: those of each plugin wait in a pool of its own, and all pools give back what
//! they have not needed for a while, or at once when the node is short of instances.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How long an instance stays in its pool without being needed: up to twice this.
const IDLE: Duration = Duration::from_secs(10);

/// Instances that stay however long they are not needed: the next message finds one.
const KEPT: usize = 1;

/// Instances that are dropped at once when the node is short of them: who asks waits for that, some
/// 30 µs for each.
const RECLAIMED_AT_ONCE: usize = 8;

/// The warm instances `I` of one plugin.
pub(super) struct Pool<I>(Mutex<Idle<I>>);

struct Idle<I> {
    /// The last one back is the first to go: its memory is warm, and those at the bottom are not
    /// needed.
    instances: Vec<I>,
    /// How many were left when the fewest were, since the pool was last shrunk.
    unneeded: usize,
}

/// The pools of all plugins.
#[derive(Clone, Default)]
pub(super) struct Pools {
    pools: Arc<Mutex<Vec<Weak<dyn Shrink>>>>,
    /// Held by who gives up idle instances, until they are gone.
    reclaiming: Arc<Mutex<()>>,
}

/// A pool that gives back what it does not need.
trait Shrink: Send + Sync {
    fn len(&self) -> usize;

    /// How many instances were not needed since this was last called.
    fn surplus(&self) -> usize;

    /// Drops at most so many, but not those that stay, and returns how many that were.
    fn give_up(&self, max: usize) -> usize;
}

impl<I> Pool<I> {
    pub(super) fn take(&self) -> Option<I> {
        let mut idle = self.idle();
        let instance = idle.instances.pop();
        idle.unneeded = idle.unneeded.min(idle.instances.len());
        instance
    }

    pub(super) fn put(&self, instance: I) {
        self.idle().instances.push(instance);
    }

    pub(super) fn len(&self) -> usize {
        self.idle().instances.len()
    }

    fn idle(&self) -> MutexGuard<'_, Idle<I>> {
        lock(&self.0)
    }
}

impl<I: Send> Shrink for Pool<I> {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn surplus(&self) -> usize {
        let mut idle = self.idle();
        let surplus = idle.unneeded.min(idle.instances.len().saturating_sub(KEPT));
        idle.unneeded = idle.instances.len() - surplus;
        surplus
    }

    fn give_up(&self, max: usize) -> usize {
        let mut idle = self.idle();
        let surplus = idle.instances.len().saturating_sub(KEPT).min(max);
        let dropped: Vec<I> = idle.instances.drain(..surplus).collect();
        idle.unneeded = idle.unneeded.min(idle.instances.len());
        drop(idle);
        dropped.len()
    }
}

impl Pools {
    /// Starts the thread that shrinks the pools, for as long as they live, and cancels `ended` when
    /// it ends.
    pub(super) fn start(ended: CancellationToken) -> std::io::Result<Self> {
        let pools = Self::default();
        let (shrunk, reclaiming) = (Arc::downgrade(&pools.pools), pools.reclaiming.clone());
        thread::Builder::new().name("pools".into()).spawn(move || {
            let _ended = ended.drop_guard();
            loop {
                thread::sleep(IDLE);
                let Some(pools) = shrunk.upgrade() else {
                    return;
                };
                for pool in living(&pools) {
                    let mut left = pool.surplus();
                    while left > 0 {
                        // A few at a time, so that who is short of instances meanwhile waits for
                        // these few, and finds room.
                        let _reclaiming = lock(&reclaiming);
                        match pool.give_up(left.min(RECLAIMED_AT_ONCE)) {
                            0 => break,
                            dropped => left -= dropped,
                        }
                    }
                }
            }
        })?;
        Ok(pools)
    }

    pub(super) fn new_pool<I: Send + 'static>(&self) -> Arc<Pool<I>> {
        let idle = Idle {
            instances: Vec::new(),
            unneeded: 0,
        };
        let pool = Arc::new(Pool(Mutex::new(idle)));
        let weak: Weak<dyn Shrink> = Arc::<Pool<I>>::downgrade(&pool);
        lock(&self.pools).push(weak);
        pool
    }

    /// Drops some of the idle instances of the node, of the plugins that have most of them, but
    /// not the last one of any. Returns whether there may be room now.
    pub(super) fn reclaim(&self) -> bool {
        let Ok(_reclaiming) = self.reclaiming.try_lock() else {
            // Somebody else is at it: what becomes free is for all who wait.
            drop(lock(&self.reclaiming));
            return true;
        };
        let mut pools = living(&self.pools);
        pools.sort_by_cached_key(|pool| Reverse(pool.len()));
        let mut left = RECLAIMED_AT_ONCE;
        for pool in pools {
            left -= pool.give_up(left);
        }
        left < RECLAIMED_AT_ONCE
    }
}

fn living(pools: &Mutex<Vec<Weak<dyn Shrink>>>) -> Vec<Arc<dyn Shrink>> {
    let mut pools = lock(pools);
    pools.retain(|pool| pool.strong_count() > 0);
    pools.iter().filter_map(Weak::upgrade).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
