#[meshage_sdk::handler(stream = "echo")]
fn handle() {}

fn main() {}
