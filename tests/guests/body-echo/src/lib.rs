//! For benchmarks: answers a message with its body, as the HTTP components and servers do that it
//! is compared with.

#[meshage_sdk::handler]
fn echo(body: Vec<u8>) -> Vec<u8> {
    body
}
