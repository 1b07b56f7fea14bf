//! Telemetry: logs and metrics. Every layer may use it; it uses none but the types of `message`.

mod log_queue;
mod logs;
mod metrics;
pub mod names;
mod printable;
mod throttle;

pub use logs::{BadFilter, LogFormat, Logs};
pub use metrics::{InstanceGauges, Metrics, MetricsError, PluginMetrics, Route, StreamMetrics};
pub use throttle::Throttle;
