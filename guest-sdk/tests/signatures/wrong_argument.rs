struct Order;

#[meshage_sdk::handler]
fn handle(_: Order) {}

fn main() {}
