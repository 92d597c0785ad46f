//! Metrics as text.

use prometheus_client::{encoding::text::encode, registry::Registry};

/// In which format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// What Prometheus had before (0.0.4), and what curl gets.
    Prometheus,
}

impl Format {
    /// What an `Accept` header asks for.
    pub fn accepted(header: Option<&str>) -> Self {
        let asks = header.is_some_and(|header| header.contains("application/openmetrics-text"));
        if asks { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// Its `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// All metrics of a registry.
pub fn of(registry: &Registry, format: Format) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = encode(&mut text, registry);
    match format {
        Format::OpenMetrics => text,
        Format::Prometheus => older(&text),
    }
}

/// OpenMetrics as the older format. That calls a counter by its whole name where it is described,
/// too, and knows neither units nor an end.
fn older(text: &str) -> String {
    let counters: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut older = String::with_capacity(text.len());
    for line in text.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let described = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        match described.and_then(|rest| rest.split_once(' ')) {
            Some((name, rest)) if counters.contains(&name) => {
                let keyword = &line[..line.len() - name.len() - rest.len() - 1];
                older.extend([keyword, name, "_total ", rest, "\n"]);
            }
            _ => older.extend([line, "\n"]),
        }
    }
    older
}
