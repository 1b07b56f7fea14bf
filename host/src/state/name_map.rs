//! A map from names to values, or to `None` where there is no value. It is small as long as it has
//! one entry: most entities have one value.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::{Name, Range};

#[derive(Debug, Clone, Default)]
pub(super) struct NameMap {
    /// The only entry, while there is one.
    one: Option<(Name, Option<Bytes>)>,
    /// The entries, once there were two.
    many: BTreeMap<Name, Option<Bytes>>,
}

impl NameMap {
    pub(super) fn len(&self) -> usize {
        usize::from(self.one.is_some()) + self.many.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn get(&self, name: &str) -> Option<&Option<Bytes>> {
        match &self.one {
            Some((only, value)) => (**only == *name).then_some(value),
            None => self.many.get(name),
        }
    }

    /// Returns what the name had before.
    pub(super) fn insert(&mut self, name: Name, value: Option<Bytes>) -> Option<Option<Bytes>> {
        match &mut self.one {
            Some((only, old)) if *only == name => Some(std::mem::replace(old, value)),
            None if self.many.is_empty() => {
                self.one = Some((name, value));
                None
            }
            _ => {
                self.many.extend(self.one.take());
                self.many.insert(name, value)
            }
        }
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Option<Bytes>> {
        match self.one.take_if(|(only, _)| **only == *name) {
            Some((_, value)) => Some(value),
            None => self.many.remove(name),
        }
    }

    /// In the order of the names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, Option<&Bytes>)> {
        let one = self.one.iter().map(|(name, value)| (name, value.as_ref()));
        let many = self.many.iter();
        one.chain(many.map(|(name, value)| (name, value.as_ref())))
    }

    /// The entries whose names are in the range, whatever its limit, in their order.
    pub(super) fn within<'a>(
        &'a self,
        range: &'a Range,
    ) -> impl Iterator<Item = (&'a Name, Option<&'a Bytes>)> {
        let from = if range.after < range.prefix {
            Bound::Included(&*range.prefix)
        } else {
            Bound::Excluded(&*range.after)
        };
        let is_behind = move |name: &str| match from {
            Bound::Included(first) => name >= first,
            Bound::Excluded(last) => name > last,
            Bound::Unbounded => true,
        };
        let one = self.one.iter().filter(move |(name, _)| is_behind(name));
        let one = one.map(|(name, value)| (name, value));
        one.chain(self.many.range::<str, _>((from, Bound::Unbounded)))
            .take_while(|(name, _)| name.starts_with(&*range.prefix))
            .map(|(name, value)| (name, value.as_ref()))
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = (Name, Option<Bytes>)> {
        self.one.into_iter().chain(self.many)
    }
}

/// Equal if they have the same entries.
impl PartialEq for NameMap {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for NameMap {}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &'static str) -> Option<Bytes> {
        Some(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn it_is_a_map_whatever_its_size() {
        let mut map = NameMap::default();
        assert!(map.is_empty() && map.remove("a").is_none());
        assert_eq!(map.insert("b".into(), some("1")), None);
        assert_eq!(map.insert("b".into(), some("2")), Some(some("1")));
        assert_eq!((map.get("b"), map.get("a")), (Some(&some("2")), None));
        assert_eq!(map.insert("a".into(), None), None);
        assert_eq!(map.insert("ba".into(), some("3")), None);
        let names = |map: &NameMap| -> Vec<String> {
            map.iter().map(|(name, _)| name.to_string()).collect()
        };
        assert_eq!((names(&map).join(" "), map.len()), ("a b ba".into(), 3));
        assert_eq!(map.get("a"), Some(&None));
        assert_eq!(map.remove("a"), Some(None));
        assert_eq!(map.remove("ba"), Some(some("3")));
        let mut one = NameMap::default();
        one.insert("b".into(), some("2"));
        assert_eq!(map, one);
        assert_eq!(one.remove("b"), Some(some("2")));
        assert!(one.is_empty());
    }

    #[test]
    fn a_range_is_the_same_in_a_small_map_and_a_large_one() {
        let names = |names: &[&str], prefix: &str, after: &str| -> Vec<String> {
            let mut map = NameMap::default();
            for name in names {
                map.insert((*name).into(), some("1"));
            }
            let range = Range::new(prefix, after, 10);
            let within = map.within(&range);
            within.map(|(name, _)| name.to_string()).collect()
        };
        for (prefix, after, is_in) in [
            ("", "", true),
            ("a", "", true),
            ("ab", "aa", true),
            ("", "ab", false),
            ("a", "ab", false),
            ("b", "", false),
            ("abc", "", false),
        ] {
            assert_eq!(
                names(&["ab"], prefix, after),
                if is_in { vec!["ab"] } else { vec![] }
            );
            let large = names(&["ab", "zz"], prefix, after);
            assert_eq!(large.contains(&"ab".to_owned()), is_in, "{prefix} {after}");
        }
    }
}
