//! Frames of the peer protocol, built by hand (`docs/peer-protocol.md`), so that a test can send
//! what no node of this version sends.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::HANG;

pub(crate) const HELLO: u8 = 1;
pub(crate) const REJECT: u8 = 2;
pub(crate) const CALL: u8 = 3;
pub(crate) const REPLY: u8 = 4;
pub(crate) const FAULT: u8 = 5;
pub(crate) const CHUNK: u8 = 6;
pub(crate) const PING: u8 = 8;
pub(crate) const PONG: u8 = 9;

/// The end of every head of this version: an empty list of extensions.
pub(crate) const NO_EXTENSIONS: &[u8] = &[0];

/// A list of one extension, number 99, which no node knows.
pub(crate) const AN_EXTENSION: &[u8] = b"\x01\x63\x05later";

/// A frame: its length, its kind, and the rest.
pub(crate) fn frame(kind: u8, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() as u32 + 1).to_be_bytes();
    [&length[..], &[kind], rest].concat()
}

/// A number as heads encode it (LEB128).
pub(crate) fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A text as heads encode it: its length, then its bytes.
pub(crate) fn text(text: &str) -> Vec<u8> {
    [&varint(text.len() as u64)[..], text.as_bytes()].concat()
}

/// The first frame that a node sends on a connection.
#[derive(Clone)]
pub(crate) struct Hello {
    pub(crate) versions: (u16, u16),
    pub(crate) node_id: &'static str,
    pub(crate) generation: u64,
    pub(crate) to_generation: Option<u64>,
    pub(crate) features: &'static [&'static str],
    pub(crate) extensions: &'static [u8],
}

impl Hello {
    /// A hello of this version.
    pub(crate) fn of(node_id: &'static str, generation: u64) -> Self {
        let (versions, extensions) = ((2, 2), NO_EXTENSIONS);
        Self {
            versions,
            node_id,
            generation,
            to_generation: None,
            features: &[],
            extensions,
        }
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let (lowest, highest) = self.versions;
        let to_generation = self
            .to_generation
            .map_or(vec![0], |to| [vec![1], varint(to)].concat());
        let features = self.features.iter().flat_map(|feature| text(feature));
        let head = [
            b"meshage\n".to_vec(),
            varint(lowest.into()),
            varint(highest.into()),
            text("meshage"),
            text(self.node_id),
            varint(self.generation),
            to_generation,
            varint(self.features.len() as u64),
            features.collect(),
            self.extensions.to_vec(),
        ];
        frame(HELLO, &head.concat())
    }
}

/// A call without headers. `body` may be shorter than the `body_bytes` that the head announces.
pub(crate) struct Call<'a> {
    pub(crate) id: u32,
    pub(crate) remaining: Duration,
    pub(crate) stream: &'a str,
    pub(crate) method: &'a str,
    pub(crate) query: &'a str,
    pub(crate) body_bytes: u64,
    pub(crate) body: &'a [u8],
    pub(crate) extensions: &'a [u8],
}

impl<'a> Call<'a> {
    pub(crate) fn of(id: u32, method: &'a str, stream: &'a str) -> Self {
        let (remaining, extensions) = (Duration::from_secs(10), NO_EXTENSIONS);
        Self {
            id,
            remaining,
            stream,
            method,
            query: "",
            body_bytes: 0,
            body: b"",
            extensions,
        }
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let rest = [
            self.id.to_be_bytes().to_vec(),
            vec![7; 16],
            vec![1],
            varint(self.remaining.as_micros() as u64),
            text(self.stream),
            text("1"),
            text(self.method),
            text(self.query),
            varint(0),
            varint(self.body_bytes),
            self.extensions.to_vec(),
            self.body.to_vec(),
        ];
        frame(CALL, &rest.concat())
    }
}

/// The next frame: its kind, and the rest. `None` at the end of the connection.
pub(crate) async fn next_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let reading = async {
        let length = stream.read_u32().await.ok()?;
        let mut frame = vec![0; length as usize];
        stream.read_exact(&mut frame).await.ok()?;
        let rest = frame.split_off(1);
        Some((frame[0], rest))
    };
    timeout(HANG, reading)
        .await
        .expect("no frame comes, nor an end")
}

/// Connects to a node's cluster port, sends a hello, and returns the first frame that comes back.
pub(crate) async fn say_hello(cluster: &str, hello: &Hello) -> (TcpStream, (u8, Vec<u8>)) {
    let mut stream = TcpStream::connect(cluster).await.unwrap();
    stream.write_all(&hello.frame()).await.unwrap();
    let answer = next_frame(&mut stream).await.expect("no answer to a hello");
    (stream, answer)
}
