//! Telemetry: logs and metrics. Every layer may use it; it uses none but the types of `message`.

mod access_log;
mod events;
mod log_queue;
mod logs;
mod metrics;
pub mod names;
mod printable;
mod samples;
mod stage_clock;
mod throttle;
pub mod traces;

pub use access_log::{Access, AccessLog, Stages};
pub use events::{Event, Events};
pub use logs::{BadFilter, LogFormat, Logs};
pub use metrics::{
    InstanceGauges, Metrics, MetricsError, PluginMetrics, Route, SECONDS_BUCKETS, StreamMetrics,
};
pub use samples::{Sample, samples};
pub use stage_clock::StageClock;
pub use throttle::Throttle;
pub use traces::{Root, Sampler, TracesConfig, TracesError};
