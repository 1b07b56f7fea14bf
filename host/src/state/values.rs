//! What is known of an entity's committed values.

use bytes::Bytes;

use super::name_map::NameMap;
use super::{Name, Page, Range, VALUE_OVERHEAD, Writes};

/// The values of one entity that have been looked up. Those of other names are not known, unless it
/// is complete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    /// `None`: it is known that there is no such value.
    known: NameMap,
    /// Every value is known.
    is_complete: bool,
    memory: usize,
}

impl Values {
    /// The values of an entity that has none.
    pub fn none() -> Self {
        Self {
            is_complete: true,
            ..Self::default()
        }
    }

    /// Some values of an entity, or all of them.
    pub fn new(values: impl IntoIterator<Item = (Name, Bytes)>, is_complete: bool) -> Self {
        let mut known = Self {
            is_complete,
            ..Self::default()
        };
        for (name, value) in values {
            known.learn(name, Some(value));
        }
        known
    }

    /// The value of a name: `None` if it is not known, `Some(None)` if there is none.
    pub fn get(&self, name: &str) -> Option<Option<&Bytes>> {
        match self.known.get(name) {
            Some(value) => Some(value.as_ref()),
            None => self.is_complete.then_some(None),
        }
    }

    /// An estimate of the memory that it takes.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Notes what was looked up.
    pub fn learn(&mut self, name: Name, value: Option<Bytes>) {
        if self.is_complete && value.is_none() {
            self.forget(&name);
            return;
        }
        self.memory += memory(&name, value.as_ref());
        if let Some(old) = self.known.insert(name.clone(), value) {
            self.memory -= memory(&name, old.as_ref());
        }
    }

    fn forget(&mut self, name: &Name) {
        if let Some(old) = self.known.remove(name) {
            self.memory -= memory(name, old.as_ref());
        }
    }

    /// Takes over changes that were committed.
    pub fn apply(&mut self, writes: &Writes) {
        if writes.is_clear() {
            *self = Self::none();
        }
        for (name, value) in writes.iter() {
            self.learn(name.clone(), value.cloned());
        }
    }

    /// The values in a range, if all of them are known.
    pub fn page(&self, range: &Range) -> Option<Page> {
        if !self.is_complete {
            return None;
        }
        let values = self.known.within(range);
        Some(Page::of(
            values.filter_map(|(name, value)| value.map(|value| (name.clone(), value.clone()))),
            range.limit,
        ))
    }
}

fn memory(name: &Name, value: Option<&Bytes>) -> usize {
    name.len() + value.map_or(0, Bytes::len) + VALUE_OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    #[test]
    fn what_was_not_looked_up_is_not_known() {
        let mut values = Values::new([("a".into(), bytes("1"))], false);
        assert_eq!(values.get("a"), Some(Some(&bytes("1"))));
        assert_eq!(values.get("b"), None);
        values.learn("b".into(), None);
        assert_eq!(values.get("b"), Some(None));
        let all = Values::new([("a".into(), bytes("1"))], true);
        assert_eq!(all.get("b"), Some(None));
    }

    #[test]
    fn changes_apply_and_memory_is_counted() {
        let mut values = Values::none();
        let mut writes = Writes::default();
        writes.put("a".into(), Some(bytes("123")));
        writes.put("b".into(), Some(bytes("1")));
        values.apply(&writes);
        assert_eq!(values.memory(), 6 + 2 * VALUE_OVERHEAD);
        let mut writes = Writes::default();
        writes.put("a".into(), None);
        values.apply(&writes);
        assert_eq!(
            (values.get("a"), values.memory()),
            (Some(None), 2 + VALUE_OVERHEAD)
        );
        let mut writes = Writes::default();
        writes.clear();
        values.apply(&writes);
        assert_eq!(values, Values::none());
    }
}
