struct Quote;

#[meshage_sdk::handler]
fn handle() -> Quote {
    Quote
}

fn main() {}
