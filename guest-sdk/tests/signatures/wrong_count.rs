#[meshage_sdk::handler]
fn first() {}

#[meshage_sdk::handler]
fn second() {}

fn main() {}
