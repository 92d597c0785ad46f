//! Plots of one run under each policy.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use plotters::{
    coord::ranged1d::{AsRangedCoord, ValueFormatter},
    prelude::*,
};
use scx_mosix::sim::{PolicyName, Scenario, Trace, trace};

/// The loads of a run are looked at so many times.
const LOOKS: f64 = 400.0;
/// Points of a distribution that are drawn.
const POINTS: usize = 500;
const SIZE: (u32, u32) = (960, 600);

type Curve = (PolicyName, Vec<(f64, f64)>);

/// Draws the slowdowns' distributions, the mean load over time, and the ages of what machines know
/// if they gossip.
pub(crate) fn draw(scenario: &Scenario, seed: u64, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let period_s = scenario.arrivals.until_s / LOOKS;
    let (mut slowdowns, mut loads, mut ages) = (Vec::new(), Vec::new(), Vec::new());
    for policy in PolicyName::ALL {
        let Trace { mut outcome, loads: over_time, ages_s } = trace(scenario, policy, seed, period_s);
        outcome.slowdowns.sort_by(f64::total_cmp);
        slowdowns.push((policy, distribution(&outcome.slowdowns)));
        loads.push((policy, over_time));
        ages.push((policy, distribution(&ages_s)));
    }
    // What machines know does not depend on the policy: those that come and go do not either.
    ages.retain(|(policy, points)| *policy == PolicyName::ScxMosixReal && !points.is_empty());
    let at = |what: &str| dir.join(format!("{}-{what}.svg", scenario.name));
    let of_jobs = ("slowdown", "share of jobs with at most this");
    chart(&at("slowdown"), scenario, of_jobs, &slowdowns, |x| (1.0..x.max(1.1)).log_scale())?;
    chart(&at("load"), scenario, ("time, s", "mean load"), &loads, |x| 0.0..x)?;
    if !ages.is_empty() {
        let of_words = ("age, s", "share of what machines know of others at most this old");
        chart(&at("age"), scenario, of_words, &ages, |x| 0.0..x)?;
    }
    Ok(())
}

/// Of ascending values, the share that is not above each.
fn distribution(values: &[f64]) -> Vec<(f64, f64)> {
    let at = |index: usize| Some((*values.get(index)?, (index + 1) as f64 / values.len() as f64));
    let last = values.len().saturating_sub(1);
    let mut indices: Vec<usize> = (0..=POINTS).map(|point| last * point / POINTS).collect();
    indices.dedup();
    indices.into_iter().filter_map(at).collect()
}

/// Draws curves; `range` makes the abscissa from the greatest value on it.
fn chart<X>(
    file: &Path,
    scenario: &Scenario,
    (x_name, y_name): (&str, &str),
    curves: &[Curve],
    range: impl Fn(f64) -> X,
) -> Result<()>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let points = || curves.iter().flat_map(|(_, points)| points);
    let most_x = points().map(|point| point.0).fold(0.0, f64::max);
    let most_y = points().map(|point| point.1).fold(0.0, f64::max);
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    let drawn = || -> Result<(), DrawingAreaErrorKind<<SVGBackend<'_> as DrawingBackend>::ErrorType>> {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{}: {}", scenario.name, scenario.about), ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(range(most_x), 0.0..most_y.max(f64::MIN_POSITIVE) * 1.05)?;
        chart.configure_mesh().x_desc(x_name).y_desc(y_name).draw()?;
        for (index, (policy, points)) in curves.iter().enumerate() {
            let colour = Palette99::pick(index).to_rgba();
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
                .label(policy.to_string())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        let labels = &mut chart.configure_series_labels();
        labels.position(SeriesLabelPosition::LowerRight).background_style(WHITE).border_style(BLACK).draw()?;
        area.present()
    };
    drawn().map_err(|error| anyhow!("cannot draw {}: {error}", file.display()))
}
