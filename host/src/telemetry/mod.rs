//! Telemetry: logs and metrics. Every layer may use it; it knows none.

mod logs;
mod metrics;
pub mod names;

pub use logs::{BadFilter, LogFormat, init_logs};
pub use metrics::{Metrics, MetricsError, PluginMetrics, Route, StreamMetrics};
