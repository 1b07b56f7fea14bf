//! A lane that has much to do lets others have their turn on its core. Linux gives a core to a thread that wakes up, if it
//! has run less than the thread that runs: with a client or another node on the core, that ends their turn with each message
//! that they send, when soon they would have had more for the lane. With the policy `SCHED_BATCH` (sched(7)) a lane
//! waits for the end of their turn instead, which is a time slice at most, and then finds more to do.

use std::cell::Cell;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::policy::{self, Policy};

thread_local! {
    static COURTESY: Cell<Option<Courtesy>> = const { Cell::new(None) };
}

/// To be called by a lane before it begins. Does nothing if an operator has chosen a policy for the process.
pub(super) fn begin() {
    if policy::is(Policy::Normal) {
        COURTESY.set(Some(Courtesy::new(Instant::now(), worked())));
    }
}

/// To be called before a lane goes to sleep.
pub(super) fn look() {
    let Some(mut courtesy) = COURTESY.get() else { return };
    let changed = courtesy.is_due(Instant::now).then(|| courtesy.note(Instant::now(), worked())).flatten();
    // A system that refuses it once will always.
    let is_refused = changed.is_some_and(|policy| policy::set(policy).is_err());
    COURTESY.set((!is_refused).then_some(courtesy));
}

/// The time that this thread has had a core.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A lane goes to sleep this often from one look at the clock to the next: then it costs a message next to nothing.
const SLEEPS: u32 = 8;

/// Long enough to know how busy a lane is, and short enough for what has changed.
const PERIOD: Duration = Duration::from_millis(10);

/// Shares of a core from which, and down to which, a lane has much to do. At saturation a lane takes half of a core that it shares
/// with a client, and nearly as much of one that it shares with another node, too. With a tenth, its messages would wait for
/// others that are busy, and with the normal policy they do not.
const MUCH: f64 = 0.3;
const LITTLE: f64 = 0.2;

/// How busy a lane is, and what follows from it. Pure.
#[derive(Debug, Clone, Copy)]
struct Courtesy {
    policy: Policy,
    sleeps: u32,
    since: Instant,
    worked: Duration,
}

impl Courtesy {
    fn new(now: Instant, worked: Duration) -> Self {
        Self { policy: Policy::Normal, sleeps: 0, since: now, worked }
    }

    /// Whether it is time to see how busy the lane was.
    fn is_due(&mut self, now: impl FnOnce() -> Instant) -> bool {
        self.sleeps = (self.sleeps + 1) % SLEEPS;
        self.sleeps == 0 && now().saturating_duration_since(self.since) >= PERIOD
    }

    /// By now the lane has had a core for that long since it began. Returns the policy that it is to have, if that changes.
    fn note(&mut self, now: Instant, worked: Duration) -> Option<Policy> {
        let period = now.saturating_duration_since(self.since);
        let share = worked.saturating_sub(self.worked).as_secs_f64() / period.as_secs_f64();
        (self.since, self.worked) = (now, worked);
        let policy = match self.policy {
            Policy::Normal if share >= MUCH => Policy::Batch,
            Policy::Batch if share <= LITTLE => Policy::Normal,
            _ => return None,
        };
        self.policy = policy;
        Some(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Lanes;
    use super::*;

    #[test]
    fn only_a_lane_with_much_to_do_lets_others_have_their_turn() {
        let (mut now, mut worked) = (Instant::now(), Duration::ZERO);
        let mut courtesy = Courtesy::new(now, worked);
        let mut after_a_share = |share: f64| {
            now += PERIOD;
            worked += PERIOD.mul_f64(share);
            courtesy.note(now, worked)
        };
        let between = (LITTLE + MUCH) / 2.0;
        assert_eq!(after_a_share(between), None);
        assert_eq!(after_a_share(1.5 * MUCH), Some(Policy::Batch));
        assert_eq!(after_a_share(1.5 * MUCH), None);
        assert_eq!(after_a_share(between), None);
        assert_eq!(after_a_share(LITTLE / 2.0), Some(Policy::Normal));
        assert_eq!(after_a_share(between), None);
    }

    #[test]
    fn the_clock_is_looked_at_now_and_then() {
        let start = Instant::now();
        let mut courtesy = Courtesy::new(start, Duration::ZERO);
        let mut looks = 0;
        for _ in 0..10 * SLEEPS {
            let is_due = courtesy.is_due(|| {
                looks += 1;
                start + PERIOD / 2
            });
            assert!(!is_due, "so soon says little");
        }
        assert_eq!(looks, 10);
        let due = (0..SLEEPS).filter(|_| courtesy.is_due(|| start + PERIOD)).count();
        assert_eq!(due, 1);
    }

    /// Bounds a hang.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Gives a lane tasks of this length, one after the other, until a task finds that the lane has the policy.
    async fn work_until(lane: &tokio::runtime::Handle, policy: Policy, task: Duration, rest: Duration) {
        let began = Instant::now();
        loop {
            let work = async move {
                let began = Instant::now();
                while began.elapsed() < task {}
                policy::is(policy)
            };
            if lane.spawn(work).await.unwrap() {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "the lane does not get the policy {policy:?}");
            tokio::time::sleep(rest).await;
        }
    }

    #[tokio::test]
    async fn a_lane_has_the_policy_for_what_it_has_to_do() {
        let lanes = Lanes::start().unwrap();
        let lane = &lanes.all()[0];
        work_until(lane, Policy::Batch, 4 * PERIOD / 10, Duration::ZERO).await;
        work_until(lane, Policy::Normal, Duration::ZERO, PERIOD).await;
        work_until(lane, Policy::Batch, 4 * PERIOD / 10, Duration::ZERO).await;
    }
}
