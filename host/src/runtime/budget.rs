//! The budget of one instance: the limits that all its memories and all its tables share.

use wasmtime::ResourceLimiter;

use super::limits::TABLE_ELEMENTS_MAX;
use crate::message::{Limit, LimitKind};

/// Maximum of core instances, and of tables, in one component: interpreters consist of about a
/// dozen core instances.
pub(super) const CORE_INSTANCES_MAX: usize = 32;

/// Maximum of memories in one component. Usually there is one; each takes a memory slot of the
/// node's instance pool.
pub(super) const MEMORIES_MAX: usize = 2;

pub(super) struct Budget {
    memory_bytes: Account,
    table_elements: Account,
    /// The limit that refused a growth during this call, if any. The guest may carry on without the
    /// growth.
    refused: Option<Limit>,
}

/// The amount used of one resource. A granted growth stays counted even if it then fails; that only
/// retires the instance sooner.
struct Account {
    taken: usize,
    limit: Limit,
}

impl Budget {
    pub(super) fn new(memory_bytes_max: usize) -> Self {
        Self {
            memory_bytes: Account::new(LimitKind::MemoryBytes, memory_bytes_max),
            table_elements: Account::new(LimitKind::TableElements, TABLE_ELEMENTS_MAX),
            refused: None,
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes.taken
    }

    pub(super) fn refused(&self) -> Option<Limit> {
        self.refused
    }

    /// Clears the refused limit at the start of a call.
    pub(super) fn begin(&mut self) {
        self.refused = None;
    }
}

impl Account {
    fn new(kind: LimitKind, max: usize) -> Self {
        Self {
            taken: 0,
            limit: Limit {
                kind,
                max: max as u64,
            },
        }
    }

    /// Grants a growth, or returns the limit that it would exceed. A growth beyond the memory's or
    /// table's own maximum is denied without being counted.
    fn grow(
        &mut self,
        current: usize,
        desired: usize,
        own_maximum: Option<usize>,
    ) -> Result<bool, Limit> {
        let taken = self.taken.saturating_add(desired.saturating_sub(current));
        if taken as u64 > self.limit.max {
            return Err(self.limit);
        }
        if own_maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.taken = taken;
        Ok(true)
    }
}

impl ResourceLimiter for Budget {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let granted = self.memory_bytes.grow(current, desired, maximum);
        self.refused = granted.err().or(self.refused);
        Ok(granted.unwrap_or(false))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let granted = self.table_elements.grow(current, desired, maximum);
        self.refused = granted.err().or(self.refused);
        Ok(granted.unwrap_or(false))
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        CORE_INSTANCES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_count_together() {
        let mut budget = Budget::new(100);
        assert!(budget.memory_growing(0, 60, None).unwrap());
        assert!(budget.memory_growing(0, 40, None).unwrap());
        assert_eq!(budget.refused(), None);
        assert!(!budget.memory_growing(60, 61, None).unwrap());
        assert_eq!(
            budget.refused(),
            Some(Limit {
                kind: LimitKind::MemoryBytes,
                max: 100
            })
        );
        assert_eq!(budget.memory_bytes(), 100);
    }

    #[test]
    fn what_a_memory_does_not_allow_itself_is_not_taken() {
        let mut budget = Budget::new(100);
        for _ in 0..10 {
            assert!(!budget.memory_growing(10, 50, Some(20)).unwrap());
        }
        assert_eq!(budget.memory_bytes(), 0);
        assert_eq!(budget.refused(), None);
    }
}
