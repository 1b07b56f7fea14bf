//! The stream `orders`: prices an order. It shows typed JSON in and out, a failure of each kind,
//! and logging; the partition key is the customer.

use meshage_sdk::{Failure, Json, PartitionKey, log};
use serde::{Deserialize, Serialize};

/// The quantity that one customer may order at once.
const QUANTITY_MAX: u32 = 1_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    article: String,
    quantity: u32,
}

#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Quote {
    customer: String,
    article: String,
    quantity: u32,
    total_cents: u64,
}

#[meshage_sdk::handler]
fn price(
    PartitionKey(customer): PartitionKey,
    Json(order): Json<Order>,
) -> Result<Json<Quote>, Failure> {
    let Order { article, quantity } = order;
    if quantity == 0 {
        return Err(Failure::invalid("quantity must be at least 1"));
    }
    if quantity > QUANTITY_MAX {
        return Err(Failure::conflict(format_args!(
            "{customer} may order {QUANTITY_MAX} at once, not {quantity}"
        )));
    }
    let cents = price_cents(&article)?;
    log::info!("{customer} asked for {quantity} × {article}");
    Ok(Json(Quote {
        customer,
        total_cents: u64::from(cents) * u64::from(quantity),
        article,
        quantity,
    }))
}

fn price_cents(article: &str) -> Result<u32, Failure> {
    match article {
        "tea" => Ok(450),
        "coffee" => Ok(620),
        // As if the price list were being updated, and as if it had an error.
        "cocoa" => Err(Failure::unavailable(
            "cocoa is being repriced; ask again in a moment",
        )),
        "sugar" => Err(Failure::internal("the price of sugar is not a number")),
        _ => Err(Failure::not_found(format_args!(
            "no article {article:?}; there are tea and coffee"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(article: &str, quantity: u32) -> Result<Quote, Failure> {
        let order = Order {
            article: article.into(),
            quantity,
        };
        price(PartitionKey("ada".into()), Json(order)).map(|Json(quote)| quote)
    }

    #[test]
    fn prices_an_order() {
        let quote = order("tea", 3).unwrap();
        assert_eq!((quote.customer.as_str(), quote.total_cents), ("ada", 1_350));
    }

    #[test]
    fn refuses_with_the_kind_that_fits() {
        assert!(matches!(order("tea", 0), Err(Failure::Invalid(_))));
        assert!(matches!(order("milk", 1), Err(Failure::NotFound(_))));
        assert!(matches!(order("tea", 1_001), Err(Failure::Conflict(_))));
        assert!(matches!(order("cocoa", 1), Err(Failure::Unavailable(_))));
        assert!(matches!(order("sugar", 1), Err(Failure::Internal(_))));
    }
}
