#[meshage_sdk::handler]
unsafe fn handle() {}

fn main() {}
