//! The budget of one instance: what its memories and tables may grow to, all together.

use wasmtime::ResourceLimiter;

use super::limits::TABLE_ELEMENTS_MAX;
use crate::message::{Limit, LimitKind};

/// Core instances, memories and tables of one component: far more than any toolchain makes.
const PARTS_MAX: usize = 32;

pub(super) struct Budget {
    memory_bytes: Account,
    table_elements: Account,
    /// The limit at which a growth was refused, if one was. A guest may live on without it.
    refused: Option<Limit>,
}

/// What has been taken of one thing, and the last addition, in case it comes to nothing.
struct Account {
    taken: usize,
    last: usize,
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

    /// Forgets what was refused: a new call begins.
    pub(super) fn begin(&mut self) {
        self.refused = None;
    }
}

impl Account {
    fn new(kind: LimitKind, max: usize) -> Self {
        Self { taken: 0, last: 0, limit: Limit { kind, max: max as u64 } }
    }

    fn take(&mut self, amount: usize) -> Result<(), Limit> {
        let taken = self.taken.saturating_add(amount);
        if taken as u64 > self.limit.max {
            return Err(self.limit);
        }
        (self.taken, self.last) = (taken, amount);
        Ok(())
    }

    fn undo(&mut self) {
        self.taken -= std::mem::take(&mut self.last);
    }
}

impl ResourceLimiter for Budget {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let own_maximum_allows = maximum.is_none_or(|maximum| desired <= maximum);
        let granted = self.memory_bytes.take(desired.saturating_sub(current));
        self.refused = granted.err().or(self.refused);
        Ok(granted.is_ok() && own_maximum_allows)
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory_bytes.undo();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let own_maximum_allows = maximum.is_none_or(|maximum| desired <= maximum);
        let granted = self.table_elements.take(desired.saturating_sub(current));
        self.refused = granted.err().or(self.refused);
        Ok(granted.is_ok() && own_maximum_allows)
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.table_elements.undo();
        Ok(())
    }

    fn instances(&self) -> usize {
        PARTS_MAX
    }

    fn tables(&self) -> usize {
        PARTS_MAX
    }

    fn memories(&self) -> usize {
        PARTS_MAX
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
        assert_eq!(budget.refused(), Some(Limit { kind: LimitKind::MemoryBytes, max: 100 }));
        assert_eq!(budget.memory_bytes(), 100);
    }

    #[test]
    fn a_growth_that_comes_to_nothing_is_given_back() {
        let mut budget = Budget::new(100);
        assert!(budget.memory_growing(0, 10, None).unwrap());
        assert!(budget.memory_growing(10, 90, None).unwrap());
        budget.memory_grow_failed(wasmtime::format_err!("no memory")).unwrap();
        assert_eq!(budget.memory_bytes(), 10);
        // What the memory itself does not allow is not the budget's refusal.
        assert!(!budget.memory_growing(10, 50, Some(20)).unwrap());
        assert_eq!(budget.refused(), None);
    }
}
