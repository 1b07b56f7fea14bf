//! The metrics registry, and the handles of the request path: looked up once for each stream, then
//! a few atomic additions for each message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::names;
use crate::message::{FailureKind, Fault, LimitKind, Outcome, Refusal, StreamName};

/// Upper bounds of the latency histogram, in seconds: from a local echo to the default timeout.
const SECONDS_BUCKETS: [f64; 14] = [
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
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
            .expect("there are buckets")
            .build_recorder();
        let handle = recorder.handle();
        ::metrics::set_global_recorder(recorder).map_err(|_| MetricsError)?;
        describe();
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

fn describe() {
    describe_counter!(
        names::MESSAGES,
        "Messages that this node was asked to send, by stream, outcome and route."
    );
    describe_histogram!(
        names::MESSAGE_SECONDS,
        Unit::Seconds,
        "From the whole request to its outcome."
    );
    describe_counter!(
        names::PROBLEMS,
        "Problems that this node answered, by their type."
    );
    describe_gauge!(
        names::PEERS,
        "Live nodes in this node's view, itself not counted."
    );
    describe_gauge!(names::PEER_CONNECTIONS, "Open connections to peers.");
    describe_gauge!(names::CLIENT_CONNECTIONS, "Open connections of clients.");
    describe_gauge!(
        names::INSTANCES,
        "Component instances, by stream and state."
    );
    describe_counter!(
        names::INSTANCES_MADE,
        "Component instances that were made, the first of each version included."
    );
    describe_gauge!(
        names::PLUGIN_VERSIONS,
        "Versions of plugins in memory, those that only finish what they run included."
    );
    describe_counter!(
        names::FAILOVERS,
        "Messages that went on to the next in rank, by stream and cause."
    );
    describe_counter!(
        names::FORWARDS_REFUSED,
        "Messages of peers that this node refused, by cause."
    );
    describe_counter!(
        names::BREAKER_CHANGES,
        "Changes of the peers' breakers, by the new state."
    );
    describe_counter!(
        names::VIEW_CHANGES,
        "Nodes that came, changed or went in this node's view."
    );
    describe_counter!(
        names::GOSSIP_BYTES,
        Unit::Bytes,
        "Payload of gossip's datagrams, by direction."
    );
    describe_counter!(
        names::GOSSIP_REJECTED,
        "Datagrams that are no gossip of this mesh, by cause."
    );
    describe_counter!(
        names::SEED_PROBLEMS,
        "Looks at a seed, one a second, that found it wrong, by cause."
    );
    describe_counter!(
        names::COMPILED,
        "Components that were compiled, as the compile cache did not have them."
    );
    describe_counter!(
        names::LOG_DROPPED,
        "Lines of the log that were dropped, as nobody took it."
    );
    describe_counter!(
        names::CALLS,
        "Messages that ran on this node's own plugin, whoever sent them."
    );
}

/// Where a message ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    Local,
    Forwarded,
}

/// Values of the label `outcome`, by `outcome_index`.
const OUTCOMES: [&str; 14] = [
    "ok",
    "invalid",
    "not_found",
    "conflict",
    "unavailable",
    "internal",
    "crashed",
    "deadline",
    "refused",
    "overloaded",
    "unreachable",
    "lost",
    "limit",
    "other",
];

fn outcome_index(outcome: &Outcome) -> usize {
    match outcome {
        Ok(_) => 0,
        Err(Fault::Failure(failure)) => match failure.kind {
            FailureKind::Invalid => 1,
            FailureKind::NotFound => 2,
            FailureKind::Conflict => 3,
            FailureKind::Unavailable => 4,
            FailureKind::Internal => 5,
        },
        Err(Fault::Crashed) => 6,
        Err(Fault::DeadlineExceeded | Fault::Refused(Refusal::WaitedTooLong)) => 7,
        Err(Fault::LimitExceeded(limit)) if limit.kind == LimitKind::Time => 7,
        Err(Fault::LimitExceeded(_)) => 12,
        Err(Fault::Refused(Refusal::Overloaded | Refusal::QueueFull | Refusal::NoRoom)) => 9,
        Err(Fault::Refused(_)) => 8,
        Err(Fault::Unreachable | Fault::NoCandidate) => 10,
        Err(Fault::Lost) => 11,
        Err(Fault::Foreign(_)) => 13,
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
    outcomes: [OnceLock<Counter>; OUTCOMES.len()],
    seconds: OnceLock<Histogram>,
}

impl StreamMetrics {
    pub fn new(stream: StreamName) -> Self {
        let route = |name| RouteMetrics {
            name,
            outcomes: Default::default(),
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
        let index = outcome_index(outcome);
        route.outcomes[index]
            .get_or_init(
                || counter!(names::MESSAGES, "stream" => stream(), "outcome" => OUTCOMES[index], "route" => route.name),
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
    use super::stream_of;

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
