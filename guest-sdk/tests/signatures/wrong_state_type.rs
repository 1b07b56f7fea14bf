use meshage_sdk::State;

struct Cart;

#[meshage_sdk::handler]
fn handle(_: &mut State<Cart>) {}

fn main() {}
