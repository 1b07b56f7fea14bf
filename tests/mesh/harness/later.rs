//! A mesh in which some nodes speak a later version of the peer protocol. No such program exists
//! yet, so a proxy between the nodes rewrites the frames of upgraded nodes into what a later
//! version might send. Gossip passes through the proxy unchanged.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::frames::{AN_EXTENSION, CALL, HELLO, REPLY, frame, text, varint};
use super::{Plugins, Setup, port_known_beforehand};

/// Kind of a frame that only later versions know.
const LATER_KIND: u8 = 200;

const DATAGRAM_BYTES_MAX: usize = 65_507;

/// The proxy between the nodes, which count from 1. Each node binds one loopback address and
/// advertises another, on which the proxy listens.
pub(crate) struct LaterVersions {
    port: u16,
    nodes: u8,
    later: Arc<Later>,
}

#[derive(Default)]
struct Later {
    nodes: Mutex<BTreeSet<String>>,
    /// Numbers of rewritten calls and of rewritten replies.
    rewritten: [AtomicUsize; 2],
}

fn bound(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 77, 0, number).into()
}

fn advertised(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 77, 1, number).into()
}

fn node_id(number: u8) -> String {
    format!("n{number}")
}

impl LaterVersions {
    /// A proxy between this many nodes, none of them upgraded yet.
    pub(crate) async fn between(nodes: u8) -> Self {
        let (port, later) = (port_known_beforehand(), Arc::<Later>::default());
        let mut sockets = Vec::new();
        for number in 1..=nodes {
            sockets.push(Arc::new(
                UdpSocket::bind((advertised(number), port)).await.unwrap(),
            ));
        }
        for number in 1..=nodes {
            tokio::spawn(carry_gossip(number, port, sockets.clone()));
            let listener = TcpListener::bind((advertised(number), port)).await.unwrap();
            tokio::spawn(carry_connections(listener, number, later.clone()));
        }
        Self { port, nodes, later }
    }

    /// Setup of a node that the others reach through the proxy.
    pub(crate) fn setup(&self, number: u8) -> Setup {
        let seeds: Vec<String> = (1..=self.nodes)
            .map(|number| format!("{}:{}", advertised(number), self.port))
            .collect();
        let setup = Setup::new(Plugins::usual())
            .own_ports()
            .id(&node_id(number))
            .flag("--seeds", &seeds.join(","));
        let setup = setup
            .flag("--bind", &bound(number).to_string())
            .flag("--advertise", &advertised(number).to_string());
        setup
            .flag("--http-port", "0")
            .flag("--admin-port", "0")
            .flag("--cluster-port", &self.port.to_string())
    }

    /// From its next start on the node counts as one of a later version. Call it while the node is
    /// down: open connections stay as they are.
    pub(crate) fn upgrade(&self, number: u8) {
        self.later.nodes.lock().unwrap().insert(node_id(number));
    }
}

impl LaterVersions {
    /// Numbers of rewritten calls and of rewritten replies so far.
    pub(crate) fn rewritten(&self) -> [usize; 2] {
        self.later
            .rewritten
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed))
    }
}

/// Forwards gossip to one node, from the advertised address of its sender, so that the answers come
/// back through the proxy.
async fn carry_gossip(number: u8, port: u16, sockets: Vec<Arc<UdpSocket>>) {
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    let socket = sockets[usize::from(number) - 1].clone();
    while let Ok((bytes, from)) = socket.recv_from(&mut datagram).await {
        let sender = (1..)
            .zip(&sockets)
            .find(|(number, _)| bound(*number) == from.ip());
        if let Some((_, sender)) = sender {
            // A node that is down misses the datagram.
            let _ = sender
                .send_to(&datagram[..bytes], (bound(number), port))
                .await;
        }
    }
}

async fn carry_connections(listener: TcpListener, number: u8, later: Arc<Later>) {
    let port = listener.local_addr().unwrap().port();
    while let Ok((caller, _)) = listener.accept().await {
        let (callee, later) = (SocketAddr::new(bound(number), port), later.clone());
        tokio::spawn(async move {
            // Drops the caller's connection, which tells it that the node is down.
            let Ok(callee) = TcpStream::connect(callee).await else {
                return;
            };
            let ((from_caller, to_caller), (from_callee, to_callee)) =
                (caller.into_split(), callee.into_split());
            tokio::join!(
                carry(from_caller, to_callee, &later),
                carry(from_callee, to_caller, &later)
            );
        });
    }
}

/// Forwards frames in one direction until either side closes.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, later: &Later) {
    let mut is_later = false;
    while let Ok(length) = from.read_u32().await {
        let mut rest = vec![0; length as usize];
        if from.read_exact(&mut rest).await.is_err() {
            return;
        }
        let kind = rest.remove(0);
        if kind == HELLO {
            is_later = later
                .nodes
                .lock()
                .unwrap()
                .contains(&Head(&rest).hello_node_id());
        }
        let frames = if is_later {
            for (count, rewritten) in later.rewritten.iter().zip([CALL, REPLY]) {
                count.fetch_add(usize::from(kind == rewritten), Ordering::Relaxed);
            }
            [
                frame(kind, &as_later(kind, &rest)),
                frame(LATER_KIND, b"whatever it is"),
            ]
            .concat()
        } else {
            frame(kind, &rest)
        };
        if to.write_all(&frames).await.is_err() {
            return;
        }
    }
}

/// Rewrites what follows the kind of a frame into what a later version might send.
fn as_later(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut head = Head(rest);
    match kind {
        HELLO => {
            let beginning = head.taken(|head| head.skip(b"meshage\n".len()));
            let (lowest, _) = (head.number(), head.number());
            let middle = head.taken(|head| {
                head.text();
                head.text();
                head.number();
                if head.number() == 1 {
                    head.number();
                }
            });
            let versions = [varint(lowest), varint(9)].concat();
            [
                beginning,
                &versions,
                middle,
                &varint(1),
                &text("a-later-feature"),
                AN_EXTENSION,
                b"and more",
            ]
            .concat()
        }
        CALL | REPLY => {
            let before = head.taken(|head| {
                head.skip(4);
                if kind == CALL {
                    head.skip(17);
                    head.number();
                    for _ in ["stream", "key", "method", "query"] {
                        head.text();
                    }
                } else {
                    head.number();
                }
                for _ in 0..head.number() {
                    head.text();
                    head.text();
                }
                head.number();
            });
            assert_eq!(head.number(), 0, "there are extensions already");
            [before, AN_EXTENSION, head.0].concat()
        }
        _ => rest.to_vec(),
    }
}

/// The unread part of a head.
struct Head<'a>(&'a [u8]);

impl<'a> Head<'a> {
    fn skip(&mut self, bytes: usize) -> &'a [u8] {
        let (skipped, rest) = self.0.split_at(bytes);
        self.0 = rest;
        skipped
    }

    fn number(&mut self) -> u64 {
        let last = self.0.iter().position(|byte| byte & 0x80 == 0).unwrap();
        self.skip(last + 1)
            .iter()
            .rev()
            .fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f))
    }

    /// Also reads bytes: both have a length prefix.
    fn text(&mut self) -> &'a [u8] {
        let bytes = self.number();
        self.skip(usize::try_from(bytes).unwrap())
    }

    /// The bytes that `read` consumes.
    fn taken<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> &'a [u8] {
        let before = self.0;
        read(self);
        &before[..before.len() - self.0.len()]
    }

    fn hello_node_id(&mut self) -> String {
        self.skip(b"meshage\n".len());
        self.number();
        self.number();
        self.text();
        String::from_utf8(self.text().to_vec()).unwrap()
    }
}
