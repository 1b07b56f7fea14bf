//! The metrics: their names, and what Prometheus tells of them. `docs/http-api.md` lists them.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};

/// Each with its labels in the comment, its name, and its description.
macro_rules! metrics {
    ($($(#[$comment:meta])* $describe:ident $constant:ident = $name:literal, $($unit:path,)? $text:literal;)+) => {
        $($(#[$comment])* pub const $constant: &str = $name;)+

        /// Describes all of them to the recorder of this process.
        pub(super) fn describe() {
            $($describe!($name, $($unit,)? $text);)+
        }
    };
}

metrics! {
    /// Counter by `stream`, `outcome` and `route` (`local`, `forwarded`).
    describe_counter MESSAGES = "meshage_messages_total", "Messages that this node was asked to send, by stream, outcome and route.";
    /// Histogram by `stream` and `route`, in seconds.
    describe_histogram MESSAGE_SECONDS = "meshage_message_duration_seconds", Unit::Seconds, "From the whole request to its outcome.";
    /// Gauge: the live nodes of the view other than this one.
    describe_gauge PEERS = "meshage_peers", "Live nodes in this node's view, itself not counted.";
    /// Gauge: open connections to peers.
    describe_gauge PEER_CONNECTIONS = "meshage_peer_connections", "Open connections to peers.";
    /// Gauge: open connections of clients.
    describe_gauge CLIENT_CONNECTIONS = "meshage_client_connections", "Open connections of clients.";
    /// Gauge by `stream` and `state` (`idle`, `running`).
    describe_gauge INSTANCES = "meshage_instances", "Component instances, by stream and state.";
    /// Counter by `type`: problems that this node sent as responses.
    describe_counter PROBLEMS = "meshage_problems_total", "Problems that this node answered, by their type.";
    /// Counter by `stream` and `because`: messages that went on to the next in rank.
    describe_counter FAILOVERS = "meshage_failovers_total", "Messages that went on to the next in rank, by stream and cause.";
    /// Counter by `because`: messages of peers that this node refused.
    describe_counter FORWARDS_REFUSED = "meshage_forwards_refused_total", "Messages of peers that this node refused, by cause.";
    /// Counter by `state`: changes of the peers' breakers.
    describe_counter BREAKER_CHANGES = "meshage_breaker_changes_total", "Changes of the peers' breakers, by the new state.";
    /// Counter by `change` (`seen`, `gone`): changes of the view.
    describe_counter VIEW_CHANGES = "meshage_view_changes_total", "Nodes that came, changed or went in this node's view.";
    /// Counter by `direction` (`sent`, `received`): payload of gossip's datagrams.
    describe_counter GOSSIP_BYTES = "meshage_gossip_bytes_total", Unit::Bytes, "Payload of gossip's datagrams, by direction.";
    /// Counter by `because`: datagrams that are not gossip of this mesh.
    describe_counter GOSSIP_REJECTED = "meshage_gossip_rejected_total", "Datagrams that are no gossip of this mesh, by cause.";
    /// Counter by `because`: checks of a seed, one a second for each, that found something wrong.
    describe_counter SEED_PROBLEMS = "meshage_seed_problems_total", "Looks at a seed, one a second, that found it wrong, by cause.";
    /// Counter by `stream`: messages that ran on this node's own plugin, from clients and peers.
    describe_counter CALLS = "meshage_calls_total", "Messages that ran on this node's own plugin, whoever sent them.";
    /// Counter: components that were compiled because the compile cache did not have them.
    describe_counter COMPILED = "meshage_components_compiled_total", "Components that were compiled, as the compile cache did not have them.";
    /// Counter by `stream`: instances that were made, the first one of each version included.
    describe_counter INSTANCES_MADE = "meshage_instances_made_total", "Component instances that were made, the first of each version included.";
    /// Gauge by `stream`: versions in memory; one while nothing is being replaced.
    describe_gauge PLUGIN_VERSIONS = "meshage_plugin_versions", "Versions of plugins in memory, those that only finish what they run included.";
    /// Counter by `outcome`: commits of entities.
    describe_counter STATE_COMMITS = "meshage_state_commits_total", "Commits of entities, by how they ended.";
    /// Histogram: commits in one batch.
    describe_histogram STATE_BATCH_COMMITS = "meshage_state_batch_commits", "Commits that went to the store together.";
    /// Histogram, in seconds: the time of one batch.
    describe_histogram STATE_COMMIT_SECONDS = "meshage_state_commit_duration_seconds", Unit::Seconds, "How long the store took for one batch of commits.";
    /// Counter: entities that were loaded from the store.
    describe_counter STATE_LOADS = "meshage_state_loads_total", "Entities that were loaded from the store.";
    /// Counter: runs that were repeated because the state was outdated.
    describe_counter STATE_RERUNS = "meshage_state_reruns_total", "Runs of handlers that were repeated, as another node had committed in between.";
    /// Counter: messages that got the reply of one that they repeat.
    describe_counter STATE_REPLAYS = "meshage_state_replays_total", "Messages that took effect before, and got the same reply again.";
    /// Counter: messages that were refused because the store does not work.
    describe_counter STATE_REFUSED = "meshage_state_refused_total", "Messages of stateful streams that were refused, as the store does not work.";
    /// Counter: deliveries of what handlers have sent, by how they ended.
    describe_counter SENDS = "meshage_sends_total", "Deliveries of messages that handlers have sent, by how they ended.";
    /// Counter: deliveries that began a second or more after the message was due.
    describe_counter SENDS_LATE = "meshage_sends_late_total", "Deliveries that began a second or more after the message was due.";
    /// Gauge: entities in memory.
    describe_gauge STATE_ENTITIES = "meshage_state_active_entities", "Entities in memory, cached ones included.";
    /// Gauge: the memory that they take.
    describe_gauge STATE_CACHED_BYTES = "meshage_state_cached_bytes", Unit::Bytes, "Memory of entities and their values, as the node estimates it.";
    /// Counter: lines of the access log that were dropped, for the same reasons as those of the log.
    describe_counter ACCESS_LOG_DROPPED = "meshage_access_log_lines_dropped_total", "Lines of the access log that were dropped, as nobody took it.";
    /// Counter: log lines that were dropped because the queue was full or they could not be written.
    describe_counter LOG_DROPPED = "meshage_log_lines_dropped_total", "Lines of the log that were dropped, as nobody took it.";
    /// Counter by `because` (`queue-full`, `not-taken`).
    describe_counter SPANS_LOST = "meshage_spans_lost_total", "Spans of traces that were lost, by cause.";
    /// Gauge: peers that messages cannot reach at the moment.
    describe_gauge OPEN_BREAKERS = "meshage_open_breakers", "Peers that this node does not reach at the moment.";
}

/// Has the counters of what is rare begin at 0: of one that begins with its first value Prometheus sees no increase.
pub(super) fn begin() {
    for name in [LOG_DROPPED, ACCESS_LOG_DROPPED, STATE_REFUSED] {
        counter!(name).increment(0);
    }
    for because in ["queue-full", "not-taken"] {
        counter!(SPANS_LOST, "because" => because).increment(0);
    }
    for state in ["closed", "half-open", "open"] {
        counter!(BREAKER_CHANGES, "state" => state).increment(0);
    }
}
