use meshage_sdk::State;

#[meshage_sdk::handler]
fn handle(_: &mut State<u32>, _: &mut State<String>) {}

fn main() {}
