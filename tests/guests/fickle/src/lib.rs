//! A guest for tests: does what the query tells it to, and fails in the ways real ones do.

// Handlers can forbid unsafe code, although the generated bindings need it.
#![forbid(unsafe_code)]

mod fetch;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meshage_sdk::{Failure, Message, Reply, log};
use wasip2::clocks::monotonic_clock::subscribe_duration;

/// Messages that this instance has seen.
static CALLS: AtomicU64 = AtomicU64::new(0);

#[meshage_sdk::handler]
fn fickle(message: Message) -> Result<Reply, Failure> {
    let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    let (act, argument) = message
        .query()
        .split_once('=')
        .unwrap_or((message.query(), ""));
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
        "recurse" => return text(&recurse(1).to_string()),
        "leak" => {
            for _ in 0..number()? {
                std::mem::forget(subscribe_duration(u64::MAX));
            }
        }
        "calls" => return text(&calls.to_string()),
        "log" => log::warn!("told to log: {argument}"),
        "log_lines" => {
            for line in 0..number()? {
                log::info!("told to log line {line}");
                println!("told to print line {line}");
            }
        }
        "log_lines_then_warn" => {
            for line in 0..number()? {
                log::info!("told to log line {line}");
            }
            log::warn!("told to warn");
        }
        "log_body" => log::warn!(
            "told to log the body: {}",
            String::from_utf8_lossy(message.body())
        ),
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
        "header_bytes" => {
            return Ok(Reply::new(200).with_header("a", "x".repeat(number()? as usize)));
        }
        "headers" => {
            let seen: Vec<String> = message
                .headers()
                .map(|(name, value)| format!("{name}: {value}"))
                .collect();
            return text(&seen.join("\n"));
        }
        "environment" => {
            let seen: Vec<String> = std::env::vars()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            return text(&seen.join("\n"));
        }
        "read" => return text(&format!("{:?}", std::fs::read_dir(argument).err())),
        "connect" => {
            return text(&format!(
                "{:?}",
                std::net::TcpStream::connect(argument).err()
            ));
        }
        "send" => return text(&format!("{:?}", std::net::UdpSocket::bind(argument).err())),
        "fetch" => return Ok(fetch::get(argument)),
        "wait_for" => fetch::wait_for(argument).map_err(Failure::internal)?,
        "authority_bytes" => return text(&fetch::takes_authority(number()? as usize).to_string()),
        "fetch_many" => return text(&fetch::begin_many(argument).to_string()),
        "random" => {
            return text(&format!(
                "{:?}",
                wasip2::random::random::get_random_bytes(number()?)
            ));
        }
        "now" => {
            return text(&format!(
                "{:?}",
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)
            ));
        }
        "checksum" => return text(&checksum(message.body()).to_string()),
        "describe" => {
            let text = format!(
                "{} {} {}",
                message.method(),
                message.partition_key(),
                message.body().len()
            );
            return self::text(&text);
        }
        _ => {}
    }
    // By default, echoes the body as bytes.
    let content_type = message
        .header("content-type")
        .unwrap_or("application/octet-stream")
        .to_owned();
    Ok(Reply::new(200).with_body(&content_type, message.into_body()))
}

fn text(text: &str) -> Result<Reply, Failure> {
    Ok(Reply::new(200).with_body("text/plain", text))
}

/// A checksum that depends on the length of a body, its bytes, and their order.
fn checksum(body: &[u8]) -> u64 {
    body.iter().fold(1, |sum: u64, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
    })
}

#[allow(unconditional_recursion, reason = "it ends at the limit of the stack")]
fn recurse(depth: u64) -> u64 {
    std::hint::black_box(recurse(std::hint::black_box(depth + 1))) + 1
}
