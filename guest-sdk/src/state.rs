//! The typed state of an entity.

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Entity, Failure, stored};

/// The name of the value that holds the state. Stores keep it beside the entity's key.
const NAME: &str = "state";

/// As an argument, by reference: the state of the entity that the message is for, as JSON in the
/// store under the name `state`.
///
/// It is loaded before the handler runs: `T::default()` if there is none. If the handler takes
/// `&mut State<T>` and returns no failure, it is saved if it has changed, and committed before the
/// reply leaves the node; a failure leaves it as it was. `&State<T>` only reads.
///
/// ```
/// use meshage_sdk::{Entity, Failure, Json, State};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
/// struct Cart {
///     items: Vec<String>,
/// }
///
/// #[meshage_sdk::handler]
/// fn add(cart: &mut State<Cart>, Json(item): Json<String>) -> Result<Json<Cart>, Failure> {
///     cart.items.push(item);
///     Ok(Json(cart.clone()))
/// }
///
/// let mut cart = State::new(Cart::default());
/// add(&mut cart, Json("tea".into())).unwrap();
/// assert_eq!(cart.items, ["tea"]);
///
/// // With an entity, as a node does it: saved after each message that does not fail.
/// let entity = Entity::in_memory("cart", "ada");
/// for item in ["tea", "milk"] {
///     entity.with_state(|cart| add(cart, Json(item.into()))).unwrap();
/// }
/// assert_eq!(entity.get_bytes("state").unwrap(), br#"{"items":["tea","milk"]}"#);
/// ```
///
/// **Versions.** Members of the stored JSON that `T` does not know are kept when it is saved, so that
/// an older version of a handler does not drop what a newer one has written. A value that cannot be
/// read as a `T` is a [`Failure::Internal`] that names the entity and the member: give new fields a
/// `#[serde(default)]`.
pub struct State<T> {
    value: T,
    /// What is in the store.
    stored: Option<Vec<u8>>,
    /// Whether the handler had mutable access, and what `T` did not know of the stored value.
    access: Access,
    /// Finds that out, at the first mutable access.
    compare: fn(&T, &[u8]) -> bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// It was only read.
    Shared,
    /// It may have been changed, and `T` knows every member of the stored value.
    Mutable,
    /// It may have been changed, and `T` does not know every member, or writes them differently.
    WithUnknown,
}

impl<T> State<T> {
    /// A state of this value, for tests.
    pub fn new(value: T) -> Self {
        Self {
            value,
            stored: None,
            access: Access::Shared,
            compare: |_, _| true,
        }
    }
}

impl<T> Deref for State<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for State<T> {
    fn deref_mut(&mut self) -> &mut T {
        if self.access == Access::Shared {
            // Now it is as it was loaded.
            let is_whole = match &self.stored {
                Some(stored) => (self.compare)(&self.value, stored),
                None => true,
            };
            self.access = if is_whole {
                Access::Mutable
            } else {
                Access::WithUnknown
            };
        }
        &mut self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for State<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// What a handler takes by reference: something that is loaded from the entity before it runs, and
/// saved after it. [`State`] implements it.
#[diagnostic::on_unimplemented(
    message = "a handler cannot take `{Self}` by reference",
    label = "not part of the entity's state",
    note = "a handler owns its arguments: write the type without `&`; only `State<T>` is taken by \
            reference, where `T` implements `Default` and serde's `Serialize` and `Deserialize`"
)]
pub trait Stateful: Sized {
    /// Loads it.
    ///
    /// # Errors
    /// The failure that the caller gets; the handler does not run.
    fn load(entity: &Entity) -> Result<Self, Failure>;

    /// Saves it, if it has changed.
    ///
    /// # Errors
    /// The failure that the caller gets; nothing is saved.
    fn save(self, entity: &Entity) -> Result<(), Failure>;
}

impl<T: Default + Serialize + DeserializeOwned> Stateful for State<T> {
    fn load(entity: &Entity) -> Result<Self, Failure> {
        let stored = entity.get_bytes(NAME);
        let value = match &stored {
            Some(bytes) => stored::read(entity, NAME, bytes)?,
            None => T::default(),
        };
        Ok(Self {
            value,
            stored,
            access: Access::Shared,
            compare: stored::is_written_as::<T>,
        })
    }

    fn save(self, entity: &Entity) -> Result<(), Failure> {
        if self.access == Access::Shared {
            return Ok(());
        }
        let mut new = stored::write(entity, NAME, &self.value)?;
        if let Some(stored) = &self.stored {
            if self.access == Access::WithUnknown {
                new = stored::with_unknown::<T>(stored, new);
            }
            if stored::is_same(stored, &new) {
                return Ok(());
            }
        }
        entity.set_bytes(NAME, new);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Cart {
        items: Vec<Item>,
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct Item {
        price: u32,
    }

    fn push(cart: &mut State<Cart>, price: u32) -> Result<(), Failure> {
        cart.items.push(Item { price });
        if price == 0 {
            return Err(Failure::invalid("a price"));
        }
        Ok(())
    }

    #[test]
    fn it_is_saved_unless_the_handler_fails() {
        let entity = Entity::in_memory("cart", "ada");
        entity.with_state(|cart| push(cart, 3)).unwrap();
        entity.with_state(|cart| push(cart, 0)).unwrap_err();
        let stored = entity.get_bytes(NAME).unwrap();
        assert_eq!(stored, br#"{"items":[{"price":3}]}"#);
    }

    #[test]
    fn who_only_reads_writes_nothing() {
        let entity = Entity::in_memory("cart", "ada");
        let count = |cart: &mut State<Cart>| Ok::<_, Failure>(cart.items.len());
        assert_eq!(entity.with_state(count), Ok(0));
        assert_eq!(entity.get_bytes(NAME), None);
    }

    #[test]
    fn members_of_other_versions_are_kept() {
        let entity = Entity::in_memory("cart", "ada");
        entity.set_bytes(NAME, r#"{"coupon":"x","items":[{"price":3,"vat":7}]}"#);
        entity.with_state(|cart| push(cart, 4)).unwrap();
        let stored = String::from_utf8(entity.get_bytes(NAME).unwrap()).unwrap();
        assert_eq!(
            stored,
            r#"{"items":[{"price":3,"vat":7},{"price":4}],"coupon":"x"}"#
        );
    }

    #[test]
    fn a_state_that_does_not_fit_is_named_with_its_member() {
        let entity = Entity::in_memory("cart", "ada");
        entity.set_bytes(NAME, r#"{"items":[{"price":3},{"price":"many"}]}"#);
        let failure = entity.with_state(|cart| push(cart, 4)).unwrap_err();
        let text = failure.to_string();
        for part in ["cart/ada", "items[1].price", "Cart"] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }
}
