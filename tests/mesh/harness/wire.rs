//! A network that fails as a test says. Each node lives in a network namespace of its own with one
//! device (TUN), and what the nodes send each other goes from device to device through this
//! process, which may lose and delay it.

use std::fs::File;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};
use tun_rs::{AsyncDevice, DeviceBuilder};

const PACKET_BYTES_MAX: usize = 1_500;

/// Where IPv4 packets have these (RFC 791, section 3.1).
const PROTOCOL: usize = 9;
const DESTINATION_END: usize = 19;

const TCP: u8 = 6;

/// Nodes and the wire between them. Nodes count from 1; 0 is the test itself, for which all ways
/// stay open.
pub(crate) struct Wire {
    places: Vec<Arc<Place>>,
    paths: Paths,
    /// Carries the packets, whatever the test is doing. Always there until the end.
    carrier: Option<Runtime>,
}

/// A network namespace. It lasts as long as the value or a process in it.
pub(crate) struct Place {
    pub(crate) addr: Ipv4Addr,
    namespace: File,
}

/// What happens to packets from one node to another.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Path {
    #[default]
    Open,
    Cut,
    /// TCP's packets are lost, those of others are not.
    CutForTcp,
    Bad {
        percent_lost: u8,
        delay: Duration,
    },
}

/// By sender and receiver.
type Paths = Arc<Mutex<Vec<Vec<Path>>>>;

type Queue = UnboundedSender<(Instant, Vec<u8>)>;

impl Wire {
    /// Lays a wire between so many nodes and this test, whose thread lives in a namespace of its
    /// own from now on: all it connects to must be on the wire.
    pub(crate) fn lay(nodes: usize) -> Self {
        let carrier = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let paths: Paths = Arc::new(Mutex::new(vec![vec![Path::Open; nodes + 1]; nodes + 1]));
        let addr = |number: usize| Ipv4Addr::new(10, 9, 1, number as u8);
        let handle = carrier.handle().clone();
        let _entered = handle.enter();
        let mut devices = vec![new_device(addr(0))];
        let mut places = Vec::new();
        for number in 1..=nodes {
            let (device, namespace) = thread::scope(|scope| {
                let made = scope.spawn(|| {
                    let _entered = handle.enter();
                    (
                        new_device(addr(number)),
                        File::open("/proc/thread-self/ns/net").unwrap(),
                    )
                });
                made.join().unwrap()
            });
            devices.push(device);
            places.push(Arc::new(Place {
                addr: addr(number),
                namespace,
            }));
        }
        for (from, device) in devices.iter().enumerate() {
            let queues = devices
                .iter()
                .map(|device| start_queue(device.clone()))
                .collect();
            carrier.spawn(carry(from, device.clone(), queues, paths.clone()));
        }
        Self {
            places,
            paths,
            carrier: Some(carrier),
        }
    }

    /// Where a node lives.
    pub(crate) fn place(&self, number: usize) -> Arc<Place> {
        self.places[number - 1].clone()
    }

    /// Changes the way from one node to another, but not the way back.
    pub(crate) fn one_way(&self, from: usize, to: usize, path: Path) {
        self.paths.lock().unwrap()[from][to] = path;
    }

    /// Changes the ways between each of these and each of those, both there and back.
    pub(crate) fn between(&self, some: &[usize], others: &[usize], path: Path) {
        for (one, other) in some
            .iter()
            .flat_map(|one| others.iter().map(move |other| (*one, *other)))
        {
            self.one_way(one, other, path);
            self.one_way(other, one, path);
        }
    }

    /// Opens all ways.
    pub(crate) fn heal(&self) {
        self.paths
            .lock()
            .unwrap()
            .iter_mut()
            .flatten()
            .for_each(|path| *path = Path::Open);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(carrier) = self.carrier.take() {
            carrier.shutdown_background();
        }
    }
}

impl Place {
    /// Does something there, such as starting a process.
    pub(crate) fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let runtime = tokio::runtime::Handle::current();
        let inside = || {
            setns(&self.namespace, CloneFlags::CLONE_NEWNET).unwrap();
            let _entered = runtime.enter();
            act()
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }
}

/// Moves this thread to a new network namespace that has one device with this address, which all
/// others of the wire are beyond.
fn new_device(addr: Ipv4Addr) -> Arc<AsyncDevice> {
    let needs = "networks that fail need Linux, with root or as root of a user namespace (`unshare --user --map-root-user`), \
                 and /dev/net/tun";
    unshare(CloneFlags::CLONE_NEWNET)
        .unwrap_or_else(|error| panic!("no network namespace: {error}; {needs}"));
    let device = DeviceBuilder::new()
        .ipv4(addr, 16, None)
        .mtu(PACKET_BYTES_MAX as u16)
        .build_async();
    Arc::new(device.unwrap_or_else(|error| panic!("no TUN device: {error}; {needs}")))
}

/// Reads what a node sends, and queues it for those that it is to, or loses it.
async fn carry(from: usize, device: Arc<AsyncDevice>, queues: Vec<Queue>, paths: Paths) {
    let mut buffer = [0; PACKET_BYTES_MAX];
    // It ends with its device.
    while let Ok(bytes) = device.recv(&mut buffer).await {
        let packet = &buffer[..bytes];
        let is_ipv4 = packet.first().is_some_and(|first| first >> 4 == 4);
        let Some(to) = packet.get(DESTINATION_END).map(|to| usize::from(*to)) else {
            continue;
        };
        let Some(queue) = queues.get(to).filter(|_| is_ipv4) else {
            continue;
        };
        let path = paths.lock().unwrap()[from][to];
        let (is_lost, delay) = match path {
            Path::Open => (false, Duration::ZERO),
            Path::Cut => (true, Duration::ZERO),
            Path::CutForTcp => (packet[PROTOCOL] == TCP, Duration::ZERO),
            Path::Bad {
                percent_lost,
                delay,
            } => (fastrand::u8(..100) < percent_lost, delay),
        };
        if !is_lost {
            // The receiver has ended: so has the wire.
            let _ = queue.send((Instant::now() + delay, packet.to_owned()));
        }
    }
}

fn start_queue(device: Arc<AsyncDevice>) -> Queue {
    let (queue, packets) = unbounded_channel();
    tokio::spawn(deliver(device, packets));
    queue
}

/// Delivers packets in the order in which they were sent, each when it is due.
async fn deliver(device: Arc<AsyncDevice>, mut packets: UnboundedReceiver<(Instant, Vec<u8>)>) {
    while let Some((due, packet)) = packets.recv().await {
        sleep_until(due).await;
        // The network loses what a device does not take.
        let _ = device.send(&packet).await;
    }
}
