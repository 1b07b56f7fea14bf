#[meshage_sdk::handler]
fn handle() -> Result<String, std::num::ParseIntError> {
    Ok("1".parse::<i32>()?.to_string())
}

fn main() {}
