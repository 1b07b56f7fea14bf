//! Scans: a page of an entity's values in the order of their names, and changes on top of it.

use bytes::Bytes;

use super::{Name, PAGE_BYTES_MAX, PAGE_VALUES_MAX, Writes};

/// Which values a scan asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    pub prefix: Name,
    /// Only names after this one; empty: from the beginning.
    pub after: Name,
    pub limit: usize,
}

/// Some values of a range, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    pub values: Vec<(Name, Bytes)>,
    /// Where the page ends: it has every value of the range up to this name; `None` if it has all
    /// of them.
    pub until: Option<Name>,
}

impl Range {
    /// A range whose limit is within that of a page.
    pub fn new(prefix: &str, after: &str, limit: usize) -> Self {
        Self {
            prefix: prefix.into(),
            after: after.into(),
            limit: limit.min(PAGE_VALUES_MAX),
        }
    }

    /// The rest of the range behind a page.
    pub fn behind(&self, until: &Name) -> Self {
        Self {
            after: until.clone(),
            ..self.clone()
        }
    }
}

impl Page {
    /// The page of a range without values.
    pub fn end() -> Self {
        Self::default()
    }

    /// The first page of these values, which are in order, cut to the limits of a page.
    pub fn of(values: impl Iterator<Item = (Name, Bytes)>, limit: usize) -> Self {
        let mut page = Self::default();
        let mut bytes = 0;
        for (name, value) in values {
            if page.values.len() >= limit || bytes >= PAGE_BYTES_MAX {
                page.until = page.values.last().map(|(name, _)| name.clone());
                break;
            }
            bytes += value.len();
            page.values.push((name, value));
        }
        page
    }

    /// The page with these changes on top, cut to the limits of a page.
    pub fn with(self, writes: &Writes, range: &Range) -> Self {
        let Self { values, until } = self;
        let (below, until) = if writes.is_clear() {
            (Vec::new(), None)
        } else {
            (values, until)
        };
        let mut below = below.into_iter().peekable();
        let mut above = writes
            .within(range)
            .take_while(|(name, _)| until.as_ref().is_none_or(|until| *name <= until))
            .peekable();
        let merged = std::iter::from_fn(|| {
            loop {
                let is_above = match (above.peek(), below.peek()) {
                    (Some((name, _)), Some((older, _))) => *name <= older,
                    (above, _) => above.is_some(),
                };
                if !is_above {
                    return below.next();
                }
                let (name, value) = above.next()?;
                below.next_if(|(older, _)| older == name);
                if let Some(value) = value {
                    return Some((name.clone(), value.clone()));
                }
            }
        });
        let page = Self::of(merged, range.limit);
        Self {
            until: page.until.or(until.clone()),
            values: page.values,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writes(changes: &[(&str, Option<&str>)]) -> Writes {
        let mut writes = Writes::default();
        for (name, value) in changes {
            let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
            writes.put((*name).into(), value);
        }
        writes
    }

    fn page(names: &str, until: Option<&str>) -> Page {
        Page {
            values: names
                .split_whitespace()
                .map(|name| (name.into(), Bytes::from_static(b"old")))
                .collect(),
            until: until.map(Into::into),
        }
    }

    #[track_caller]
    fn check(below: Page, changes: &Writes, range: &Range, names: &str, until: Option<&str>) {
        let merged = below.with(changes, range);
        let found: Vec<&str> = merged.values.iter().map(|(name, _)| &**name).collect();
        assert_eq!(
            (found.join(" ").as_str(), merged.until.as_deref()),
            (names, until)
        );
    }

    #[test]
    fn changes_come_on_top_of_a_page() {
        let range = Range::new("a", "", 10);
        let changes = writes(&[
            ("a0", Some("new")),
            ("a2", None),
            ("a9", Some("new")),
            ("b", Some("new")),
        ]);
        check(
            page("a1 a2 a3", None),
            &changes,
            &range,
            "a0 a1 a3 a9",
            None,
        );
        // What is beyond the end of the page belongs to a later one.
        check(
            page("a1 a2 a3", Some("a3")),
            &changes,
            &range,
            "a0 a1 a3",
            Some("a3"),
        );
        let mut cleared = Writes::default();
        cleared.clear();
        cleared.put("a5".into(), Some(Bytes::from_static(b"new")));
        check(page("a1 a2", Some("a2")), &cleared, &range, "a5", None);
    }

    #[test]
    fn a_page_has_at_most_its_limit() {
        let range = Range::new("", "a1", 2);
        let changes = writes(&[("a1", Some("new")), ("a5", Some("new"))]);
        check(
            page("a2 a3", Some("a3")),
            &changes,
            &range,
            "a2 a3",
            Some("a3"),
        );
        check(page("a2 a6", None), &changes, &range, "a2 a5", Some("a5"));
        check(page("", None), &changes, &Range::new("", "", 0), "", None);
    }

    #[test]
    fn large_values_fill_a_page_sooner() {
        let mut changes = Writes::default();
        for name in ["a", "b", "c", "d"] {
            changes.put(name.into(), Some(vec![0; PAGE_BYTES_MAX / 2].into()));
        }
        let range = Range::new("", "", 10);
        check(Page::end(), &changes, &range, "a b", Some("b"));
    }
}
