//! Dispatch: decides where a message runs, and sends it there.

mod broadcast;
mod retry;
mod retry_budget;
mod routes;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use http::StatusCode;
use metrics::counter;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::calls::{Mesh, is_answer};
use crate::entities::{Deliver, Delivered};
use crate::lanes;
use crate::local::{Local, LocalService, Origin};
use crate::membership::{NodeState, View};
use crate::message::{
    Answer, Fault, LimitKind, Message, NodeId, Outcome, RELEASE_PART_BYTES, REPLY_BODY_BYTES_MAX,
    Refusal, ReleaseId, StreamName, StreamProperties,
};
use crate::peer::{BreakerState, Called, Peer, Peers, Question, Request};
use crate::placement;
use crate::plugins::Fetch;
use crate::telemetry::traces::{self, Span};
use crate::telemetry::{Route, Throttle, names};
use retry::{Next, after, cause, costs};
use retry_budget::RetryBudget;
use routes::{Candidate, Routes, StreamRoute, Target};

/// How many nodes may be lost while running one message. It is not retried on the whole mesh, as
/// the message may be what crashed them.
const LOST_MAX: usize = 2;

/// How long after its deadline a message may take effect on a stateful stream: a node that commits
/// by the deadline is late by no more than this, even if its clock differs a little.
const EFFECT_MARGIN: Duration = Duration::from_secs(5);

/// How long one delivery of what a handler has sent may take.
const DELIVERY_MAX: Duration = Duration::from_secs(30);

/// Peers that are asked for their report at once, and what one is expected to have.
const REPORTS_AT_ONCE: usize = 32;
const REPORT_BYTES_EXPECTED: usize = 64 << 10;

/// How long a peer may take for a part of a release.
const RELEASE_PART_MAX: Duration = Duration::from_secs(10);

impl Deliver for Dispatcher {
    fn deliver(
        &self,
        message: Arc<Message>,
    ) -> Pin<Box<dyn Future<Output = Delivered> + Send + '_>> {
        Box::pin(self.deliver(message))
    }
}

#[async_trait]
impl Fetch for Dispatcher {
    async fn part(
        &self,
        node: &NodeId,
        release: ReleaseId,
        from: u64,
    ) -> Result<Option<Bytes>, String> {
        let peer = self.peers.get(node);
        let peer = peer.ok_or_else(|| Fault::Unreachable.to_string())?;
        let question = Request::Ask(Question::Release { release, from });
        let deadline = Instant::now() + RELEASE_PART_MAX;
        let called = peer.call(question, deadline, RELEASE_PART_BYTES);
        let reply = called.await.outcome.map_err(|fault| fault.to_string())?;
        Ok((reply.status == StatusCode::OK).then_some(reply.body))
    }
}

impl Mesh for Dispatcher {
    fn send(
        &self,
        message: Arc<Message>,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Outcome> + Send + '_>> {
        Box::pin(async move { self.send(&message, deadline).await.outcome })
    }
}

/// Sends messages to their owners.
pub struct Dispatcher {
    self_id: NodeId,
    local: Arc<Local>,
    peers: Peers,
    /// The runtime for calls that are too long for a lane.
    runtime: Handle,
    routes: ArcSwap<Routes>,
    retries: RetryBudget,
    failovers: Throttle<(NodeId, &'static str)>,
    refused_sends: Throttle<StreamName>,
    /// Held while routes are computed, so that those of the newest view are stored last.
    following: Mutex<()>,
}

/// The result of offering a message to one node.
struct Tried {
    answer: Answer,
    /// Whether any of the message was sent over the network.
    was_sent: bool,
    /// Whether another node may run it although this one may have.
    may_be_repeated: bool,
}

impl Dispatcher {
    /// Must be called within the node's main runtime.
    pub fn new(self_id: NodeId, local: Arc<Local>, peers: Peers) -> Self {
        Self {
            self_id,
            local,
            peers,
            runtime: Handle::current(),
            routes: ArcSwap::default(),
            retries: RetryBudget::default(),
            failovers: Throttle::default(),
            refused_sends: Throttle::default(),
            following: Mutex::default(),
        }
    }

    /// Switches to routes of the current view. Messages in flight keep their routes.
    pub fn follow(&self, view: &watch::Receiver<Arc<View>>) {
        let _following = self
            .following
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let view = view.borrow().clone();
        let others = view
            .others()
            .map(|node| (node.node_id.clone(), node.generation, node.cluster_addr));
        let peers = self.peers.update(others);
        let routes = Routes::new(&view, &peers, &self.routes.load());
        self.routes.store(Arc::new(routes));
    }

    /// Resolves when a peer has announced its departure, so that the routes must be recomputed.
    pub async fn departure(&self) {
        self.peers.departure().await;
    }

    /// Whether the handler of a stream answers HTTP requests, whatever their path and method.
    pub fn takes_http(&self, stream: &StreamName) -> bool {
        let routes = self.routes.load();
        let route = routes.streams.get(stream);
        route.is_some_and(|route| route.properties.takes_http)
    }

    /// What each peer says of itself, if it does so in time.
    pub async fn reports(&self, wait_max: Duration) -> BTreeMap<NodeId, Result<Bytes, Fault>> {
        let deadline = Instant::now() + wait_max;
        let ask = |(node_id, peer): (NodeId, Arc<Peer>)| async move {
            let called = peer.call(
                Request::Ask(Question::Report),
                deadline,
                REPORT_BYTES_EXPECTED,
            );
            (node_id, called.await.outcome.map(|reply| reply.body))
        };
        let asked = futures_util::stream::iter(self.peers.all()).map(ask);
        asked.buffer_unordered(REPORTS_AT_ONCE).collect().await
    }

    /// The circuit breaker state of each peer that has not said goodbye.
    pub fn breakers(&self) -> BTreeMap<NodeId, BreakerState> {
        self.peers.breakers()
    }

    /// Runs a message on the owner of its key, or on the next in rank if the owner cannot be
    /// reached.
    pub async fn send(&self, message: &Arc<Message>, deadline: Instant) -> Answer {
        let route = match self.route(message) {
            Ok(route) => route,
            Err(fault) => return self.no_route(message, fault),
        };
        self.retries.earn();
        let began = Instant::now();
        let owner = route.owner(message);
        let tried = self.run_on(&route, owner, message, deadline).await;
        let answer = match after(&tried.answer.outcome, tried.may_be_repeated) {
            Next::Stop => given_up(&route, tried.answer),
            Next::TryNextInRank => {
                Box::pin(self.send_down_the_ranking(&route, message, deadline, tried, true)).await
            }
            Next::RouteAgain => Box::pin(self.send_again(message, deadline, tried)).await,
        };
        self.count(&route, &answer, began);
        answer
    }

    /// Counts a message once, however many nodes it was offered to.
    fn count(&self, route: &StreamRoute, answer: &Answer, began: Instant) {
        let way = if answer.node == self.self_id {
            Route::Local
        } else {
            Route::Forwarded
        };
        route.metrics.record(way, &answer.outcome, began.elapsed());
    }

    /// Several nodes took themselves for the owner: offers the message once more, to the owner by
    /// the newest view.
    async fn send_again(
        &self,
        message: &Arc<Message>,
        deadline: Instant,
        Tried {
            answer, was_sent, ..
        }: Tried,
    ) -> Answer {
        let Ok(route) = self.route(message) else {
            return answer;
        };
        if was_sent && !self.retries.spend() {
            return answer;
        }
        self.log_failover(message, &answer);
        let tried = self
            .run_on(&route, route.owner(message), message, deadline)
            .await;
        match after(&tried.answer.outcome, tried.may_be_repeated) {
            // The new owner may be gone as well.
            Next::TryNextInRank => {
                self.send_down_the_ranking(&route, message, deadline, tried, false)
                    .await
            }
            Next::Stop | Next::RouteAgain => given_up(&route, tried.answer),
        }
    }

    /// The owner did not run the message: offers it to the candidates that rank after it. The
    /// deadline applies to all attempts together. Views are compared once.
    async fn send_down_the_ranking(
        &self,
        route: &StreamRoute,
        message: &Arc<Message>,
        deadline: Instant,
        first: Tried,
        may_route_again: bool,
    ) -> Answer {
        let ranking = placement::ranking(
            &route.candidates,
            message.partition_key.as_str(),
            Candidate::seed,
        );
        let behind = ranking
            .into_iter()
            .skip(1)
            .map(|index| &route.candidates[index]);
        let Tried {
            mut answer,
            mut was_sent,
            ..
        } = first;
        let mut lost: Option<Answer> = None;
        let mut times_lost = 0;
        for candidate in behind.chain(&route.last_resort) {
            if was_sent && costs(&answer.outcome) && !self.retries.spend() {
                break;
            }
            let is_lost = matches!(answer.outcome, Err(Fault::Lost));
            times_lost += usize::from(is_lost);
            if times_lost >= LOST_MAX {
                return given_up(route, answer);
            }
            self.log_failover(message, &answer);
            if is_lost {
                lost = Some(answer);
                // It may still run there.
                let _ = message.is_repeated.set(());
            }
            let tried = self.run_on(route, candidate, message, deadline).await;
            let may_be_repeated = tried.may_be_repeated;
            Tried {
                answer,
                was_sent,
                ..
            } = tried;
            match after(&answer.outcome, may_be_repeated) {
                Next::Stop => return given_up(route, since_lost(lost, answer)),
                Next::RouteAgain if may_route_again && (lost.is_none() || may_be_repeated) => {
                    let tried = Tried {
                        answer,
                        was_sent,
                        may_be_repeated,
                    };
                    let answer = Box::pin(self.send_again(message, deadline, tried)).await;
                    return given_up(route, since_lost(lost, answer));
                }
                Next::RouteAgain | Next::TryNextInRank => {}
            }
        }
        given_up(route, since_lost(lost, answer))
    }

    /// Delivers what a handler has sent.
    async fn deliver(&self, message: Arc<Message>) -> Delivered {
        let (message, mut span) = delivered(message);
        let answer = self.send(&message, Instant::now() + DELIVERY_MAX).await;
        span.ended(&answer.outcome);
        let is_stateful = match self.route(&message) {
            Ok(route) => route.properties.is_stateful,
            Err(_) => false,
        };
        match answer.outcome {
            Ok(_) if is_stateful => Delivered::Committed,
            Ok(_) => Delivered::Answered,
            Err(fault) if is_answer(&fault) => {
                self.log_refused(&message, &fault);
                Delivered::Answered
            }
            Err(fault) => Delivered::Failed(fault.to_string()),
        }
    }

    /// Logs that what a handler sent was refused: nobody else gets that answer.
    fn log_refused(&self, message: &Message, fault: &Fault) {
        let Message { id, stream, .. } = message;
        if let Some(messages) = self.refused_sends.note(stream.clone(), Instant::now()) {
            warn!(event = "send-refused", message_id = %id, %stream, because = %fault, messages, "a handler refused a message or a timer that was sent to it; it is not sent again");
        }
    }

    /// Logs that a message is offered to another node after this answer.
    fn log_failover(&self, message: &Message, answer: &Answer) {
        let because = cause(&answer.outcome);
        let Answer { node, .. } = answer;
        counter!(names::FAILOVERS, "stream" => message.stream.to_string(), "because" => because)
            .increment(1);
        debug!(message_id = %message.id, stream = %message.stream, %node, because, "a message goes on to the next in rank");
        if let Some(messages) = self.failovers.note((node.clone(), because), Instant::now()) {
            info!(event = "failover", %node, because, messages, stream = %message.stream, "messages go on to the next in rank");
        }
    }

    /// The answer to a message for which there is no route: nothing of it ran.
    fn no_route(&self, message: &Message, fault: Fault) -> Answer {
        let may_run_twice = message.may_run_twice(StreamProperties::default());
        Answer {
            node: self.self_id.clone(),
            outcome: Err(fault),
            may_run_twice,
        }
    }

    fn route(&self, message: &Message) -> Result<Arc<StreamRoute>, Fault> {
        let routes = self.routes.load();
        match routes.streams.get(&message.stream) {
            Some(route) => Ok(route.clone()),
            // A starting node may not know all offers yet.
            None if routes.own_state == NodeState::Starting => {
                Err(Fault::Refused(Refusal::Starting))
            }
            None => Err(Fault::NoCandidate),
        }
    }

    /// Runs a message on this node's own plugin.
    async fn run_here(&self, message: &Arc<Message>, deadline: Instant) -> Outcome {
        let admitted = self
            .local
            .admit(message.clone(), deadline, Origin::Client)
            .map_err(Fault::Refused)?;
        let call = Box::pin(self.local.clone().run(admitted));
        lanes::run_movable(call, &self.runtime).await
    }

    async fn run_on(
        &self,
        route: &StreamRoute,
        candidate: &Candidate,
        message: &Arc<Message>,
        deadline: Instant,
    ) -> Tried {
        // From here on it may be repeated; a call may be even by the handler that makes it.
        let is_first_attempt = matches!(candidate.target, Target::Local) && message.chain.is_none();
        if route.properties.is_stateful
            && !(message.is_read() || message.is_sent || is_first_attempt)
        {
            message.not_after.get_or_init(|| {
                let remaining = deadline.saturating_duration_since(Instant::now());
                self.local.store_time().later(remaining + EFFECT_MARGIN)
            });
        }
        let Called { outcome, was_sent } = match &candidate.target {
            Target::Local => {
                let outcome = self.run_here(message, deadline).await;
                let was_sent = false;
                Called { outcome, was_sent }
            }
            Target::Peer(peer) => {
                let (forwarded, mut span) = forwarded(message, &candidate.node_id);
                let called = peer
                    .call(
                        Request::Run(forwarded.as_deref().unwrap_or(message)),
                        deadline,
                        route.reply_expected.bytes(),
                    )
                    .await;
                span.ended(&called.outcome);
                drop(span);
                match &called.outcome {
                    Ok(reply) => route.reply_expected.note(reply.body.len()),
                    // The reply was too large for the free memory: expect the maximum, so that the
                    // next message is refused before it runs.
                    Err(Fault::LimitExceeded(limit)) if limit.kind == LimitKind::BodiesBytes => {
                        route.reply_expected.note(REPLY_BODY_BYTES_MAX);
                    }
                    Err(_) => {}
                }
                called
            }
        };
        let may_run_twice = message.may_run_twice(route.properties);
        Tried {
            answer: Answer {
                node: candidate.node_id.clone(),
                outcome,
                may_run_twice,
            },
            was_sent,
            may_be_repeated: message.may_be_repeated(route.properties),
        }
    }
}

/// The span of a message's way to another node, and the message as part of it, if it is traced.
fn forwarded(message: &Message, to: &NodeId) -> (Option<Box<Message>>, Span) {
    let span = traces::forward(message, to);
    let forwarded = span.trace().map(|_| {
        let mut forwarded = Box::new(message.clone());
        span.goes_on_in(&mut forwarded);
        forwarded
    });
    (forwarded, span)
}

/// A message that a handler has sent, as it is delivered: with a span, if its sender was traced.
fn delivered(message: Arc<Message>) -> (Arc<Message>, Span) {
    let mut own = Arc::unwrap_or_clone(message);
    let span = traces::delivery(&mut own);
    (Arc::new(own), span)
}

/// The answer to a message with which a node was lost before. A refusal by later nodes does not prove
/// that this one did not run it.
fn since_lost(lost: Option<Answer>, answer: Answer) -> Answer {
    match (&answer.outcome, lost) {
        (Err(fault), Some(lost)) if !matches!(fault, Fault::Failure(_)) && fault.nothing_ran() => {
            lost
        }
        _ => answer,
    }
}

/// The answer if no other node is tried. On a stateful stream a message that was lost with its node
/// would have gone on, had there been a node and time left.
fn given_up(route: &StreamRoute, mut answer: Answer) -> Answer {
    if route.properties.is_stateful && matches!(answer.outcome, Err(Fault::Lost)) {
        answer.outcome = Err(Fault::DeadlineExceeded);
    }
    answer
}
