use meshage_sdk::FromMessage;

#[meshage_sdk::handler]
fn handle<T: FromMessage>(_: T) {}

fn main() {}
