//! The values of an entity: the host's, or those of an entity in memory in a test.

#[cfg(target_family = "wasm")]
pub(crate) use host::Values;
#[cfg(not(target_family = "wasm"))]
pub(crate) use memory::Values;

#[cfg(target_family = "wasm")]
mod host {
    use crate::guest::bindings::meshage::mesh::state;

    /// The values of the entity that the message is for.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Values;

    impl Values {
        pub(crate) fn get(&self, name: &str) -> Option<Vec<u8>> {
            state::get(name)
        }

        pub(crate) fn set(&self, name: &str, value: &[u8]) {
            state::set(name, value);
        }

        pub(crate) fn delete(&self, name: &str) {
            state::delete(name);
        }

        pub(crate) fn clear(&self) {
            state::clear();
        }

        pub(crate) fn scan(&self, prefix: &str, after: &str, limit: u32) -> Vec<(String, Vec<u8>)> {
            state::scan(prefix, after, limit)
        }
    }
}

#[cfg(not(target_family = "wasm"))]
mod memory {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::ops::Bound;
    use std::rc::Rc;

    type Map = BTreeMap<String, Vec<u8>>;

    /// Values in memory, for tests. Clones are the same values.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Values(Rc<RefCell<Map>>);

    impl Values {
        pub(crate) fn get(&self, name: &str) -> Option<Vec<u8>> {
            check(name);
            self.0.borrow().get(name).cloned()
        }

        pub(crate) fn set(&self, name: &str, value: &[u8]) {
            check(name);
            self.0.borrow_mut().insert(name.to_owned(), value.to_vec());
        }

        pub(crate) fn delete(&self, name: &str) {
            check(name);
            self.0.borrow_mut().remove(name);
        }

        pub(crate) fn clear(&self) {
            self.0.borrow_mut().clear();
        }

        pub(crate) fn scan(&self, prefix: &str, after: &str, limit: u32) -> Vec<(String, Vec<u8>)> {
            let values = self.0.borrow();
            let behind = values.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
            behind
                .filter(|(name, _)| name.starts_with(prefix))
                .take(limit as usize)
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect()
        }

        pub(crate) fn snapshot(&self) -> Map {
            self.0.borrow().clone()
        }

        pub(crate) fn restore(&self, values: Map) {
            *self.0.borrow_mut() = values;
        }
    }

    /// The host ends a call with such a name.
    fn check(name: &str) {
        let is_name = (1..=1024).contains(&name.len()) && !name.contains('\0');
        assert!(
            is_name,
            "the name of a value has 1 to 1024 bytes, none of them zero"
        );
    }
}
