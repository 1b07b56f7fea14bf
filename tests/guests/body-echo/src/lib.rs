//! For benchmarks: answers a message with its body, which is what the HTTP components and servers
//! beside it do.

#[meshage_sdk::handler]
fn echo(body: Vec<u8>) -> Vec<u8> {
    body
}
