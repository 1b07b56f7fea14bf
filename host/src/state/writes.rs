//! What one message, or several in a row, write to the values of their entity.

use bytes::Bytes;

use super::name_map::NameMap;
use super::{Name, Range, VALUE_OVERHEAD};

/// Changes to the values of one entity, in effect all at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writes {
    /// All older values are deleted first.
    is_clear: bool,
    /// `None`: the value is deleted.
    values: NameMap,
    bytes: usize,
}

impl Writes {
    pub fn is_empty(&self) -> bool {
        !self.is_clear && self.values.is_empty()
    }

    /// Whether all older values are deleted.
    pub fn is_clear(&self) -> bool {
        self.is_clear
    }

    /// The size of all names and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// An estimate of the memory that it takes.
    pub fn memory(&self) -> usize {
        self.bytes + self.values.len() * VALUE_OVERHEAD
    }

    /// The value that a name has after these changes: `None` if they leave it as it was,
    /// `Some(None)` if they delete it.
    pub fn get(&self, name: &str) -> Option<Option<&Bytes>> {
        match self.values.get(name) {
            Some(value) => Some(value.as_ref()),
            None => self.is_clear.then_some(None),
        }
    }

    /// Sets a value, or deletes it.
    pub fn put(&mut self, name: Name, value: Option<Bytes>) {
        let added = name.len() + size(value.as_ref());
        self.bytes += added;
        let length = name.len();
        if let Some(old) = self.values.insert(name, value) {
            self.bytes -= length + size(old.as_ref());
        }
    }

    /// Deletes all values.
    pub fn clear(&mut self) {
        *self = Self {
            is_clear: true,
            ..Self::default()
        };
    }

    /// Adds changes that were made after these.
    pub fn append(&mut self, later: Self) {
        if later.is_clear {
            *self = later;
            return;
        }
        for (name, value) in later.values.into_iter() {
            self.put(name, value);
        }
    }

    /// The changes by name; `None` for a value that is deleted.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, Option<&Bytes>)> {
        self.values.iter()
    }

    /// The changes of names in a range, in order.
    pub(super) fn within<'a>(
        &'a self,
        range: &'a Range,
    ) -> impl Iterator<Item = (&'a Name, Option<&'a Bytes>)> {
        self.values.within(range)
    }
}

fn size(value: Option<&Bytes>) -> usize {
    value.map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn the_last_write_of_a_name_counts() {
        let mut writes = Writes::default();
        assert!(writes.is_empty());
        writes.put("a".into(), bytes("1"));
        writes.put("a".into(), bytes("22"));
        writes.put("b".into(), None);
        assert_eq!(writes.get("a"), Some(bytes("22").as_ref()));
        assert_eq!(writes.get("b"), Some(None));
        assert_eq!(writes.get("c"), None);
        assert_eq!(writes.bytes(), 4);
    }

    #[test]
    fn clear_deletes_what_was_before_it() {
        let mut writes = Writes::default();
        writes.put("a".into(), bytes("1"));
        writes.clear();
        writes.put("b".into(), bytes("2"));
        assert!(writes.is_clear() && !writes.is_empty());
        assert_eq!(writes.get("a"), Some(None));
        assert_eq!(
            (writes.get("b"), writes.bytes()),
            (Some(bytes("2").as_ref()), 2)
        );
    }

    #[test]
    fn later_changes_come_on_top() {
        let mut first = Writes::default();
        first.put("a".into(), bytes("1"));
        first.put("b".into(), bytes("1"));
        let mut second = Writes::default();
        second.put("b".into(), None);
        first.append(second);
        assert_eq!(
            (first.get("a"), first.get("b")),
            (Some(bytes("1").as_ref()), Some(None))
        );
        let mut third = Writes::default();
        third.clear();
        first.append(third.clone());
        assert_eq!(first, third);
    }
}
