#[meshage_sdk::handler]
fn handle(_: impl meshage_sdk::FromMessage) {}

fn main() {}
