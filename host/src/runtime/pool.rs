//! Warm instances: each plugin has a pool of idle ones. A pool drops instances that it has not
//! needed for a while, or at once when the node runs out of instances.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Interval at which pools are shrunk: an instance that is not needed stays between one and two
/// intervals.
const IDLE: Duration = Duration::from_secs(10);

/// Instances that stay in a pool even if not needed, so that the next message finds a warm one.
const KEPT: usize = 1;

/// Instances that are dropped at once when the node runs out of them. The caller waits for that,
/// some 30 µs for each.
const RECLAIMED_AT_ONCE: usize = 8;

/// The warm instances `I` of one plugin.
pub(super) struct Pool<I>(Mutex<Idle<I>>);

struct Idle<I> {
    /// A stack: the instance returned last is taken first, as its memory is warm, and those at the
    /// bottom turn out to be unneeded.
    instances: Vec<I>,
    /// The smallest length of `instances` since the pool was last shrunk.
    unneeded: usize,
}

/// The pools of all plugins.
#[derive(Clone, Default)]
pub(super) struct Pools {
    pools: Arc<Mutex<Vec<Weak<dyn Shrink>>>>,
    /// Held while idle instances are being dropped.
    reclaiming: Arc<Mutex<()>>,
}

/// A pool that can drop idle instances.
trait Shrink: Send + Sync {
    fn len(&self) -> usize;

    /// How many instances were not needed since the last call of this function.
    fn surplus(&self) -> usize;

    /// Drops at most `max` idle instances, but keeps [`KEPT`]. Returns how many it dropped.
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
    /// Starts the thread that shrinks the pools. It runs as long as they live, and cancels `ended`
    /// when it ends.
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
                        // A few at a time: a call that needs an instance meanwhile waits only for
                        // these few, and then finds a free slot.
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

    /// Drops some idle instances of the plugins that have most of them, but never the last one of a
    /// plugin. Returns whether there may be a free slot now.
    pub(super) fn reclaim(&self) -> bool {
        let Ok(_reclaiming) = self.reclaiming.try_lock() else {
            // Another call is reclaiming: wait for it, since the slots that it frees are for every
            // waiting call.
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
