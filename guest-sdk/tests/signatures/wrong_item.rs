#[meshage_sdk::handler]
struct Handler;

fn main() {}
