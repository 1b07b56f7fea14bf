//! The peers of a node, and the links to each: on up to four lanes while the mesh is small, and
//! kept connected for as long as the peer is in the view. A message uses the links in their known
//! state; it is never spent on probing whether a peer is alive.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use futures_util::FutureExt;
use metrics::counter;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout_at};
use tracing::{error, info, warn};

use super::breaker::{Breaker, BreakerState, LinkEvent};
use super::connection::{Called, Connection, Request};
use super::handshake::{ConnectError, Incarnation};
use super::liveness::Health;
use super::outbox::Closed;
use super::siblings::Siblings;
use super::socket::{SocketError, TlsNow};
use super::wire::Hello;
use crate::bodies::BodyMemory;
use crate::lanes::{self, Lanes};
use crate::message::{Fault, NodeId, Refusal};
use crate::telemetry::names;

/// How long a message waits for a connection to be made, or for a suspect one to answer its ping.
/// On one network that takes a millisecond; beyond this limit the next in rank answers sooner.
const CONNECT_WAIT_MAX: Duration = Duration::from_millis(300);

/// Connections that a call tries, as one may close just before the call is sent.
const CONNECTIONS_TRIED_MAX: usize = 2;

/// Links to one peer at most.
const LINKS_MAX: usize = 4;

/// Links to all peers together. With more peers than this, each still has one.
const LINKS_USUAL: usize = 256;

/// Every other node of the view.
pub struct Peers {
    own: Arc<Hello>,
    tls: TlsNow,
    bodies: &'static BodyMemory,
    lanes: Lanes,
    peers: Mutex<HashMap<NodeId, Arc<Peer>>>,
    /// The lane of the next peer's first link.
    next_lane: AtomicUsize,
    departures: Arc<Notify>,
}

/// One run of another node: after a restart it is a new peer.
pub struct Peer {
    life: Incarnation,
    /// At least one. A message uses the link of the lane that it is sent from, or, if that lane has
    /// none, shares the link of another.
    links: Box<[SupervisedLink]>,
    spread: Spread,
    siblings: Arc<Siblings>,
}

/// The lanes that have a link to one peer: consecutive ones, starting after those of the previous
/// peer, so that links are spread evenly.
#[derive(Debug, Clone, Copy)]
struct Spread {
    first: usize,
    links: usize,
    lanes: usize,
}

impl Spread {
    fn lane_of(self, link: usize) -> usize {
        (self.first + link) % self.lanes
    }

    /// The link that a lane uses: its own, or one that it shares with other lanes.
    fn link_of(self, lane: usize) -> usize {
        (lane % self.lanes + self.lanes - self.first) % self.lanes % self.links
    }
}

struct SupervisedLink {
    link: Arc<Link>,
    task: AbortHandle,
}

/// One link to a peer: its connection, if it has one, and the state that its reconnector published
/// last.
struct Link {
    node_id: NodeId,
    connection: ArcSwapOption<Connection>,
    state: watch::Sender<LinkState>,
    siblings: Arc<Siblings>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkState {
    Breaker(BreakerState),
    /// The peer has sent `leaving`, or the link was dropped. Final: after a restart the node is a
    /// new peer.
    Left,
}

impl Peers {
    /// `bodies` is the memory account of the node, in which replies are reserved.
    pub fn new(own: Hello, tls: TlsNow, bodies: &'static BodyMemory, lanes: Lanes) -> Self {
        let next_lane = AtomicUsize::new(0);
        Self {
            own: Arc::new(own),
            tls,
            bodies,
            lanes,
            peers: Mutex::default(),
            next_lane,
            departures: Arc::default(),
        }
    }

    /// Replaces the peers by the other nodes of a new view, each as (id, generation, address), and
    /// returns them. Peers that stay keep their links. The links to nodes that are gone or have
    /// restarted are closed once the calls on them have ended.
    pub fn update(
        &self,
        nodes: impl IntoIterator<Item = (NodeId, u64, SocketAddr)>,
    ) -> HashMap<NodeId, Arc<Peer>> {
        let mut peers = self.lock();
        let nodes: Vec<_> = nodes.into_iter().collect();
        let links_max = LINKS_MAX.min(LINKS_USUAL / nodes.len().max(1)).max(1);
        *peers = nodes
            .into_iter()
            .map(|(node_id, generation, addr)| {
                let life = Incarnation {
                    node_id: node_id.clone(),
                    generation,
                    addr,
                };
                let peer = match peers.get(&node_id) {
                    Some(peer) if peer.life == life => peer.clone(),
                    _ => Arc::new(self.meet(life, links_max)),
                };
                (node_id, peer)
            })
            .collect();
        peers.clone()
    }

    /// Makes a peer, and starts a reconnector for each of its links.
    fn meet(&self, life: Incarnation, links_max: usize) -> Peer {
        let lanes = self.lanes.all();
        let links = links_max.min(lanes.len());
        let first = self.next_lane.fetch_add(links, Ordering::Relaxed) % lanes.len();
        let spread = Spread {
            first,
            links,
            lanes: lanes.len(),
        };
        let siblings: Arc<Siblings> = Arc::default();
        let links = (0..links).map(|link| {
            let lane = &lanes[spread.lane_of(link)];
            let breaker = Breaker::new();
            let state = watch::Sender::new(LinkState::Breaker(breaker.state()));
            let (node_id, siblings) = (life.node_id.clone(), siblings.clone());
            let link = Arc::new(Link {
                node_id,
                connection: ArcSwapOption::empty(),
                state,
                siblings,
            });
            let (own, tls, departures) =
                (self.own.clone(), self.tls.clone(), self.departures.clone());
            let (life, link_kept) = (life.clone(), link.clone());
            let reconnector = Reconnector {
                own,
                tls,
                bodies: self.bodies,
                life,
                link: link_kept,
                breaker,
                departures,
            };
            SupervisedLink {
                link,
                task: lane.spawn(reconnector.run_supervised()).abort_handle(),
            }
        });
        let links = links.collect();
        Peer {
            life,
            links,
            spread,
            siblings,
        }
    }

    /// Resolves when a peer has sent `leaving`, which it does before gossip shows it.
    pub async fn departure(&self) {
        self.departures.notified().await;
    }

    /// All peers, by id.
    pub fn get(&self, node_id: &NodeId) -> Option<Arc<Peer>> {
        self.lock().get(node_id).cloned()
    }

    pub fn all(&self) -> HashMap<NodeId, Arc<Peer>> {
        self.lock().clone()
    }

    /// The circuit breaker state of each peer that has not said goodbye.
    pub fn breakers(&self) -> BTreeMap<NodeId, BreakerState> {
        self.lock()
            .iter()
            .filter(|(_, peer)| !peer.has_left())
            .map(|(node_id, peer)| (node_id.clone(), peer.breaker()))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    /// Runs a message on the peer, or asks it a question. Dropping the future cancels the call
    /// there. Memory for a reply of `reply_bytes_expected` bytes is reserved before anything is
    /// sent.
    pub async fn call(
        &self,
        request: Request<'_>,
        deadline: Instant,
        reply_bytes_expected: usize,
    ) -> Called {
        let mut give_up = None;
        for _ in 0..CONNECTIONS_TRIED_MAX {
            let (link, connection) = match self.connection(deadline, &mut give_up).await {
                Ok(found) => found,
                Err(fault) => return fault.into(),
            };
            match connection
                .call(request, deadline, reply_bytes_expected)
                .await
            {
                Ok(called) => return called,
                Err(Closed) => link.forget(&connection),
            }
        }
        Fault::Unreachable.into()
    }

    /// A connection that answers. If there is none, but may be one in a moment, waits for it until
    /// `give_up`: one time limit for all attempts of a message.
    async fn connection(
        &self,
        deadline: Instant,
        give_up: &mut Option<Instant>,
    ) -> Result<(&Link, Arc<Connection>), Fault> {
        loop {
            // Created before `look`, so that no change is missed in between.
            let changed = self.siblings.changed();
            if let Some(found) = self.look()? {
                return Ok(found);
            }
            let give_up = *give_up.get_or_insert_with(|| Instant::now() + CONNECT_WAIT_MAX);
            if timeout_at(deadline.min(give_up).into(), changed)
                .await
                .is_err()
            {
                let is_late = deadline <= give_up;
                return Err(if is_late {
                    Fault::Refused(Refusal::WaitedTooLong)
                } else {
                    Fault::Unreachable
                });
            }
        }
    }

    /// The connection of this lane, or else of another, as any thread can use each of them. `None`
    /// if none answers now, but one may in a moment.
    fn look(&self) -> Result<Option<(&Link, Arc<Connection>)>, Fault> {
        let (others, own) = self.links.split_at(self.spread.link_of(lanes::number()));
        let (mut is_leaving, mut is_silent, mut may_come) = (false, false, false);
        for SupervisedLink { link, .. } in own.iter().chain(others) {
            let connection = link.connection.load_full();
            match (
                connection.as_ref().map(|connection| connection.health()),
                connection,
            ) {
                (Some(Health::Answering), Some(connection)) => return Ok(Some((link, connection))),
                (Some(Health::Suspect), _) => may_come = true,
                (Some(Health::Silent), _) => is_silent = true,
                (Some(Health::Leaving), _) => is_leaving = true,
                (Some(Health::Ended | Health::Answering) | None, _) => match *link.state.borrow() {
                    LinkState::Left => is_leaving = true,
                    LinkState::Breaker(BreakerState::Open) => {}
                    // If it is `Closed`, the reconnector has not noticed yet that the connection
                    // has ended.
                    LinkState::Breaker(BreakerState::HalfOpen | BreakerState::Closed) => {
                        may_come = true
                    }
                },
            }
        }
        match (is_leaving, is_silent, may_come) {
            (true, ..) => Err(Fault::Refused(Refusal::Leaving)),
            (false, false, true) => Ok(None),
            // No link will be usable soon; or one is silent, which means that the peer hangs, so
            // waiting for the others is pointless.
            _ => Err(Fault::Unreachable),
        }
    }

    /// Whether the peer has sent `leaving`: it accepts no new messages.
    pub fn has_left(&self) -> bool {
        self.links.iter().any(|kept| kept.link.has_left())
    }

    /// The state of its worst link.
    fn breaker(&self) -> BreakerState {
        let state = |kept: &SupervisedLink| match *kept.link.state.borrow() {
            LinkState::Breaker(state) => state,
            LinkState::Left => BreakerState::Open,
        };
        self.links
            .iter()
            .map(state)
            .max()
            .unwrap_or(BreakerState::Open)
    }
}

impl Drop for SupervisedLink {
    fn drop(&mut self) {
        self.task.abort();
        // First the state, then the connection: a reconnector that stores a connection concurrently
        // sees the state afterwards, and closes the connection itself.
        self.link.show(LinkState::Left);
        if let Some(connection) = self.link.connection.load_full() {
            connection.close();
        }
    }
}

impl Link {
    /// Stops using a closed connection, unless another has replaced it. Does not change the state:
    /// that is left to the reconnector.
    fn forget(&self, closed: &Arc<Connection>) {
        self.connection.rcu(|current| match current {
            Some(current) if Arc::ptr_eq(current, closed) => None,
            other => other.clone(),
        });
    }

    /// Publishes a state. `Left` is final.
    fn show(&self, state: LinkState) {
        self.state.send_if_modified(|shown| {
            *shown != LinkState::Left && std::mem::replace(shown, state) != state
        });
        self.siblings.notify_changed();
    }

    fn has_left(&self) -> bool {
        *self.state.borrow() == LinkState::Left
    }
}

/// Maintains one link: connects, watches the connection and reconnects, for as long as the peer is
/// in the view.
struct Reconnector {
    own: Arc<Hello>,
    tls: TlsNow,
    bodies: &'static BodyMemory,
    life: Incarnation,
    link: Arc<Link>,
    breaker: Breaker,
    departures: Arc<Notify>,
}

/// How a connection ended.
#[derive(PartialEq, Eq)]
enum Parting {
    /// The peer is leaving: it accepts no new messages, and answers those that it has.
    Goodbye,
    Lost,
}

impl Reconnector {
    /// Runs [`Reconnector::run`], again after a panic: without a reconnector, the link would never
    /// reconnect.
    async fn run_supervised(mut self) {
        while AssertUnwindSafe(self.run()).catch_unwind().await.is_err() {
            error!(event = "peer-keeper-crashed", peer = %self.link.node_id, "what keeps the link to a peer crashed, which is a bug; it begins anew");
            self.note(LinkEvent::AttemptFailed, "its reconnector crashed");
        }
    }

    async fn run(&mut self) {
        loop {
            sleep(self.breaker.backoff()).await;
            match Connection::open(
                &self.life,
                &self.tls,
                &self.own,
                self.bodies,
                &self.link.siblings,
            )
            .await
            {
                Ok(connection) => {
                    if self.watch(&connection).await == Parting::Goodbye {
                        info!(event = "peer-leaves", peer = %self.link.node_id, "peer leaves");
                        self.link.show(LinkState::Left);
                        self.departures.notify_one();
                        return;
                    }
                }
                Err(error) => self.failed(&error),
            }
        }
    }

    /// Makes the connection available to messages until it ends.
    async fn watch(&mut self, connection: &Arc<Connection>) -> Parting {
        let since = Instant::now();
        self.link.connection.store(Some(connection.clone()));
        if self.link.has_left() {
            connection.close();
            return Parting::Goodbye;
        }
        self.note(LinkEvent::Connected, "connected");
        let mut health = connection.watch_health();
        loop {
            // Read before waiting for a change: a `leaving` may have come right after the hello.
            let now = *health.borrow_and_update();
            match now {
                Health::Answering => self.note(LinkEvent::Heard, "it answers again"),
                // Short-lived: the connection answers its ping, or ends.
                Health::Suspect => {}
                Health::Silent => self.note(LinkEvent::Silent, "it left pings unanswered"),
                Health::Leaving => {
                    self.link.forget(connection);
                    return Parting::Goodbye;
                }
                Health::Ended => {
                    self.link.forget(connection);
                    self.note(LinkEvent::Lost(since.elapsed()), "its connection was lost");
                    return Parting::Lost;
                }
            }
            // Cannot fail: the connection holds the sender, and this function holds the connection.
            let _ = health.changed().await;
        }
    }

    fn failed(&mut self, error: &ConnectError) {
        if self.breaker.backoff().is_zero() {
            let cause = match error {
                ConnectError::Socket(SocketError::Io(cause)) => Some(cause.to_string()),
                _ => None,
            };
            warn!(event = "peer-unreachable", peer = %self.link.node_id, addr = %self.life.addr, %error, cause, "no connection to a peer; trying again and again");
        }
        self.note(LinkEvent::AttemptFailed, "it cannot be connected to");
    }

    /// Passes an event to the breaker and publishes its state. Changes are logged and counted.
    fn note(&mut self, event: LinkEvent, because: &'static str) {
        let before = self.breaker.state();
        self.breaker.note(event);
        let state = self.breaker.state();
        self.link.show(LinkState::Breaker(state));
        if state != before {
            let peer = &self.link.node_id;
            info!(event = "breaker-changed", %peer, ?state, because, "breaker changed");
            let name = match state {
                BreakerState::Closed => "closed",
                BreakerState::HalfOpen => "half-open",
                BreakerState::Open => "open",
            };
            counter!(names::BREAKER_CHANGES, "state" => name).increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use futures_util::StreamExt;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

    use super::super::wire::{self, Frame};
    use super::*;
    use crate::bodies::Reservation;
    use crate::message::Reply;

    fn hello(node_id: &str) -> Hello {
        Hello::new("c", NodeId::try_from(node_id).unwrap(), 1)
    }

    /// The peer's end of a connection, written by hand: the handshake is done.
    async fn greeted(stream: TcpStream) -> FramedRead<TcpStream, LengthDelimitedCodec> {
        let mut frames = FramedRead::new(stream, wire::framing());
        frames.next().await.unwrap().unwrap();
        let mut greeting = BytesMut::new();
        wire::put_hello(&mut greeting, &hello("n2"));
        frames.get_mut().write_all(&greeting).await.unwrap();
        frames
    }

    /// Answers pings, and calls with an empty reply.
    async fn answer(mut frames: FramedRead<TcpStream, LengthDelimitedCodec>) {
        let (headers, body, reservation) = (
            http::HeaderMap::new(),
            bytes::Bytes::new(),
            Reservation::default(),
        );
        let reply = Reply {
            is_replayed: false,
            status: http::StatusCode::OK,
            headers,
            body,
            reservation,
        };
        while let Some(Ok(frame)) = frames.next().await {
            let mut answer = BytesMut::new();
            match wire::decode(frame.freeze()).unwrap() {
                Frame::Ping => wire::put_pong(&mut answer),
                Frame::Call { id, .. } => drop(wire::put_reply(&mut answer, id, &reply, None)),
                other => panic!("unexpected: {other:?}"),
            }
            if frames.get_mut().write_all(&answer).await.is_err() {
                return;
            }
        }
    }

    #[tokio::test]
    async fn when_one_connection_is_lost_the_others_answer_a_ping_before_they_get_messages() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peers = Peers::new(
            hello("n1"),
            None,
            BodyMemory::new(1 << 20),
            Lanes::start().unwrap(),
        );
        let n2 = hello("n2").node_id;
        let peer = peers
            .update([(n2.clone(), 1, listener.local_addr().unwrap())])
            .remove(&n2)
            .unwrap();
        let mut connections = Vec::new();
        for _ in &peer.links {
            connections.push(greeted(listener.accept().await.unwrap().0).await);
        }
        for kept in &peer.links {
            let mut state = kept.link.state.subscribe();
            state
                .wait_for(|state| *state == LinkState::Breaker(BreakerState::Closed))
                .await
                .unwrap();
        }
        // On a machine with one core this was the only one.
        drop(connections.remove(0));
        for connection in peer
            .links
            .iter()
            .filter_map(|kept| kept.link.connection.load_full())
        {
            // `Silent` would come only after a second or more without a pong.
            let health = *connection
                .watch_health()
                .wait_for(|health| *health != Health::Answering)
                .await
                .unwrap();
            assert!(
                matches!(health, Health::Suspect | Health::Ended),
                "{health:?}"
            );
        }
        let message = wire::tests::message(1);
        let called = peer
            .call(
                Request::Run(&message),
                Instant::now() + Duration::from_millis(50),
                0,
            )
            .await;
        let is_refused = matches!(
            called.outcome,
            Err(Fault::Refused(Refusal::WaitedTooLong) | Fault::Unreachable)
        );
        assert!(is_refused && !called.was_sent, "{called:?}");
        connections
            .into_iter()
            .for_each(|frames| drop(tokio::spawn(answer(frames))));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async { answer(greeted(stream).await).await });
            }
        });
        let outcome = async {
            loop {
                // If this machine stalls for long, the connections become silent first: then the
                // call is repeated.
                match peer
                    .call(
                        Request::Run(&message),
                        Instant::now() + Duration::from_secs(30),
                        0,
                    )
                    .await
                    .outcome
                {
                    Ok(reply) => return reply.status,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        assert_eq!(outcome.await, http::StatusCode::OK);
    }

    #[track_caller]
    fn check_spread(peers: usize, links: usize, lanes: usize) {
        let mut links_of = vec![0; lanes];
        for peer in 0..peers {
            let spread = Spread {
                first: peer * links % lanes,
                links,
                lanes,
            };
            let on_lanes: Vec<usize> = (0..links).map(|link| spread.lane_of(link)).collect();
            for lane in 0..lanes {
                let link = spread.link_of(lane);
                if on_lanes.contains(&lane) {
                    assert_eq!(
                        on_lanes[link], lane,
                        "a lane with a link of its own uses another"
                    );
                }
            }
            on_lanes.iter().for_each(|lane| links_of[*lane] += 1);
        }
        let (fewest, most) = (
            links_of.iter().min().unwrap(),
            links_of.iter().max().unwrap(),
        );
        assert!(
            most - fewest <= 1,
            "{peers} peers, {links} links to each: {links_of:?}"
        );
    }

    #[test]
    fn links_are_spread_over_all_lanes() {
        check_spread(300, 1, 2);
        check_spread(100, 2, 2);
        check_spread(10, 4, 16);
        check_spread(7, 3, 8);
        check_spread(1, 1, 1);
    }
}
