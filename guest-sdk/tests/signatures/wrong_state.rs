use meshage_sdk::State;

#[meshage_sdk::handler]
fn handle(count: State<u32>) -> String {
    count.to_string()
}

fn main() {}
