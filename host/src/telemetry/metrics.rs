//! The metrics registry, and the handles of the request path: looked up once for each stream, then
//! a few atomic additions for each message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::names;
use crate::message::{FailureKind, Fault, LimitKind, Outcome, Refusal, StreamName};

/// Upper bounds of the latency histogram, in seconds: from a local echo to the default timeout.
pub const SECONDS_BUCKETS: [f64; 14] = [
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
];

/// Upper bounds of the histogram of batches, in commits.
const BATCH_BUCKETS: [f64; 11] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0,
];

/// How often recorded latencies are moved into their buckets; until then each takes 8 bytes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The process has a recorder already.
#[derive(Debug, thiserror::Error)]
#[error("metrics are recorded once in a process")]
pub struct MetricsError;

/// The process's metrics, as text for Prometheus.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Installs the recorder of this process. The future that is returned maintains it, and must
    /// run for as long as metrics are recorded.
    ///
    /// # Errors
    /// If a recorder is installed already.
    pub fn install() -> Result<(Self, impl Future<Output = ()> + Send + use<>), MetricsError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(
                Matcher::Full(names::MESSAGE_SECONDS.into()),
                &SECONDS_BUCKETS,
            )
            .and_then(|builder| {
                let seconds = Matcher::Full(names::STATE_COMMIT_SECONDS.into());
                builder.set_buckets_for_metric(seconds, &SECONDS_BUCKETS)
            })
            .and_then(|builder| {
                let commits = Matcher::Full(names::STATE_BATCH_COMMITS.into());
                builder.set_buckets_for_metric(commits, &BATCH_BUCKETS)
            })
            .expect("there are buckets")
            .build_recorder();
        let handle = recorder.handle();
        ::metrics::set_global_recorder(recorder).map_err(|_| MetricsError)?;
        names::describe();
        names::begin();
        let kept = handle.clone();
        let upkeep = async move {
            let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
            loop {
                ticks.tick().await;
                kept.run_upkeep();
            }
        };
        Ok((Self(handle), upkeep))
    }

    /// All metrics in Prometheus' text format, except those of streams for which `is_known` is
    /// false. The recorder keeps their series (some kilobytes for each name that ever existed), so
    /// that the counters of a stream that comes back continue.
    pub fn render(&self, is_known: impl Fn(&str) -> bool) -> String {
        let all = self.0.render();
        let known = all
            .split_inclusive('\n')
            .filter(|line| stream_of(line).is_none_or(&is_known));
        known.collect()
    }
}

/// The stream in the labels of a line, if it has one. Stream names contain nothing that is escaped
/// in labels.
fn stream_of(line: &str) -> Option<&str> {
    let labels = line.split_once('{')?.1;
    let (_, stream) = labels
        .split_once("stream=\"")
        .filter(|(before, _)| before.is_empty() || before.ends_with(','))?;
    stream.split_once('"').map(|(stream, _)| stream)
}

/// Where a message ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    Local,
    Forwarded,
}

/// How a message ended, as the metrics tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OutcomeLabel {
    Ok,
    Invalid,
    NotFound,
    Conflict,
    Unavailable,
    Internal,
    Crashed,
    Deadline,
    Refused,
    Overloaded,
    Unreachable,
    Lost,
    Limit,
    /// A read tried to write.
    ReadOnly,
    /// An `Idempotency-Key` came with another message.
    KeyReused,
    Cycle,
    /// A fault of a later version.
    Other,
}

impl OutcomeLabel {
    const ALL: [Self; 17] = [
        Self::Ok,
        Self::Invalid,
        Self::NotFound,
        Self::Conflict,
        Self::Unavailable,
        Self::Internal,
        Self::Crashed,
        Self::Deadline,
        Self::Refused,
        Self::Overloaded,
        Self::Unreachable,
        Self::Lost,
        Self::Limit,
        Self::ReadOnly,
        Self::KeyReused,
        Self::Cycle,
        Self::Other,
    ];

    fn of(outcome: &Outcome) -> Self {
        match outcome {
            Ok(_) => Self::Ok,
            Err(fault) => Self::of_fault(fault),
        }
    }

    fn of_fault(fault: &Fault) -> Self {
        match fault {
            Fault::Failure(failure) => match failure.kind {
                FailureKind::Invalid => Self::Invalid,
                FailureKind::NotFound => Self::NotFound,
                FailureKind::Conflict => Self::Conflict,
                FailureKind::Unavailable => Self::Unavailable,
                FailureKind::Internal => Self::Internal,
            },
            Fault::Crashed => Self::Crashed,
            Fault::DeadlineExceeded | Fault::Refused(Refusal::WaitedTooLong) => Self::Deadline,
            Fault::LimitExceeded(limit) if limit.kind == LimitKind::Time => Self::Deadline,
            Fault::LimitExceeded(_) => Self::Limit,
            Fault::Refused(Refusal::Overloaded | Refusal::QueueFull | Refusal::NoRoom) => {
                Self::Overloaded
            }
            Fault::NoRoute => Self::NotFound,
            Fault::ReadOnly => Self::ReadOnly,
            Fault::IdempotencyKeyReused => Self::KeyReused,
            Fault::Cycle(_) => Self::Cycle,
            Fault::AfterCalls(fault) => Self::of_fault(fault),
            Fault::Refused(_) => Self::Refused,
            Fault::Unreachable | Fault::NoCandidate => Self::Unreachable,
            Fault::Lost => Self::Lost,
            Fault::Foreign(_) => Self::Other,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
            Self::Crashed => "crashed",
            Self::Deadline => "deadline",
            Self::Refused => "refused",
            Self::Overloaded => "overloaded",
            Self::Unreachable => "unreachable",
            Self::Lost => "lost",
            Self::Limit => "limit",
            Self::ReadOnly => "read_only",
            Self::KeyReused => "key_reused",
            Self::Cycle => "cycle",
            Self::Other => "other",
        }
    }
}

/// The metrics of one version of a plugin. All versions of a stream share the series.
pub struct PluginMetrics {
    pub instances_made: Counter,
    versions: Gauge,
}

impl PluginMetrics {
    pub fn new(stream: &StreamName) -> Self {
        let name = || stream.as_str().to_owned();
        let versions = gauge!(names::PLUGIN_VERSIONS, "stream" => name());
        versions.increment(1);
        Self {
            instances_made: counter!(names::INSTANCES_MADE, "stream" => name()),
            versions,
        }
    }
}

impl Drop for PluginMetrics {
    fn drop(&mut self) {
        self.versions.decrement(1);
    }
}

/// Gauges of instances, set when metrics are read. Remembers which streams it has set.
#[derive(Default)]
pub struct InstanceGauges(Mutex<BTreeSet<StreamName>>);

impl InstanceGauges {
    /// Sets the gauges to `[idle, running]` of each stream, and to 0 for streams that were set
    /// before and are not in `counts`.
    pub fn show(&self, mut counts: BTreeMap<StreamName, [usize; 2]>) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now: BTreeSet<StreamName> = counts.keys().cloned().collect();
        for gone in std::mem::replace(&mut *shown, now) {
            counts.entry(gone).or_default();
        }
        for (stream, counts) in counts {
            for (state, count) in ["idle", "running"].into_iter().zip(counts) {
                gauge!(names::INSTANCES, "stream" => stream.to_string(), "state" => state)
                    .set(count as f64);
            }
        }
    }
}

/// The metrics of one stream. A series appears with its first value.
pub struct StreamMetrics {
    stream: StreamName,
    local: RouteMetrics,
    forwarded: RouteMetrics,
}

struct RouteMetrics {
    name: &'static str,
    /// By `OutcomeLabel`.
    messages: [OnceLock<Counter>; OutcomeLabel::ALL.len()],
    seconds: OnceLock<Histogram>,
}

impl StreamMetrics {
    pub fn new(stream: StreamName) -> Self {
        let route = |name| RouteMetrics {
            name,
            messages: Default::default(),
            seconds: OnceLock::new(),
        };
        Self {
            stream,
            local: route("local"),
            forwarded: route("forwarded"),
        }
    }

    /// Counts one message, and records how long it took.
    pub fn record(&self, route: Route, outcome: &Outcome, took: Duration) {
        let route = match route {
            Route::Local => &self.local,
            Route::Forwarded => &self.forwarded,
        };
        let stream = || self.stream.as_str().to_owned();
        let ending = OutcomeLabel::of(outcome);
        route.messages[ending as usize]
            .get_or_init(
                || counter!(names::MESSAGES, "stream" => stream(), "outcome" => ending.name(), "route" => route.name),
            )
            .increment(1);
        route
            .seconds
            .get_or_init(
                || histogram!(names::MESSAGE_SECONDS, "stream" => stream(), "route" => route.name),
            )
            .record(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::{OutcomeLabel, stream_of};

    #[test]
    fn every_label_has_its_place() {
        for (place, label) in OutcomeLabel::ALL.into_iter().enumerate() {
            assert_eq!(label as usize, place, "{label:?}");
        }
    }

    #[test]
    fn a_line_is_of_a_stream_or_of_none() {
        assert_eq!(
            stream_of("a_total{stream=\"echo\",outcome=\"ok\"} 1\n"),
            Some("echo")
        );
        assert_eq!(
            stream_of("a_total{outcome=\"ok\",stream=\"echo\"} 1\n"),
            Some("echo")
        );
        for other in [
            "# TYPE a_total counter\n",
            "a_total 1\n",
            "a{upstream=\"echo\"} 1\n",
            "a{type=\"x\"} 1\n",
            "\n",
        ] {
            assert_eq!(stream_of(other), None, "{other:?}");
        }
    }
}
