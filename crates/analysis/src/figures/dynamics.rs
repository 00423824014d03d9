//! The training-dynamics figure: mean Δℓ per depth since the first injection.

use imprint_core::{Depth, Trajectory};
use serde::Serialize;

use super::chart::{Axis, Figure, LegendEntry, LegendMark, Mark, Panel, Scale, Stroke, widened};
use super::{Error, GREY, csv_of, depth_colour, depth_words};
use crate::run::{Control, RunData, interpolated, mean, mean_trajectory};

/// One arm of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicsPanel {
    pub title: String,
    /// Steps of injections since the first.
    pub exposure_steps: Vec<u32>,
    pub lines: Vec<DynamicsLine>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DynamicsLine {
    pub depth: Depth,
    pub series: Series,
    pub points: Vec<DynamicsPoint>,
}

/// Whose log-probability a line shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Series {
    /// The held-out facts, over the same steps.
    Null,
    /// The targets after another fact's subject.
    Swap,
    /// The shown facts.
    Own,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DynamicsPoint {
    /// Since each fact's own first injection.
    pub step: u32,
    /// Mean over facts of ℓ minus ℓ at the fact's first injection, nats.
    pub mean_nats: f64,
    /// Standard error over facts; `None` of a single fact and of the null.
    pub se_nats: Option<f64>,
}

impl DynamicsPanel {
    /// The dynamics of one arm; facts are aligned at their own first injections, so that a
    /// staggered schedule reads like a simple one.
    pub fn new(run: &RunData, arm: &str) -> Self {
        let mut exposure_steps: Vec<u32> = run
            .shown(arm)
            .flat_map(|f| f.exposure_steps.iter().map(|s| s - f.exposure_steps[0]))
            .collect();
        exposure_steps.sort_unstable();
        exposure_steps.dedup();
        let mut lines = Vec::new();
        for depth in Depth::ALL {
            let held_out = run.held_out(depth);
            let null: Vec<&Trajectory> = held_out.iter().flat_map(|h| h.probes.clone()).collect();
            let null = mean_trajectory(&null);
            for series in [Series::Null, Series::Swap, Series::Own] {
                let of_facts: Vec<(u32, Trajectory)> = run
                    .shown(arm)
                    .filter_map(|f| {
                        let own_or_swap = |control| {
                            let probes = run.series(f.fact, depth, control);
                            let probes: Vec<&Trajectory> =
                                probes.iter().map(|p| &p.trajectory).collect();
                            mean_trajectory(&probes)
                        };
                        let trajectory = match series {
                            Series::Null => null.clone(),
                            Series::Swap => own_or_swap(Control::Swap),
                            Series::Own => own_or_swap(Control::Own),
                        };
                        (!trajectory.is_empty()).then_some((f.exposure_steps[0], trajectory))
                    })
                    .collect();
                let points = aligned(&of_facts, series);
                if !points.is_empty() {
                    lines.push(DynamicsLine {
                        depth,
                        series,
                        points,
                    });
                }
            }
        }
        Self {
            title: format!("{arm}, batch {}", run.batch_size),
            exposure_steps,
            lines,
        }
    }
}

/// Means over facts at the steps since their first injections that all of them have.
fn aligned(of_facts: &[(u32, Trajectory)], series: Series) -> Vec<DynamicsPoint> {
    let span = |(first, t): &(u32, Trajectory)| t.steps().last()?.checked_sub(*first);
    let n_steps = of_facts.iter().filter_map(span).min().unwrap_or(0);
    (0..=n_steps)
        .filter_map(|step| {
            let gains: Vec<f64> = of_facts
                .iter()
                .map(|(first, t)| Some(interpolated(t, first + step)? - interpolated(t, *first)?))
                .collect::<Option<_>>()?;
            let n = gains.len() as f64;
            let mean_nats = mean(&gains);
            let squares: f64 = gains.iter().map(|g| (g - mean_nats).powi(2)).sum();
            let has_se = gains.len() > 1 && series != Series::Null;
            (!gains.is_empty()).then(|| DynamicsPoint {
                step,
                mean_nats,
                se_nats: has_se.then(|| (squares / (n - 1.0) / n).sqrt()),
            })
        })
        .collect()
}

/// More points than this on a line cannot be told apart in print.
const MAX_POINTS: usize = 800;

/// The figure as SVG: a panel per arm and run, `n_columns` panels in a row, all on the same axes.
///
/// Dotted vertical lines are injections, grey lines the null of each depth, dashed ones the swap;
/// bands are standard errors over facts.
///
/// # Errors
/// When no panel has a point.
pub fn training_dynamics(panels: &[DynamicsPanel], n_columns: usize) -> Result<String, Error> {
    let points = || panels.iter().flat_map(|p| &p.lines).flat_map(|l| &l.points);
    let max_step = points().map(|p| p.step).max().ok_or(Error::Empty)?;
    let ends = points().flat_map(|p| {
        let reach = p.se_nats.unwrap_or(0.0);
        [p.mean_nats - reach, p.mean_nats + reach]
    });
    let (low, high) = ends.fold((0.0, 0.0), |(low, high): (f64, f64), v| {
        (low.min(v), high.max(v))
    });
    let (min, max) = widened(low, high);
    let figure = Figure {
        n_columns,
        x: Axis {
            label: "steps since the fact’s first injection",
            scale: Scale::Linear,
            // A little before 0, so that the first injection does not hide in the axis.
            min: -0.02 * f64::from(max_step.max(1)),
            max: f64::from(max_step.max(1)),
        },
        y: Axis {
            label: "change of log-probability Δℓ (nats)",
            scale: Scale::Linear,
            min,
            max,
        },
        legend: legend(panels),
        panels: panels.iter().map(panel).collect(),
    };
    Ok(figure.to_svg())
}

fn stroke(depth: Depth, series: Series) -> Stroke {
    match series {
        Series::Own => Stroke {
            colour: depth_colour(depth),
            width: 1.3,
            dashes: "",
        },
        Series::Swap => Stroke {
            colour: depth_colour(depth),
            width: 0.9,
            dashes: "3.5 2",
        },
        Series::Null => Stroke {
            colour: GREY,
            width: 0.9,
            dashes: "",
        },
    }
}

const INJECTION: Stroke = Stroke {
    colour: GREY,
    width: 0.8,
    dashes: "1 2",
};

fn legend(panels: &[DynamicsPanel]) -> Vec<LegendEntry> {
    let lines = || panels.iter().flat_map(|p| &p.lines);
    let mut entries: Vec<LegendEntry> = Depth::ALL
        .into_iter()
        .filter(|depth| lines().any(|l| (l.depth, l.series) == (*depth, Series::Own)))
        .map(|depth| LegendEntry {
            label: depth_words(depth).to_owned(),
            mark: LegendMark::Line(stroke(depth, Series::Own)),
        })
        .collect();
    if lines().any(|l| l.series == Series::Swap) {
        entries.push(LegendEntry {
            label: "other subject (swap)".to_owned(),
            mark: LegendMark::Line(Stroke {
                colour: "#222222",
                ..stroke(Depth::Mem, Series::Swap)
            }),
        });
    }
    if lines().any(|l| l.series == Series::Null) {
        entries.push(LegendEntry {
            label: "held out (null)".to_owned(),
            mark: LegendMark::Line(stroke(Depth::Mem, Series::Null)),
        });
    }
    entries.push(LegendEntry {
        label: "injection".to_owned(),
        mark: LegendMark::Line(INJECTION),
    });
    entries
}

fn panel(panel: &DynamicsPanel) -> Panel {
    let mut marks = vec![Mark::Horizontal { y: 0.0 }];
    marks.extend(panel.exposure_steps.iter().map(|&step| Mark::Vertical {
        stroke: INJECTION,
        x: f64::from(step),
    }));
    let mut lines: Vec<&DynamicsLine> = panel.lines.iter().collect();
    lines.sort_by_key(|l| l.series);
    for line in lines {
        let stride = line.points.len().div_ceil(MAX_POINTS).max(1);
        let points = || line.points.iter().step_by(stride);
        let band: Vec<(f64, f64, f64)> = points()
            .filter_map(|p| {
                let se = p.se_nats?;
                Some((f64::from(p.step), p.mean_nats - se, p.mean_nats + se))
            })
            .collect();
        if line.series == Series::Own && !band.is_empty() {
            marks.push(Mark::Band {
                colour: depth_colour(line.depth),
                points: band,
            });
        }
        marks.push(Mark::Line {
            stroke: stroke(line.depth, line.series),
            points: points().map(|p| (f64::from(p.step), p.mean_nats)).collect(),
        });
    }
    Panel {
        title: panel.title.clone(),
        marks,
        notes: Vec::new(),
    }
}

#[derive(Serialize)]
struct CsvRow<'a> {
    panel: &'a str,
    depth: Depth,
    series: Series,
    step: u32,
    mean_nats: f64,
    se_nats: Option<f64>,
}

/// The points of the figure as CSV, none left out.
pub fn training_dynamics_csv(panels: &[DynamicsPanel]) -> String {
    let rows = panels.iter().flat_map(|panel| {
        panel.lines.iter().flat_map(|line| {
            line.points.iter().map(|point| CsvRow {
                panel: &panel.title,
                depth: line.depth,
                series: line.series,
                step: point.step,
                mean_nats: point.mean_nats,
                se_nats: point.se_nats,
            })
        })
    });
    csv_of(rows)
}
