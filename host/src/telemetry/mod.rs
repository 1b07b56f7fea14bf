//! Telemetry: logs and metrics. Every layer may use it; it uses none but the types of `message`.

mod events;
mod log_queue;
mod logs;
mod metrics;
pub mod names;
mod printable;
mod samples;
mod throttle;

pub use events::{Event, Events};
pub use logs::{BadFilter, LogFormat, Logs};
pub use metrics::{
    InstanceGauges, Metrics, MetricsError, PluginMetrics, Route, SECONDS_BUCKETS, StreamMetrics,
};
pub use samples::{Sample, samples};
pub use throttle::Throttle;
