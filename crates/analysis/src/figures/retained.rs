//! The retainability figure: R against log t with the fitted lines.

use imprint_core::Depth;
use serde::Serialize;

use super::chart::{Axis, Figure, LegendEntry, LegendMark, Mark, Panel, Scale, Shape, Stroke};
use super::{Error, csv_of, depth_colour, depth_words};
use crate::fit::DecayFit;
use crate::summary::GroupAnalysis;

/// One arm of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct RetainabilityPanel {
    pub title: String,
    pub lines: Vec<RetainabilityLine>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RetainabilityLine {
    pub depth: Depth,
    /// (t in steps, R), log-binned.
    pub points: Vec<(f64, f64)>,
    /// The line through these points.
    pub fit: DecayFit,
}

impl RetainabilityPanel {
    /// The robust curves of one arm; a depth without enough gain to speak of retention has none.
    pub fn new(groups: &[GroupAnalysis], arm: &str) -> Self {
        let of_arm = || groups.iter().filter(|g| g.row.arm == arm);
        let lines = of_arm().filter_map(|g| {
            let retainability = g.retainability.as_ref()?;
            Some(RetainabilityLine {
                depth: g.row.depth,
                points: retainability.robust_curve()?.log_binned(),
                fit: retainability.robust_fit()?,
            })
        });
        Self {
            title: match of_arm().next() {
                Some(g) => format!("{arm}, batch {}", g.row.batch_size),
                None => arm.to_owned(),
            },
            lines: lines.collect(),
        }
    }
}

/// R outside this range is noise over a small denominator: it is in the CSV, not in the picture.
const R_RANGE: (f64, f64) = (-0.6, 1.6);

/// The figure as SVG: a panel per arm and run, `n_columns` panels in a row, all on the same axes.
///
/// With the batch sizes as columns and the scenarios as rows they can be compared side by side.
///
/// # Errors
/// When no panel has a point.
pub fn retainability(panels: &[RetainabilityPanel], n_columns: usize) -> Result<String, Error> {
    let points = || panels.iter().flat_map(|p| &p.lines).flat_map(|l| &l.points);
    let max_t = points().map(|p| p.0).reduce(f64::max).ok_or(Error::Empty)?;
    let (low, high) = points().fold((0.0, 1.0), |(low, high): (f64, f64), (_, r)| {
        (low.min(*r), high.max(*r))
    });
    let figure = Figure {
        n_columns,
        x: Axis {
            label: "steps t after t_{LAM} (log scale)",
            scale: Scale::Log10,
            min: 0.92,
            max: max_t.max(10.0) * 1.15,
        },
        y: Axis {
            label: "retainability R (share of the gain)",
            scale: Scale::Linear,
            min: (low - 0.05).max(R_RANGE.0),
            max: (high + 0.12).min(R_RANGE.1),
        },
        legend: Depth::ALL
            .into_iter()
            .filter(|d| panels.iter().flat_map(|p| &p.lines).any(|l| l.depth == *d))
            .map(|depth| LegendEntry {
                label: depth_words(depth).to_owned(),
                mark: LegendMark::Points(shape(depth), depth_colour(depth)),
            })
            .chain([LegendEntry {
                label: "log-binned fit, a per decade of t".to_owned(),
                mark: LegendMark::Line(fit_stroke("#222222")),
            }])
            .collect(),
        panels: panels.iter().map(panel).collect(),
    };
    Ok(figure.to_svg())
}

fn shape(depth: Depth) -> Shape {
    match depth {
        Depth::Mem => Shape::Circle,
        Depth::Gen => Shape::Triangle,
        Depth::HardGen => Shape::Square,
    }
}

fn fit_stroke(colour: &'static str) -> Stroke {
    Stroke {
        colour,
        width: 1.1,
        dashes: "",
    }
}

fn panel(panel: &RetainabilityPanel) -> Panel {
    let mut marks = vec![Mark::Horizontal { y: 0.0 }, Mark::Horizontal { y: 1.0 }];
    let mut notes = Vec::new();
    for line in &panel.lines {
        let colour = depth_colour(line.depth);
        let ends = [line.points.first(), line.points.last()];
        marks.push(Mark::Line {
            stroke: fit_stroke(colour),
            points: ends
                .iter()
                .flatten()
                .map(|(t, _)| (*t, line.fit.at(*t)))
                .collect(),
        });
        marks.push(Mark::Points {
            shape: shape(line.depth),
            colour,
            points: line.points.clone(),
        });
        let a = format!("{:.2}", line.fit.a).replace('-', "−");
        notes.push((format!("a = {a}, R² = {:.2}", line.fit.r2), colour));
    }
    Panel {
        title: panel.title.clone(),
        marks,
        notes,
    }
}

#[derive(Serialize)]
struct CsvRow<'a> {
    panel: &'a str,
    depth: Depth,
    t_steps: f64,
    r: f64,
    fit: &'a str,
    fit_r: f64,
    fit_a: f64,
    fit_r2: f64,
}

/// The points of the figure and what the line gives at each, as CSV, none left out.
pub fn retainability_csv(panels: &[RetainabilityPanel]) -> String {
    let rows = panels.iter().flat_map(|panel| {
        panel.lines.iter().flat_map(|line| {
            line.points.iter().map(|&(t_steps, r)| CsvRow {
                panel: &panel.title,
                depth: line.depth,
                t_steps,
                r,
                fit: &line.fit.name,
                fit_r: line.fit.at(t_steps),
                fit_a: line.fit.a,
                fit_r2: line.fit.r2,
            })
        })
    });
    csv_of(rows)
}
