//! Figures: from results to SVG text, from SVG text to PNG bytes, and the numbers drawn as CSV.
//!
//! A figure is made of panels; make a panel with [`DynamicsPanel::new`] or
//! [`RetainabilityPanel::new`], collect as many as belong side by side, and draw them.

mod chart;
mod dynamics;
mod png;
mod retained;

use imprint_core::Depth;
use serde::Serialize;

pub use dynamics::{
    DynamicsLine, DynamicsPanel, DynamicsPoint, Series, training_dynamics, training_dynamics_csv,
};
pub use png::to_png;
pub use retained::{RetainabilityLine, RetainabilityPanel, retainability, retainability_csv};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is nothing to draw: no panel has a point")]
    Empty,
    #[error("the figure's SVG cannot be read back")]
    Svg(#[source] Box<resvg::usvg::Error>),
    #[error("a picture of {width} × {height} pixels cannot be made; choose another scale")]
    Size { width: f32, height: f32 },
    #[error("the picture cannot be encoded as PNG: {0}")]
    Png(String),
}

/// Rows as CSV with a heading.
pub(crate) fn csv_of<T: Serialize>(rows: impl IntoIterator<Item = T>) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer
            .serialize(row)
            .expect("rows are flat, and memory does not fail to write");
    }
    let bytes = writer.into_inner().expect("memory does not fail to write");
    String::from_utf8(bytes).expect("CSV of text is text")
}

/// The words a figure uses for a depth.
fn depth_words(depth: Depth) -> &'static str {
    match depth {
        Depth::Mem => "memorization",
        Depth::Gen => "semantic",
        Depth::HardGen => "compositional",
    }
}

/// Okabe and Ito's colours: told apart by colour-blind readers, and by their lightness in print.
fn depth_colour(depth: Depth) -> &'static str {
    match depth {
        Depth::Mem => "#0072B2",
        Depth::Gen => "#D55E00",
        Depth::HardGen => "#009E73",
    }
}

const GREY: &str = "#8C8C8C";

#[cfg(test)]
mod tests;
