//! The stream `cart`: a shopping cart for each customer, who is the partition key. It shows typed
//! state: `POST` adds an item, `DELETE` empties the cart, `GET` reads it.

use meshage_sdk::{Failure, Json, Message, State};
use serde::{Deserialize, Serialize};

/// The sum up to which a customer may order.
const TOTAL_CENTS_MAX: u64 = 100_000;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cart {
    items: Vec<Item>,
    total_cents: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    article: String,
    quantity: u32,
    cents: u32,
}

#[meshage_sdk::handler]
fn handle(message: Message, cart: &mut State<Cart>) -> Result<Json<Cart>, Failure> {
    match message.method() {
        "GET" => {}
        "DELETE" => **cart = Cart::default(),
        _ => cart.add(message.json()?)?,
    }
    Ok(Json((**cart).clone()))
}

impl Cart {
    fn add(&mut self, item: Item) -> Result<(), Failure> {
        self.total_cents += u64::from(item.cents) * u64::from(item.quantity);
        self.items.push(item);
        // Nothing of a failed message is kept, so it may be noticed after the change.
        if self.total_cents > TOTAL_CENTS_MAX {
            return Err(Failure::conflict(format_args!(
                "the cart would cost {} cents; the limit is {TOTAL_CENTS_MAX}",
                self.total_cents
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use meshage_sdk::{Entity, json};

    use super::*;

    fn send(ada: &Entity, message: Message) -> Result<Cart, Failure> {
        let Json(cart) = ada.with_state(|cart| handle(message, cart))?;
        Ok(cart)
    }

    fn add(article: &str, quantity: u32, cents: u32) -> Message {
        let item = json!({ "article": article, "quantity": quantity, "cents": cents });
        Message::new("cart", "ada").with_json(&item)
    }

    #[test]
    fn what_is_added_is_there_until_the_cart_is_emptied() {
        let ada = Entity::in_memory("cart", "ada");
        send(&ada, add("tea", 2, 450)).unwrap();
        send(&ada, add("cup", 1, 1_200)).unwrap();
        let get = || Message::new("cart", "ada").with_method("GET");
        let cart = send(&ada, get()).unwrap();
        assert_eq!((cart.items.len(), cart.total_cents), (2, 2_100));
        send(&ada, get().with_method("DELETE")).unwrap();
        assert_eq!(send(&ada, get()), Ok(Cart::default()));
    }

    #[test]
    fn a_message_that_fails_leaves_nothing_behind() {
        let ada = Entity::in_memory("cart", "ada");
        let cart = send(&ada, add("tea", 2, 450)).unwrap();
        let failure = send(&ada, add("yacht", 1, 90_000_000)).unwrap_err();
        assert!(matches!(failure, Failure::Conflict(_)), "{failure}");
        let get = Message::new("cart", "ada").with_method("GET");
        assert_eq!(send(&ada, get), Ok(cart));
    }
}
