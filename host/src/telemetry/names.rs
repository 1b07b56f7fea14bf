//! The names of the metrics, as `docs/http-api.md` lists them.

/// Counter by `stream`, `outcome` and `route` (`local`, `forwarded`).
pub const MESSAGES: &str = "meshage_messages_total";
/// Histogram by `stream` and `route`, in seconds.
pub const MESSAGE_SECONDS: &str = "meshage_message_duration_seconds";
/// Gauge: the live nodes of the view other than this one.
pub const PEERS: &str = "meshage_peers";
/// Gauge: open connections to peers.
pub const PEER_CONNECTIONS: &str = "meshage_peer_connections";
/// Gauge: open connections of clients.
pub const CLIENT_CONNECTIONS: &str = "meshage_client_connections";
/// Gauge by `stream` and `state` (`idle`, `running`).
pub const INSTANCES: &str = "meshage_instances";
/// Counter by `type`: problems that this node sent as responses.
pub const PROBLEMS: &str = "meshage_problems_total";
/// Counter by `stream` and `because`: messages that went on to the next in rank.
pub const FAILOVERS: &str = "meshage_failovers_total";
/// Counter by `because`: messages of peers that this node refused.
pub const FORWARDS_REFUSED: &str = "meshage_forwards_refused_total";
/// Counter by `state`: changes of the peers' breakers.
pub const BREAKER_CHANGES: &str = "meshage_breaker_changes_total";
/// Counter by `change` (`seen`, `gone`): changes of the view.
pub const VIEW_CHANGES: &str = "meshage_view_changes_total";
/// Counter by `direction` (`sent`, `received`): payload of gossip's datagrams.
pub const GOSSIP_BYTES: &str = "meshage_gossip_bytes_total";
/// Counter by `because`: datagrams that are not gossip of this mesh.
pub const GOSSIP_REJECTED: &str = "meshage_gossip_rejected_total";
/// Counter by `because`: checks of a seed, one a second for each, that found something wrong.
pub const SEED_PROBLEMS: &str = "meshage_seed_problems_total";
/// Counter by `stream`: messages that ran on this node's own plugin, from clients and peers.
pub const CALLS: &str = "meshage_calls_total";
/// Counter: components that were compiled because the compile cache did not have them.
pub const COMPILED: &str = "meshage_components_compiled_total";
/// Counter by `stream`: instances that were made, the first one of each version included.
pub const INSTANCES_MADE: &str = "meshage_instances_made_total";
/// Gauge by `stream`: versions in memory; one while nothing is being replaced.
pub const PLUGIN_VERSIONS: &str = "meshage_plugin_versions";
/// Counter: log lines that were dropped because the queue was full or they could not be written.
pub const LOG_DROPPED: &str = "meshage_log_lines_dropped_total";
