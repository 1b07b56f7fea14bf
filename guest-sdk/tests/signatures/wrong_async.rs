use meshage_sdk::Message;

#[meshage_sdk::handler]
async fn handle(_: Message) {}

fn main() {}
