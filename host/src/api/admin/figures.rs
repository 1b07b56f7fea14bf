//! The figures of a report, read from the metrics. Pure.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::telemetry::{SECONDS_BUCKETS, Sample, names, samples};

/// What the metrics count, over both routes of a message.
#[derive(Default)]
pub(super) struct Figures {
    pub(super) client_connections: u64,
    pub(super) peer_connections: u64,
    pub(super) log_lines_dropped: u64,
    pub(super) problems: ByName,
    pub(super) streams: BTreeMap<String, StreamFigures>,
    pub(super) state: StateFigures,
}

/// Counts, by the value of a label.
type ByName = BTreeMap<String, u64>;

#[derive(Serialize, Default)]
pub(super) struct StreamFigures {
    /// By outcome.
    messages: ByName,
    /// How many took so long.
    seconds: Buckets,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct StateFigures {
    /// By outcome.
    commits: ByName,
    batches: u64,
    commits_in_batches: u64,
    /// How many batches took so long.
    seconds: Buckets,
    loads: u64,
    reruns: u64,
    replays: u64,
    refused: u64,
    sends_late: u64,
}

/// The counts of a histogram of seconds: up to each bound, those below it included, and of all. Written without those
/// below.
#[derive(Default)]
struct Buckets([u64; SECONDS_BUCKETS.len() + 1]);

impl Buckets {
    fn add(&mut self, sample: &Sample<'_>) {
        let bound = sample.label("le").and_then(|bound| bound.parse().ok());
        // The last one is written as `+Inf`.
        if let Some(bound) = bound {
            let place = SECONDS_BUCKETS.partition_point(|known| *known < bound);
            self.0[place] += sample.value as u64;
        }
    }
}

impl Serialize for Buckets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let below = std::iter::once(&0).chain(&self.0);
        let own = self.0.iter().zip(below);
        serializer.collect_seq(own.map(|(all, below)| all.saturating_sub(*below)))
    }
}

impl Figures {
    /// Reads a page of metrics in Prometheus' text format.
    pub(super) fn of(metrics: &str) -> Self {
        let mut figures = Self::default();
        for sample in samples(metrics) {
            figures.add(&sample);
        }
        figures
    }

    fn add(&mut self, sample: &Sample<'_>) {
        let value = sample.value as u64;
        let label = |name| sample.label(name).unwrap_or_default().to_owned();
        let count = |by_name: &mut ByName, name| *by_name.entry(label(name)).or_default() += value;
        let (name, part) = match sample.name.rsplit_once('_') {
            Some((name, part @ ("bucket" | "sum" | "count"))) => (name, part),
            _ => (sample.name, ""),
        };
        let state = &mut self.state;
        match (name, part) {
            (names::MESSAGES, "") => {
                let stream = self.streams.entry(label("stream")).or_default();
                count(&mut stream.messages, "outcome");
            }
            (names::MESSAGE_SECONDS, "bucket") => {
                let stream = self.streams.entry(label("stream")).or_default();
                stream.seconds.add(sample);
            }
            (names::PROBLEMS, "") => count(&mut self.problems, "type"),
            (names::CLIENT_CONNECTIONS, "") => self.client_connections = value,
            (names::PEER_CONNECTIONS, "") => self.peer_connections = value,
            (names::LOG_DROPPED | names::ACCESS_LOG_DROPPED, "") => self.log_lines_dropped += value,
            (names::STATE_COMMITS, "") => count(&mut state.commits, "outcome"),
            (names::STATE_BATCH_COMMITS, "count") => state.batches = value,
            (names::STATE_BATCH_COMMITS, "sum") => state.commits_in_batches = value,
            (names::STATE_COMMIT_SECONDS, "bucket") => state.seconds.add(sample),
            (names::STATE_LOADS, "") => state.loads = value,
            (names::STATE_RERUNS, "") => state.reruns = value,
            (names::STATE_REPLAYS, "") => state.replays = value,
            (names::STATE_REFUSED, "") => state.refused = value,
            (names::SENDS_LATE, "") => state.sends_late = value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_added_up_and_buckets_are_taken_apart() {
        let figures = Figures::of(
            "meshage_messages_total{stream=\"echo\",outcome=\"ok\",route=\"local\"} 3\n\
             meshage_messages_total{stream=\"echo\",outcome=\"ok\",route=\"forwarded\"} 2\n\
             meshage_messages_total{stream=\"echo\",outcome=\"crashed\",route=\"local\"} 1\n\
             meshage_message_duration_seconds_bucket{stream=\"echo\",route=\"local\",le=\"0.00005\"} 1\n\
             meshage_message_duration_seconds_bucket{stream=\"echo\",route=\"local\",le=\"0.0001\"} 4\n\
             meshage_message_duration_seconds_bucket{stream=\"echo\",route=\"local\",le=\"+Inf\"} 4\n\
             meshage_message_duration_seconds_bucket{stream=\"echo\",route=\"forwarded\",le=\"0.0001\"} 2\n\
             meshage_state_batch_commits_sum 9\n\
             meshage_state_batch_commits_count 4\n",
        );
        let echo = serde_json::to_value(&figures.streams["echo"]).unwrap();
        assert_eq!(echo["messages"], serde_json::json!({"ok": 5, "crashed": 1}));
        assert_eq!(echo["seconds"][0], 1);
        assert_eq!(echo["seconds"][1], 5);
        assert_eq!(
            echo["seconds"].as_array().unwrap().len(),
            SECONDS_BUCKETS.len() + 1
        );
        assert_eq!(
            (figures.state.commits_in_batches, figures.state.batches),
            (9, 4)
        );
    }
}
