//! A guest for tests: does what the query tells it to, and goes wrong in the ways real ones do.

// Handlers may forbid what the bindings need: it is not theirs.
#![forbid(unsafe_code)]

use std::time::Duration;

use meshage_sdk::{Failure, Message, Reply, log};

#[meshage_sdk::handler]
fn fickle(message: Message) -> Result<Reply, Failure> {
    let (act, argument) = message.query().split_once('=').unwrap_or((message.query(), ""));
    let number = || argument.parse::<u64>().map_err(Failure::invalid);
    match act {
        "panic" => panic!("told to panic: {argument}"),
        "spin" => loop {
            std::hint::black_box(());
        },
        "sleep_ms" => std::thread::sleep(Duration::from_millis(number()?)),
        "memory_mb" => {
            std::hint::black_box(vec![1u8; (number()? << 20) as usize]);
        }
        "log" => log::warn!("told to log: {argument}"),
        "print" => println!("told to print: {argument}"),
        "status" => return Ok(Reply::new(number()? as u16).with_body("text/plain", "as told")),
        "header" => {
            let (name, value) = argument.split_once(':').unwrap_or((argument, ""));
            return Ok(Reply::new(200).with_header(name, value));
        }
        "bytes" => {
            let body = vec![b'x'; number()? as usize];
            return Ok(Reply::new(200).with_body("application/octet-stream", body));
        }
        "fail_bytes" => return Err(Failure::conflict("é".repeat(number()? as usize / 2))),
        "header_count" => {
            let count = number()?;
            return Ok((0..count).fold(Reply::new(200), |reply, _| reply.with_header("a", "")));
        }
        "headers" => {
            let seen: Vec<String> = message.headers().map(|(name, value)| format!("{name}: {value}")).collect();
            return Ok(Reply::new(200).with_body("text/plain", seen.join("\n")));
        }
        "environment" => {
            let seen: Vec<String> = std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
            return Ok(Reply::new(200).with_body("text/plain", seen.join("\n")));
        }
        "describe" => {
            let text = format!("{} {} {}", message.method(), message.partition_key(), message.body().len());
            return Ok(Reply::new(200).with_body("text/plain", text));
        }
        _ => {}
    }
    // What came in goes out, as bytes.
    let content_type = message.header("content-type").unwrap_or("application/octet-stream").to_owned();
    Ok(Reply::new(200).with_body(&content_type, message.into_body()))
}
