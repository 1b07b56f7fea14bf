use meshage_sdk::Message;

#[meshage_sdk::handler]
fn handle(_: &Message) {}

fn main() {}
