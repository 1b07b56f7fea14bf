//! The queue of spans that wait to be sent, watched: what is lost is counted, and told once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use metrics::counter;
use opentelemetry::Context;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, Span, SpanData, SpanExporter as Export, SpanProcessor,
};
use tracing::{info, warn};

use super::export::Problem;
use crate::telemetry::names;

/// Counts what is in the library's queue, which keeps silent about what it drops.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: AtomicUsize,
    max: usize,
    is_full: AtomicBool,
    is_away: AtomicBool,
}

/// The library's processor of spans, behind the count.
#[derive(Debug)]
pub(super) struct Counted {
    batches: BatchSpanProcessor,
    queue: Arc<Queue>,
}

/// The library's exporter, which takes batches out of the queue.
#[derive(Debug)]
pub(super) struct Exporting {
    exporter: SpanExporter,
    queue: Arc<Queue>,
    problem: Problem,
}

impl Queue {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            waiting: AtomicUsize::new(0),
            max,
            is_full: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
        })
    }

    /// Whether there is room for one more, which is taken.
    fn enter(&self) -> bool {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < self.max {
            return true;
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        false
    }
}

impl Counted {
    pub(super) fn new(batches: BatchSpanProcessor, queue: Arc<Queue>) -> Self {
        Self { batches, queue }
    }
}

impl SpanProcessor for Counted {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.queue.enter() {
            return self.batches.on_end(span);
        }
        counter!(names::SPANS_LOST, "because" => "queue-full").increment(1);
        if !self.queue.is_full.swap(true, Ordering::Relaxed) {
            warn!(
                event = "traces-queue-full",
                queue = self.queue.max,
                "more spans than can be sent: some are dropped, and traces have gaps; have fewer requests traced (OTEL_TRACES_SAMPLER), or enlarge \
                 OTEL_BSP_MAX_QUEUE_SIZE"
            );
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

impl Exporting {
    pub(super) fn new(exporter: SpanExporter, queue: Arc<Queue>, problem: Problem) -> Self {
        Self {
            exporter,
            queue,
            problem,
        }
    }

    /// Tells once of a collector that is away, and again when it is back.
    fn note(&self, sent: &OTelSdkResult, spans: usize) {
        if sent.is_err() {
            counter!(names::SPANS_LOST, "because" => "not-taken").increment(spans as u64);
        }
        let is_away = sent.is_err();
        if self.queue.is_away.swap(is_away, Ordering::Relaxed) == is_away {
            return;
        }
        match sent {
            Err(error) => {
                let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
                let error = problem.clone().unwrap_or_else(|| error.to_string());
                warn!(
                    event = "traces-not-taken",
                    error,
                    "the collector of traces does not take them; until it does they are lost"
                );
            }
            Ok(()) => info!(
                event = "traces-taken",
                "the collector of traces takes them again"
            ),
        }
    }
}

impl Export for Exporting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.queue.waiting.fetch_sub(spans, Ordering::Relaxed);
        let sent = self.exporter.export(batch).await;
        self.note(&sent, spans);
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
