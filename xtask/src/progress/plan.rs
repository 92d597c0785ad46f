//! What is left of a plan and about how long it takes: as long as last time on this computer, else
//! a rough guess.

use crate::product;
use indicatif::ProgressBar;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Seconds on a computer with two processors that has nothing yet.
const GUESSES: &[(&str, f64)] = &[
    ("asking the mirrors what they have (apt-get update)", 10.0),
    ("installing packages (apt-get install)", 60.0),
    ("compiling scx_mosix", 420.0),
    ("building the guests' image", 180.0),
];

/// How long each step took last time, kept in the target directory.
#[derive(Default)]
pub struct Durations {
    seconds: BTreeMap<String, f64>,
    file: Option<PathBuf>,
}

impl Durations {
    /// What is known on this computer.
    pub fn load() -> Self {
        let file = product::target_dir().join("step-durations.json");
        // Without the file, or with one of another version, the guesses hold.
        let text = fs::read_to_string(&file).unwrap_or_default();
        Self { seconds: serde_json::from_str(&text).unwrap_or_default(), file: Some(file) }
    }

    fn of(&self, what: &str) -> Option<f64> {
        let guess = || GUESSES.iter().find(|(name, _)| *name == what).map(|&(_, seconds)| seconds);
        self.seconds.get(&general(what)).copied().or_else(guess)
    }

    fn note(&mut self, what: &str, seconds: f64) {
        self.seconds.insert(general(what), (seconds * 10.0).round() / 10.0);
        if let (Some(file), Ok(text)) = (&self.file, serde_json::to_string_pretty(&self.seconds)) {
            // Only an estimate is lost where this fails. Another xtask may write it too: whole
            // files only.
            let part = file.with_extension(format!("json.{}", std::process::id()));
            let _ = fs::write(&part, text).and_then(|()| fs::rename(&part, file));
        }
    }
}

/// Steps that differ in a number only take equally long.
fn general(what: &str) -> String {
    what.chars().filter(|c| !c.is_ascii_digit()).collect()
}

struct Planned {
    name: String,
    begun: Option<Instant>,
    part: Option<f64>,
    ended: bool,
}

/// Stages of steps, some under way, some done.
pub struct Plan {
    durations: Durations,
    stages: Vec<Vec<Planned>>,
    /// The line that shows what is left.
    pub total: Option<ProgressBar>,
}

impl Plan {
    /// Nothing is planned.
    pub fn new(durations: Durations) -> Self {
        Self { durations, stages: Vec::new(), total: None }
    }

    /// Plans stages, one after the other, each of steps at the same time.
    pub fn expect(&mut self, stages: &[&[&str]]) {
        let planned = |name: &&str| Planned { name: (*name).to_owned(), begun: None, part: None, ended: false };
        self.stages = stages.iter().map(|stage| stage.iter().map(planned).collect()).collect();
    }

    fn find(&mut self, what: &str) -> Option<&mut Planned> {
        self.stages.iter_mut().flatten().find(|planned| planned.name == what && !planned.ended)
    }

    /// A step, planned or not, begins. Returns how many seconds it usually takes.
    pub fn begin(&mut self, what: &str, now: Instant) -> Option<f64> {
        if let Some(planned) = self.find(what) {
            planned.begun = Some(now);
        }
        self.durations.of(what)
    }

    /// A step has done this much of its work.
    pub fn at(&mut self, what: &str, done: u64, total: u64) {
        if let Some(planned) = self.find(what)
            && total > 0
        {
            planned.part = Some(done as f64 / total as f64);
        }
    }

    /// A step has ended well.
    pub fn end(&mut self, what: &str, took: Duration) {
        self.durations.note(what, took.as_secs_f64());
        if let Some(planned) = self.find(what) {
            planned.ended = true;
        }
    }

    /// Seconds until all that is planned has ended.
    pub fn left(&self, now: Instant) -> f64 {
        let step = |planned: &Planned| {
            let usual = self.durations.of(&planned.name).unwrap_or(0.0);
            match (planned.ended, planned.begun, planned.part) {
                (true, ..) => 0.0,
                (_, None, _) => usual,
                // What it has done so far says more than last time did.
                (_, Some(begun), Some(part)) if part > 0.05 => {
                    now.duration_since(begun).as_secs_f64() * (1.0 - part) / part
                }
                (_, Some(begun), _) => (usual - now.duration_since(begun).as_secs_f64()).max(0.0),
            }
        };
        self.stages.iter().map(|stage| stage.iter().map(step).fold(0.0, f64::max)).sum()
    }
}

/// A duration as one says it.
pub fn about(seconds: f64) -> String {
    if seconds < 90.0 { format!("about {seconds:.0} s") } else { format!("about {:.0} min", seconds / 60.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let seconds = [("compile", 100.0), ("image", 60.0), ("boot n", 10.0)];
        let seconds = seconds.map(|(name, seconds)| (name.to_owned(), seconds)).into();
        let mut plan = Plan::new(Durations { seconds, file: None });
        plan.expect(&[&["compile", "image"], &["boot n1", "boot n2"]]);
        plan
    }

    #[test]
    fn stages_add_up_and_steps_of_one_stage_overlap() {
        assert_eq!(plan().left(Instant::now()), 110.0);
    }

    #[test]
    fn what_has_ended_is_no_longer_left() {
        let mut plan = plan();
        plan.end("compile", Duration::from_secs(80));
        assert_eq!(plan.left(Instant::now()), 70.0);
        assert_eq!(plan.durations.of("compile"), Some(80.0));
    }

    #[test]
    fn a_step_under_way_counts_what_it_still_needs() {
        let mut plan = plan();
        let begun = Instant::now();
        plan.begin("compile", begun);
        assert_eq!(plan.left(begun + Duration::from_secs(30)), 80.0);
        // It is slower than last time: a quarter is done after 50 s.
        plan.at("compile", 25, 100);
        assert_eq!(plan.left(begun + Duration::from_secs(50)), 160.0);
    }

    #[test]
    fn an_overdue_step_never_counts_less_than_nothing() {
        let mut plan = plan();
        let begun = Instant::now();
        plan.begin("boot n1", begun);
        plan.end("boot n2", Duration::from_secs(10));
        assert_eq!(plan.left(begun + Duration::from_secs(500)), 100.0);
    }

    #[test]
    fn durations_are_said_in_the_unit_that_fits() {
        assert_eq!(about(42.4), "about 42 s");
        assert_eq!(about(400.0), "about 7 min");
    }
}
