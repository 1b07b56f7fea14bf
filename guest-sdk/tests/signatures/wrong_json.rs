use meshage_sdk::Json;

struct Order;

#[meshage_sdk::handler]
fn handle(_: Json<Order>) {}

fn main() {}
