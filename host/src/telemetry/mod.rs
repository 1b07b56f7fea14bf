//! Telemetry: logs and metrics. Every layer may use it; it knows none.

mod logs;
mod metrics;
pub mod names;
mod throttle;

pub use logs::{BadFilter, LogFormat, init_logs};
pub use metrics::{Metrics, MetricsError, PluginMetrics, Route, StreamMetrics};
pub use throttle::Throttle;
