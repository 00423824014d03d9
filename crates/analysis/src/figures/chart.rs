//! A grid of panels with shared axes, as SVG.

use std::fmt::Write as _;

/// Family of all text; the PNG renderer brings the first along.
const FONT_FAMILY: &str = "Noto Sans, Helvetica, Arial, sans-serif";
const INK: &str = "#222222";
const FAINT: &str = "#DDDDDD";

// All lengths are in CSS pixels: three panels in a row fill the width of a printed page.
/// Width and height of a panel by the number of panels in a row; the last holds for more.
const PANEL_SIZES: [(f64, f64); 3] = [(300.0, 190.0), (250.0, 165.0), (196.0, 140.0)];
const GAP_X: f64 = 14.0;
const GAP_Y: f64 = 28.0;
const MARGIN_LEFT: f64 = 52.0;
const MARGIN_RIGHT: f64 = 10.0;
const TITLE_HEIGHT: f64 = 18.0;
const MARGIN_BOTTOM: f64 = 42.0;
const LEGEND_ROW: f64 = 15.0;
const LEGEND_KEY: f64 = 20.0;
const TICK: f64 = 3.5;
const SMALL_TEXT: f64 = 9.0;
const TEXT: f64 = 10.0;

pub(super) struct Figure {
    /// Panels in a row.
    pub(super) n_columns: usize,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) legend: Vec<LegendEntry>,
    pub(super) panels: Vec<Panel>,
}

pub(super) struct Axis {
    pub(super) label: &'static str,
    pub(super) scale: Scale,
    pub(super) min: f64,
    pub(super) max: f64,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Scale {
    Linear,
    Log10,
}

pub(super) struct LegendEntry {
    pub(super) label: String,
    pub(super) mark: LegendMark,
}

pub(super) enum LegendMark {
    Line(Stroke),
    Points(Shape, &'static str),
}

pub(super) struct Panel {
    pub(super) title: String,
    /// Drawn in this order.
    pub(super) marks: Vec<Mark>,
    /// Lines of text above y = 0 on the left, with their colours.
    pub(super) notes: Vec<(String, &'static str)>,
}

pub(super) enum Mark {
    /// Between (x, low, high).
    Band {
        colour: &'static str,
        points: Vec<(f64, f64, f64)>,
    },
    Line {
        stroke: Stroke,
        points: Vec<(f64, f64)>,
    },
    Points {
        shape: Shape,
        colour: &'static str,
        points: Vec<(f64, f64)>,
    },
    Vertical {
        stroke: Stroke,
        x: f64,
    },
    Horizontal {
        y: f64,
    },
}

#[derive(Clone, Copy)]
pub(super) struct Stroke {
    pub(super) colour: &'static str,
    pub(super) width: f64,
    /// SVG's `stroke-dasharray`; empty for a solid line.
    pub(super) dashes: &'static str,
}

#[derive(Clone, Copy)]
pub(super) enum Shape {
    Circle,
    Triangle,
    Square,
}

impl Axis {
    /// 0 at the axis' beginning, 1 at its end.
    fn position(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => (value - self.min) / (self.max - self.min),
            Scale::Log10 => (value / self.min).log10() / (self.max / self.min).log10(),
        }
    }

    /// Values with a labelled tick.
    fn ticks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear => {
                let step = tick_step(self.max - self.min);
                let n_decimals = (-step.log10().floor()).max(0.0) as usize;
                let from = (self.min / step - 1e-9).ceil() as i64;
                let to = (self.max / step + 1e-9).floor() as i64;
                (from..=to)
                    .map(|k| {
                        let value = k as f64 * step;
                        let text = format!("{value:.n_decimals$}");
                        (value, text.replace('-', "−"))
                    })
                    .collect()
            }
            Scale::Log10 => {
                let decades = self.min.log10().ceil() as i32..=self.max.log10().floor() as i32;
                decades
                    .map(|d| 10_f64.powi(d))
                    .map(|value| (value, format!("{value}")))
                    .collect()
            }
        }
    }

    /// Values with a short tick: 2 to 9 in each decade.
    fn minor_ticks(&self) -> Vec<f64> {
        if self.scale == Scale::Linear {
            return Vec::new();
        }
        let decades = self.min.log10().floor() as i32..=self.max.log10().floor() as i32;
        decades
            .flat_map(|d| (2..10).map(move |k| f64::from(k) * 10_f64.powi(d)))
            .filter(|v| (self.min..=self.max).contains(v))
            .collect()
    }
}

/// 1, 2 or 5 times a power of ten, for four to eight ticks.
fn tick_step(range: f64) -> f64 {
    let rough = range / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let factor = match rough / power {
        f if f < 1.5 => 1.0,
        f if f < 3.5 => 2.0,
        f if f < 7.5 => 5.0,
        _ => 10.0,
    };
    factor * power
}

/// The range widened to whole ticks.
pub(super) fn widened(min: f64, max: f64) -> (f64, f64) {
    if max <= min {
        return (min - 0.5, min + 0.5);
    }
    let step = tick_step(max - min) / 2.0;
    ((min / step).floor() * step, (max / step).ceil() * step)
}

impl Figure {
    pub(super) fn to_svg(&self) -> String {
        let n_columns = self.n_columns.clamp(1, self.panels.len().max(1));
        let n_rows = self.panels.len().div_ceil(n_columns);
        let (panel_width, panel_height) = PANEL_SIZES[n_columns.min(PANEL_SIZES.len()) - 1];
        let width = MARGIN_LEFT
            + n_columns as f64 * panel_width
            + (n_columns - 1) as f64 * GAP_X
            + MARGIN_RIGHT;
        let legend = self.legend_places(width - MARGIN_LEFT - MARGIN_RIGHT);
        let n_legend_rows = legend.last().map_or(0, |(_, row)| row + 1);
        let top = 8.0 + n_legend_rows as f64 * LEGEND_ROW + TITLE_HEIGHT;
        let height =
            top + n_rows as f64 * panel_height + (n_rows - 1) as f64 * GAP_Y + MARGIN_BOTTOM;

        let mut svg = Svg::new(width, height);
        for (entry, (x, row)) in std::iter::zip(&self.legend, legend) {
            let y = 6.0 + (row as f64 + 0.5) * LEGEND_ROW;
            svg.legend_entry(entry, MARGIN_LEFT + x, y);
        }
        for (k, panel) in self.panels.iter().enumerate() {
            let (row, column) = (k / n_columns, k % n_columns);
            let frame = Frame {
                left: MARGIN_LEFT + column as f64 * (panel_width + GAP_X),
                top: top + row as f64 * (panel_height + GAP_Y),
                width: panel_width,
                height: panel_height,
                x: &self.x,
                y: &self.y,
                labels_x: k + n_columns >= self.panels.len(),
                labels_y: column == 0,
            };
            svg.panel(k, panel, &frame);
        }
        let middle_x = (MARGIN_LEFT + width - MARGIN_RIGHT) / 2.0;
        let middle_y = (top + height - MARGIN_BOTTOM) / 2.0;
        svg.text(middle_x, height - 8.0, TEXT, "middle", INK, self.x.label);
        let label = marked_up(self.y.label);
        let _ = writeln!(
            svg.0,
            r#"<text x="13" y="{middle_y:.1}" font-size="{TEXT}" text-anchor="middle" fill="{INK}" transform="rotate(-90 13 {middle_y:.1})">{label}</text>"#
        );
        svg.finish()
    }

    /// Where each entry of the legend begins, and its row.
    fn legend_places(&self, width: f64) -> Vec<(f64, usize)> {
        let mut places = Vec::new();
        let (mut x, mut row) = (0.0, 0);
        for entry in &self.legend {
            let needed = LEGEND_KEY + 5.0 + text_width(&entry.label, SMALL_TEXT);
            if x > 0.0 && x + needed > width {
                (x, row) = (0.0, row + 1);
            }
            places.push((x, row));
            x += needed + 14.0;
        }
        places
    }
}

/// About how wide a text of the family is; renderers bring their own fonts.
fn text_width(text: &str, size: f64) -> f64 {
    0.56 * size * text.chars().count() as f64
}

/// Where a panel lies.
struct Frame<'a> {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    x: &'a Axis,
    y: &'a Axis,
    labels_x: bool,
    labels_y: bool,
}

impl Frame<'_> {
    fn x(&self, value: f64) -> f64 {
        self.left + self.width * self.x.position(value)
    }

    fn y(&self, value: f64) -> f64 {
        self.top + self.height * (1.0 - self.y.position(value))
    }

    fn path(&self, points: impl IntoIterator<Item = (f64, f64)>) -> String {
        let mut path = String::new();
        for (x, y) in points {
            let _ = write!(path, "{:.2},{:.2} ", self.x(x), self.y(y));
        }
        path.truncate(path.trim_end().len());
        path
    }
}

struct Svg(String);

impl Svg {
    fn new(width: f64, height: f64) -> Self {
        Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"{FONT_FAMILY}\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#FFFFFF\"/>\n"
        ))
    }

    fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }

    fn panel(&mut self, k: usize, panel: &Panel, frame: &Frame<'_>) {
        let (left, top, width, height) = (frame.left, frame.top, frame.width, frame.height);
        let (right, bottom) = (left + width, top + height);
        let _ = writeln!(
            self.0,
            r#"<clipPath id="panel{k}"><rect x="{left}" y="{top}" width="{width}" height="{height}"/></clipPath>"#
        );
        let _ = writeln!(self.0, r#"<g clip-path="url(#panel{k})">"#);
        for mark in &panel.marks {
            self.mark(mark, frame);
        }
        self.0.push_str("</g>\n");
        let axis = Stroke {
            colour: INK,
            width: 0.8,
            dashes: "",
        };
        self.line(
            &axis,
            &format!("{left},{top} {left},{bottom} {right},{bottom}"),
        );
        for (value, label) in frame.x.ticks() {
            let x = frame.x(value);
            self.line(&axis, &format!("{x:.2},{bottom} {x:.2},{}", bottom + TICK));
            if frame.labels_x {
                self.text(x, bottom + TICK + 10.0, SMALL_TEXT, "middle", INK, &label);
            }
        }
        for value in frame.x.minor_ticks() {
            let x = frame.x(value);
            self.line(
                &axis,
                &format!("{x:.2},{bottom} {x:.2},{}", bottom + TICK * 0.55),
            );
        }
        for (value, label) in frame.y.ticks() {
            let y = frame.y(value);
            self.line(&axis, &format!("{},{y:.2} {left},{y:.2}", left - TICK));
            if frame.labels_y {
                self.text(left - TICK - 3.0, y + 3.2, SMALL_TEXT, "end", INK, &label);
            }
        }
        self.title(&panel.title, left, top, width);
        for (i, (note, colour)) in panel.notes.iter().rev().enumerate() {
            let y = frame.y(0.0).min(bottom) - 5.0 - 11.5 * i as f64;
            self.text(left + 6.0, y, 8.5, "start", colour, note);
        }
    }

    /// The title above a panel, smaller where it is long and cut where it is too long.
    fn title(&mut self, title: &str, left: f64, top: f64, width: f64) {
        let size = (TEXT * width / text_width(title, TEXT)).clamp(7.5, TEXT);
        let n_fitting = (width / text_width("x", size)) as usize;
        let title = if title.chars().count() > n_fitting {
            let cut: String = title.chars().take(n_fitting - 1).collect();
            format!("{cut}…")
        } else {
            title.to_owned()
        };
        let _ = writeln!(
            self.0,
            r#"<text x="{left}" y="{:.1}" font-size="{size:.1}" font-weight="bold" fill="{INK}">{}</text>"#,
            top - 6.0,
            escaped(&title)
        );
    }

    fn mark(&mut self, mark: &Mark, frame: &Frame<'_>) {
        match mark {
            Mark::Band { colour, points } => {
                let low = points.iter().map(|p| (p.0, p.1));
                let high = points.iter().rev().map(|p| (p.0, p.2));
                let path = frame.path(low.chain(high));
                let _ = writeln!(
                    self.0,
                    r#"<polygon points="{path}" fill="{colour}" fill-opacity="0.18"/>"#
                );
            }
            Mark::Line { stroke, points } => {
                self.line(stroke, &frame.path(points.iter().copied()));
            }
            Mark::Points {
                shape,
                colour,
                points,
            } => {
                for &(x, y) in points {
                    self.shape(*shape, colour, frame.x(x), frame.y(y));
                }
            }
            Mark::Vertical { stroke, x } => {
                let ends = [(*x, frame.y.min), (*x, frame.y.max)];
                self.line(stroke, &frame.path(ends));
            }
            Mark::Horizontal { y } => {
                let stroke = Stroke {
                    colour: FAINT,
                    width: 0.8,
                    dashes: "",
                };
                let ends = [(frame.x.min, *y), (frame.x.max, *y)];
                self.line(&stroke, &frame.path(ends));
            }
        }
    }

    fn line(&mut self, stroke: &Stroke, points: &str) {
        let Stroke { colour, width, .. } = stroke;
        let dashes = match stroke.dashes {
            "" => String::new(),
            dashes => format!(r#" stroke-dasharray="{dashes}""#),
        };
        let _ = writeln!(
            self.0,
            r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"{dashes}/>"#
        );
    }

    fn shape(&mut self, shape: Shape, colour: &str, x: f64, y: f64) {
        let _ = match shape {
            Shape::Circle => {
                writeln!(
                    self.0,
                    r#"<circle cx="{x:.2}" cy="{y:.2}" r="2.2" fill="{colour}"/>"#
                )
            }
            Shape::Triangle => writeln!(
                self.0,
                r#"<polygon points="{:.2},{:.2} {:.2},{:.2} {x:.2},{:.2}" fill="{colour}"/>"#,
                x - 2.6,
                y + 2.0,
                x + 2.6,
                y + 2.0,
                y - 2.6
            ),
            Shape::Square => writeln!(
                self.0,
                r#"<rect x="{:.2}" y="{:.2}" width="4" height="4" fill="{colour}"/>"#,
                x - 2.0,
                y - 2.0
            ),
        };
    }

    fn legend_entry(&mut self, entry: &LegendEntry, x: f64, y: f64) {
        match &entry.mark {
            LegendMark::Line(stroke) => {
                self.line(
                    stroke,
                    &format!("{x:.1},{y:.1} {:.1},{y:.1}", x + LEGEND_KEY),
                );
            }
            LegendMark::Points(shape, colour) => {
                self.shape(*shape, colour, x + LEGEND_KEY / 2.0, y);
            }
        }
        let at = x + LEGEND_KEY + 5.0;
        self.text(at, y + 3.2, SMALL_TEXT, "start", INK, &entry.label);
    }

    fn text(&mut self, x: f64, y: f64, size: f64, anchor: &str, colour: &str, text: &str) {
        let _ = writeln!(
            self.0,
            r#"<text x="{x:.1}" y="{y:.1}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">{}</text>"#,
            marked_up(text)
        );
    }
}

/// Text in which `_{…}` is a subscript, as SVG.
fn marked_up(text: &str) -> String {
    let n_subscripts = text.matches("_{").count();
    escaped(text)
        .replace("_{", r#"<tspan dy="2.2" font-size="75%">"#)
        .replace('}', r#"</tspan><tspan dy="-2.2">"#)
        + &"</tspan>".repeat(n_subscripts)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
