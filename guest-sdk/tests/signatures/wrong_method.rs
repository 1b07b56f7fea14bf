struct Shop;

impl Shop {
    #[meshage_sdk::handler]
    fn handle(&self) {}
}

fn main() {}
