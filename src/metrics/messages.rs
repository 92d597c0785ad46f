//! What this daemon logged. Something is wrong where errors are counted; the log says what.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
    registry::Registry,
};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Counted for the whole process, as its log is.
static ERRORS: AtomicU64 = AtomicU64::new(0);
static WARNINGS: AtomicU64 = AtomicU64::new(0);

/// Counts what is logged.
pub struct CountMessages;

impl<S: Subscriber> Layer<S> for CountMessages {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        match *event.metadata().level() {
            Level::ERROR => ERRORS.fetch_add(1, Ordering::Relaxed),
            Level::WARN => WARNINGS.fetch_add(1, Ordering::Relaxed),
            _ => return,
        };
    }
}

/// Messages by level.
#[derive(Debug)]
pub struct Messages;

impl Messages {
    pub fn define(registry: &mut Registry) {
        registry.register_collector(Box::new(Self));
    }
}

impl Collector for Messages {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Errors and warnings that the daemon logged.";
        let mut family = encoder.encode_descriptor("log_messages", help, None, MetricType::Counter)?;
        for (level, count) in [("error", &ERRORS), ("warning", &WARNINGS)] {
            let labels = [("level", level)];
            ConstCounter::new(count.load(Ordering::Relaxed)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
