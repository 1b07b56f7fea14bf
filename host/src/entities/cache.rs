//! The active entities of this node: those that messages run on or wait for, and those that are
//! kept in memory because they may be needed again. The latter are dropped when there is no room.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::cell::Cell;
use super::commit::EntityId;
use crate::message::{PartitionKey, StreamName};

/// Parts of the cache, each with a lock, so that cores seldom wait for each other.
const SHARDS: usize = 32;

/// An estimate of the memory that an entity takes besides its names and values.
const CELL_BYTES: usize = 1024;

/// How many entities are looked at to find one that can be dropped, in each shard. Those that were
/// used since the last look get a second chance.
const LOOKS_MAX: usize = 16;

pub(super) struct Cache {
    shards: [Mutex<Shard>; SHARDS],
    bytes: AtomicUsize,
    bytes_max: usize,
    entities: AtomicUsize,
    /// Where the next search for room begins.
    next_shard: AtomicUsize,
    /// Differs with each start, so that nobody can choose keys that collide.
    seed: u64,
}

#[derive(Default)]
struct Shard {
    cells: HashTable<Arc<Cell>>,
    /// All of them, in the order in which they are looked at.
    ring: VecDeque<Arc<Cell>>,
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            shards: Default::default(),
            bytes: AtomicUsize::new(0),
            bytes_max,
            entities: AtomicUsize::new(0),
            next_shard: AtomicUsize::new(0),
            seed: RandomState::new().hash_one(0),
        }
    }

    /// The entity, which is active from now on.
    pub(super) fn get(&self, stream: &StreamName, key: &PartitionKey) -> Arc<Cell> {
        let hash = self.hash(stream, key);
        let mut shard = self.shard(hash);
        let is_it = |cell: &Arc<Cell>| cell.id.key == *key && cell.id.stream == *stream;
        if let Some(cell) = shard.cells.find(hash, is_it) {
            cell.note_use();
            return cell.clone();
        }
        let cell = Arc::new(Cell::new(EntityId {
            stream: stream.clone(),
            key: key.clone(),
        }));
        let rehash = |cell: &Arc<Cell>| self.hash(&cell.id.stream, &cell.id.key);
        shard.cells.insert_unique(hash, cell.clone(), rehash);
        shard.ring.push_back(cell.clone());
        drop(shard);
        self.entities.fetch_add(1, Ordering::Relaxed);
        self.grow(CELL_BYTES + key.as_str().len());
        cell
    }

    /// The entity, if it is active.
    pub(super) fn peek(&self, stream: &StreamName, key: &PartitionKey) -> Option<Arc<Cell>> {
        let hash = self.hash(stream, key);
        let is_it = |cell: &Arc<Cell>| cell.id.key == *key && cell.id.stream == *stream;
        let shard = self.shard(hash);
        shard.cells.find(hash, is_it).cloned()
    }

    /// Adds to the memory that is used, and drops entities if that is too much.
    pub(super) fn grow(&self, bytes: usize) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.bytes_max {
            self.make_room();
        }
    }

    pub(super) fn shrink(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn entities(&self) -> usize {
        self.entities.load(Ordering::Relaxed)
    }

    /// Drops entities that nobody uses, until it fits or none is found.
    fn make_room(&self) {
        let first = self.next_shard.fetch_add(1, Ordering::Relaxed);
        for number in 0..SHARDS {
            let mut shard = lock(&self.shards[(first + number) % SHARDS]);
            for _ in 0..LOOKS_MAX {
                if self.bytes() <= self.bytes_max {
                    return;
                }
                let Some(cell) = shard.ring.pop_front() else {
                    break;
                };
                if !self.drop_if_idle(&mut shard, &cell) {
                    shard.ring.push_back(cell);
                }
            }
        }
    }

    fn drop_if_idle(&self, shard: &mut Shard, cell: &Arc<Cell>) -> bool {
        // Besides the table and this function nobody has it; and to get it takes the shard's lock.
        if cell.take_use() || Arc::strong_count(cell) > 2 || !cell.lock().is_idle() {
            return false;
        }
        let hash = self.hash(&cell.id.stream, &cell.id.key);
        let is_it = |other: &Arc<Cell>| Arc::ptr_eq(other, cell);
        if let Ok(entry) = shard.cells.find_entry(hash, is_it) {
            entry.remove();
        }
        self.entities.fetch_sub(1, Ordering::Relaxed);
        self.shrink(CELL_BYTES + cell.id.key.as_str().len() + cell.charged());
        true
    }

    fn hash(&self, stream: &StreamName, key: &PartitionKey) -> u64 {
        let seed = xxh3_64_with_seed(stream.as_str().as_bytes(), self.seed);
        xxh3_64_with_seed(key.as_str().as_bytes(), seed)
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // The table uses the upper bits and the lowest ones.
        lock(&self.shards[(hash >> 24) as usize % SHARDS])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
