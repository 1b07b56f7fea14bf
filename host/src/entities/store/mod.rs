//! The store: where the state of entities is kept. Commits and looks gather, and connections take
//! them in batches.

mod backend;
mod clock;
#[cfg(test)]
mod conformance;
mod gather;
mod health;
mod postgres;
mod sqlite;

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use metrics::{counter, histogram};
use tokio::runtime::Builder;
use tokio::sync::{Notify, oneshot};
use tokio::time::{timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::error;
use uuid::Uuid;

use super::commit::{Commit, Mark, Outcome};
use super::letter::{Letter, Waiting};
#[cfg(test)]
use super::outbox::Chores;
use super::outbox::{Outbox, Tended};
use crate::lanes::{LaneWaker, wake_all};
use crate::message::StoreTime;
use crate::telemetry::names;
use backend::{Backend, Swept};
use gather::Gather;
use health::Health;
use sqlite::WalIndex;

pub use backend::StoreError;
pub(super) use backend::{
    Found, Imported, Listing, Look, LookError, Make, Order, Outstanding, Seen, What,
};
pub(super) use clock::Clock;
pub use postgres::PostgresUrl;

/// Commits of one batch at most: beyond that a batch becomes no cheaper.
const BATCH_COMMITS_MAX: usize = 1024;

/// Bytes of a batch, the last commit not counted: what a server takes in one statement is limited.
const BATCH_BYTES_MAX: usize = 16 << 20;

/// Looks that one connection takes at once.
const BATCH_LOOKS_MAX: usize = 128;

/// How long it is waited between two sweeps, and if there was more than one of them deletes.
const SWEEP_PAUSE: Duration = Duration::from_secs(2);
const SWEEP_NEXT: Duration = Duration::from_millis(20);

/// How long it is waited at most before it is seen what other nodes have left.
const TEND_PAUSE: Duration = Duration::from_secs(2);

/// Who has something to commit.
pub(super) trait CommitOwner: Send + Sync {
    /// The store begins to commit: what is to be committed, if there still is anything.
    fn begin_commit(&self) -> Option<Commit>;

    /// The commit has ended. Adds who is to be woken, and returns whether there is more to commit.
    fn commit_ended(&self, outcome: Outcome, wake: &mut Vec<LaneWaker>) -> bool;
}

type Owner = Arc<dyn CommitOwner>;

/// A commit that is waited for.
struct Single {
    commit: Mutex<Option<Commit>>,
    ended: Mutex<Option<oneshot::Sender<Outcome>>>,
}

impl CommitOwner for Single {
    fn begin_commit(&self) -> Option<Commit> {
        lock(&self.commit).take()
    }

    fn commit_ended(&self, outcome: Outcome, _: &mut Vec<LaneWaker>) -> bool {
        if let Some(ended) = lock(&self.ended).take() {
            // Who waits may be gone.
            let _ = ended.send(outcome);
        }
        false
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes commits and looks. Clones are the same store.
#[derive(Clone)]
pub(super) struct Store(Arc<Shared>);

struct Shared {
    commits: Gather<Owner>,
    looks: Gather<Asked>,
    /// Of commits, and of looks: that the one works says nothing of the other.
    commit_health: Health,
    look_health: Health,
    /// Whether anything was committed, if that can be told without asking the store.
    index: Option<WalIndex>,
    /// What handlers have sent.
    outbox: Arc<Outbox>,
    /// What operators ask for, and a signal that there is some.
    orders: Mutex<Vec<Ordered>>,
    ordered: Notify,
    /// Cancelled when the task of any connection has ended.
    ended: CancellationToken,
    /// Cancelled when the one that commits has ended.
    committed: CancellationToken,
}

struct Asked {
    look: Look,
    answer: Answer,
}

/// What an operator asks for, and who waits for it.
type Ordered = (Order, oneshot::Sender<Result<u64, StoreError>>);

type Answer = oneshot::Sender<Result<Seen, LookError>>;

impl Store {
    /// `ended` is cancelled when the task of a connection ends: after [`Store::close`], or by a bug.
    fn new(index: Option<WalIndex>, outbox: Arc<Outbox>, ended: CancellationToken) -> Self {
        Self(Arc::new(Shared {
            commits: Gather::default(),
            looks: Gather::default(),
            commit_health: Health::default(),
            look_health: Health::default(),
            index,
            outbox,
            orders: Mutex::default(),
            ordered: Notify::new(),
            ended,
            committed: CancellationToken::new(),
        }))
    }

    /// Whether the store works, as far as is known.
    pub(super) fn is_good(&self) -> bool {
        self.0.commit_health.is_good() && self.0.look_health.is_good()
    }

    /// Whether its last answer was one.
    pub(super) fn is_working(&self) -> bool {
        self.0.commit_health.is_working() && self.0.look_health.is_working()
    }

    /// What stays the same as long as nothing is committed, by anybody. `None`: it is not known.
    pub(super) fn mark(&self) -> Option<Mark> {
        // Without a connection to it the index is no longer that of the database.
        if self.0.ended.is_cancelled() {
            return None;
        }
        self.0.index.as_ref()?.mark()
    }

    /// Takes note that there is something to commit. Nothing cancels it from here on.
    pub(super) fn submit(&self, owner: Owner) {
        if let Err(owner) = self.0.commits.push(owner) {
            refuse(vec![owner]);
        }
    }

    /// Takes note that there is more to commit for an owner that was submitted.
    pub(super) fn note_merged(&self) {
        self.0.commits.note_more();
    }

    /// Takes note of how many messages of an entity may have something to commit soon, and how many
    /// there were before.
    pub(super) fn note_coming(&self, before: usize, now: usize) {
        self.0.commits.note_coming(before, now);
    }

    /// Commits, and waits for the outcome.
    pub(super) async fn commit_one(&self, commit: Commit) -> Outcome {
        let (ended, has_ended) = oneshot::channel();
        self.submit(Arc::new(Single {
            commit: Mutex::new(Some(commit)),
            ended: Mutex::new(Some(ended)),
        }));
        has_ended.await.unwrap_or(Outcome::Unavailable)
    }

    fn refuse_what_gathered(&self) {
        refuse(self.0.commits.take_now());
    }

    /// Looks at what is committed.
    ///
    /// # Errors
    /// If the store does not work, or what it has cannot be read.
    pub(super) async fn look(&self, look: Look) -> Result<Seen, LookError> {
        let (answer, answered) = oneshot::channel();
        let closed = || LookError::Store(StoreError("it is closed".into()));
        self.0
            .looks
            .push(Asked { look, answer })
            .map_err(|_| closed())?;
        answered.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Messages that have no answer, in the order of their ids, and the last id if there may be more.
    ///
    /// # Errors
    /// If the store does not work.
    pub(super) async fn outstanding(
        &self,
        wanted: &Outstanding,
    ) -> Result<(Vec<Waiting>, Option<Uuid>), StoreError> {
        match self.look(Look::Sends(wanted.clone())).await?.found {
            Found::Sends(sends, last) => Ok((sends, last)),
            _ => Err(StoreError("it answers something else".into())),
        }
    }

    /// Does what an operator asks for. Returns how many rows it changed.
    ///
    /// # Errors
    /// If it could not.
    pub(super) async fn order(&self, order: Order) -> Result<u64, StoreError> {
        let closed = || StoreError("it is closed".into());
        let (done, is_done) = oneshot::channel();
        lock(&self.0.orders).push((order, done));
        self.0.ordered.notify_one();
        tokio::select! {
            answer = is_done => answer.unwrap_or_else(|_| Err(closed())),
            () = self.0.committed.cancelled() => Err(closed()),
        }
    }

    async fn carry_out_orders(&self, backend: &mut impl Backend) {
        let orders = std::mem::take(&mut *lock(&self.0.orders));
        for (order, done) in orders {
            // Who asked may be gone.
            let _ = done.send(self.watched(backend.carry_out(&order)).await);
        }
        self.0.outbox.changed.notify_one();
    }

    /// Takes nothing more in, and resolves when what was taken in is committed.
    pub(super) async fn close(&self) {
        self.0.commits.close();
        self.0.looks.close();
        self.0.committed.cancelled().await;
    }

    /// Commits what gathers, until the store is closed.
    async fn serve_commits(&self, mut backend: impl Backend) {
        let shared = &self.0;
        let _ended = shared.ended.clone().drop_guard();
        let _committed = shared.committed.clone().drop_guard();
        let mut next_sweep = tokio::time::Instant::now();
        let mut next_tend = next_sweep;
        loop {
            let taken = shared.commits.take(BATCH_COMMITS_MAX);
            let next = next_sweep.min(next_tend);
            tokio::select! {
                taken = timeout_at(next, taken) => match taken {
                    Ok(Some(owners)) => {
                        let due = self.commit_batch(&mut backend, owners).await;
                        if let Some(due) = due {
                            next_tend = next_tend.min(tokio::time::Instant::now() + due);
                        }
                    }
                    Ok(None) => return,
                    Err(_) => {}
                },
                () = shared.outbox.changed.notified() => next_tend = tokio::time::Instant::now(),
                () = shared.ordered.notified() => self.carry_out_orders(&mut backend).await,
            }
            if shared.outbox.delivers() && next_tend <= tokio::time::Instant::now() {
                next_tend = self.tend(&mut backend).await;
            }
            if next_sweep <= tokio::time::Instant::now() {
                let pause = self.sweep(&mut backend).await;
                next_sweep = tokio::time::Instant::now() + pause;
            }
        }
    }

    /// The moment on this host's clock.
    fn instant_of(&self, time: StoreTime) -> tokio::time::Instant {
        let millis = time.millis().saturating_sub(self.now().millis());
        tokio::time::Instant::now() + Duration::from_millis(millis).min(TEND_PAUSE)
    }

    /// Looks after what handlers have sent. Returns when it is to be done again.
    async fn tend(&self, backend: &mut impl Backend) -> tokio::time::Instant {
        let later = tokio::time::Instant::now() + TEND_PAUSE;
        if !self.0.commit_health.is_good() {
            return later;
        }
        let chores = self.0.outbox.chores();
        match self.watched(backend.tend(&chores)).await {
            Ok(Tended {
                due,
                next,
                has_gone_more,
            }) => {
                for letter in due {
                    self.0.outbox.begin(letter);
                }
                if has_gone_more {
                    return tokio::time::Instant::now();
                }
                self.0.outbox.taken_over(&chores.gone);
                next.map_or(later, |next| self.instant_of(next).min(later))
            }
            Err(error) => {
                tracing::debug!(%error, "the outbox could not be looked after");
                self.0.outbox.put_back(chores);
                later
            }
        }
    }

    /// Deletes some old records. Returns when it is to be done again.
    async fn sweep(&self, backend: &mut impl Backend) -> Duration {
        if !self.0.commit_health.is_good() {
            return SWEEP_PAUSE;
        }
        match self.watched(backend.sweep()).await {
            Ok(Swept { now, is_more }) => {
                self.0.outbox.clock.note(now);
                if is_more { SWEEP_NEXT } else { SWEEP_PAUSE }
            }
            Err(error) => {
                tracing::debug!(%error, "old records were not deleted");
                SWEEP_PAUSE
            }
        }
    }

    /// Waits for what the store does, and refuses what gathers behind it if it hangs. It is then in
    /// doubt itself; what has gathered is not.
    async fn watched<T>(&self, work: impl Future<Output = T>) -> T {
        let health = &self.0.commit_health;
        health.begin();
        let mut work = pin!(work);
        let done = loop {
            match timeout(health::BATCH_MAX, &mut work).await {
                Ok(done) => break done,
                Err(_) => self.refuse_what_gathered(),
            }
        };
        health.end();
        done
    }

    /// The store's clock, as far as this node knows.
    pub(super) fn now(&self) -> StoreTime {
        self.0.outbox.clock.now()
    }

    /// Commits what they have, or what the first of them have if that is enough for a batch.
    /// Returns how long until the first of what it sends is due.
    async fn commit_batch(
        &self,
        backend: &mut impl Backend,
        owners: Vec<Owner>,
    ) -> Option<Duration> {
        let (mut commits, mut begun) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        let mut owners = owners.into_iter();
        while bytes < BATCH_BYTES_MAX
            && let Some(owner) = owners.next()
        {
            if let Some(commit) = owner.begin_commit() {
                bytes += commit.changes.memory();
                commits.push(commit);
                begun.push(owner);
            }
        }
        self.0.commits.put_back(owners);
        if commits.is_empty() {
            return None;
        }
        let outcomes = self.commit(backend, &commits).await;
        count(&outcomes);
        let due = self.deliver_what_was_sent(&commits, &outcomes);
        let mut wake = Vec::with_capacity(begun.len());
        for (owner, outcome) in begun.into_iter().zip(outcomes) {
            if owner.commit_ended(outcome, &mut wake) {
                self.submit(owner);
            }
        }
        wake_all(wake);
        due
    }

    /// Delivers what is due at once, and returns how long until the first of the others is.
    fn deliver_what_was_sent(&self, commits: &[Commit], outcomes: &[Outcome]) -> Option<Duration> {
        let committed = commits.iter().zip(outcomes);
        let committed = committed.filter(|(_, outcome)| **outcome == Outcome::Committed);
        let now = self.now();
        let mut next: Option<Duration> = None;
        for (commit, _) in committed {
            for (name, sending) in commit.changes.sends.iter() {
                if sending.delay.is_zero() {
                    let letter = Letter::new(&commit.entity, name, sending, now);
                    self.0.outbox.begin(letter);
                } else {
                    next = next.into_iter().chain([sending.delay]).min();
                }
            }
        }
        next.map(|next| next.min(TEND_PAUSE))
    }

    async fn commit(&self, backend: &mut impl Backend, commits: &[Commit]) -> Vec<Outcome> {
        let health = &self.0.commit_health;
        if !health.is_good() {
            return vec![Outcome::Unavailable; commits.len()];
        }
        let began = Instant::now();
        let outcomes = self.watched(backend.commit(commits)).await;
        histogram!(names::STATE_COMMIT_SECONDS).record(began.elapsed().as_secs_f64());
        histogram!(names::STATE_BATCH_COMMITS).record(commits.len() as f64);
        match outcomes {
            Ok(outcomes) => {
                health.note_success();
                outcomes
            }
            Err(error) => {
                health.note_failure(&error);
                vec![Outcome::Unavailable; commits.len()]
            }
        }
    }

    /// Answers looks, until the store is closed.
    async fn serve_looks(&self, mut backend: impl Backend) {
        let shared = &self.0;
        let _ended = shared.ended.clone().drop_guard();
        while let Some(batch) = shared.looks.take(BATCH_LOOKS_MAX).await {
            let (looks, answers): (Vec<_>, Vec<_>) = batch
                .into_iter()
                .map(|Asked { look, answer }| (look, answer))
                .unzip();
            match backend.look(&looks).await {
                // Each by itself, so that only the bad one fails.
                Err(LookError::Data(_)) if looks.len() > 1 => {
                    for (look, answer) in looks.into_iter().zip(answers) {
                        let seen = backend.look(&[look]).await;
                        self.answer(vec![answer], seen);
                    }
                }
                seen => self.answer(answers, seen),
            }
        }
    }

    fn answer(&self, answers: Vec<Answer>, seen: Result<Vec<Seen>, LookError>) {
        let health = &self.0.look_health;
        let error = match seen {
            Ok(seen) => {
                health.note_success();
                for (answer, seen) in answers.into_iter().zip(seen) {
                    // Who asked may be gone.
                    let _ = answer.send(Ok(seen));
                }
                return;
            }
            Err(error) => error,
        };
        match &error {
            LookError::Data(error) => {
                error!(event = "state-unreadable", %error, "what is stored cannot be read");
            }
            LookError::Store(error) => health.note_failure(error),
        }
        for answer in answers {
            let _ = answer.send(Err(error.clone()));
        }
    }
}

#[cfg(test)]
fn node_id() -> crate::message::NodeId {
    "n1".try_into().unwrap()
}

#[cfg(test)]
impl Store {
    /// A store that answers every look with what a test says, when it is asked.
    pub(super) fn answered_by(say: impl FnMut() -> Seen + Send + 'static) -> Self {
        struct Said<F>(F);

        impl<F: FnMut() -> Seen + Send> Backend for Said<F> {
            async fn commit(&mut self, _: &[Commit]) -> Result<Vec<Outcome>, StoreError> {
                Err(StoreError("it only looks".into()))
            }

            async fn look(&mut self, looks: &[Look]) -> Result<Vec<Seen>, LookError> {
                Ok(looks.iter().map(|_| (self.0)()).collect())
            }

            async fn sweep(&mut self) -> Result<Swept, StoreError> {
                Err(StoreError("it only looks".into()))
            }

            async fn tend(&mut self, _: &Chores) -> Result<Tended, StoreError> {
                Err(StoreError("it only looks".into()))
            }

            async fn carry_out(&mut self, _: &Order) -> Result<u64, StoreError> {
                Err(StoreError("it only looks".into()))
            }
        }

        let store = Self::new(None, Outbox::new(node_id()), CancellationToken::new());
        let looking = store.clone();
        tokio::spawn(async move { looking.serve_looks(Said(say)).await });
        store
    }
}

/// This host's clock.
pub(super) fn host_time() -> StoreTime {
    StoreTime::from_millis(host_millis().try_into().unwrap_or_default())
}

/// The same in milliseconds since 1970.
pub(super) fn host_millis() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

/// Runs the work of a connection on a thread of its own, which may block.
fn start(name: &str, work: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new()
        .name(name.into())
        .spawn(move || runtime.block_on(work))
        .map(drop)
}

/// Tells them that nothing was committed.
fn refuse(owners: Vec<Owner>) {
    let mut wake = Vec::new();
    for owner in owners {
        while owner.begin_commit().is_some() && owner.commit_ended(Outcome::Unavailable, &mut wake)
        {
        }
    }
    wake_all(wake);
}

fn count(outcomes: &[Outcome]) {
    for (outcome, name) in [
        (Outcome::Committed, "committed"),
        (Outcome::Fenced, "fenced"),
        (Outcome::Unavailable, "unavailable"),
        (Outcome::Rejected, "rejected"),
    ] {
        let commits = outcomes.iter().filter(|found| **found == outcome).count();
        if commits > 0 {
            counter!(names::STATE_COMMITS, "outcome" => name).increment(commits as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::future::join_all;
    use tokio::sync::mpsc;

    use super::super::commit::{CommitId, EntityId};
    use super::*;
    use crate::message::{PartitionKey, StreamName};
    use crate::state::Writes;

    /// Says how large each batch is.
    struct Counting(mpsc::UnboundedSender<usize>);

    impl Backend for Counting {
        async fn commit(&mut self, commits: &[Commit]) -> Result<Vec<Outcome>, StoreError> {
            self.0.send(commits.len()).unwrap();
            Ok(vec![Outcome::Committed; commits.len()])
        }

        async fn look(&mut self, _: &[Look]) -> Result<Vec<Seen>, LookError> {
            Ok(Vec::new())
        }

        async fn sweep(&mut self) -> Result<Swept, StoreError> {
            Err(StoreError("it only counts".into()))
        }

        async fn tend(&mut self, _: &Chores) -> Result<Tended, StoreError> {
            Err(StoreError("it only counts".into()))
        }

        async fn carry_out(&mut self, _: &Order) -> Result<u64, StoreError> {
            Ok(0)
        }
    }

    #[tokio::test]
    async fn a_batch_has_no_more_bytes_than_a_statement_may_have() {
        let value = Bytes::from(vec![0; BATCH_BYTES_MAX / 4]);
        let commit = |number: usize| {
            let mut writes = Writes::default();
            writes.put("a".into(), Some(value.clone()));
            Commit {
                entity: Arc::new(EntityId {
                    stream: StreamName::try_from("cart").unwrap(),
                    key: PartitionKey::try_from(number.to_string().as_str()).unwrap(),
                }),
                expected: None,
                id: CommitId::new(),
                changes: Arc::new(writes.into()),
                recorded: Default::default(),
            }
        };
        let store = Store::new(None, Outbox::new(node_id()), CancellationToken::new());
        let mut commits: Vec<_> = (0..10)
            .map(|number| Box::pin(store.commit_one(commit(number))))
            .collect();
        // All of them wait before the first batch is taken.
        for commit in &mut commits {
            assert!(futures_util::poll!(commit).is_pending());
        }
        let (sizes, mut seen) = mpsc::unbounded_channel();
        let serving = store.clone();
        tokio::spawn(async move { serving.serve_commits(Counting(sizes)).await });
        assert_eq!(join_all(commits).await, [Outcome::Committed; 10]);
        store.close().await;
        let mut batches = Vec::new();
        while let Some(size) = seen.recv().await {
            batches.push(size);
        }
        assert_eq!(batches, [4, 4, 2]);
    }
}
