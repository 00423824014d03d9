//! Formulas and figures: what a run's readings say about how facts were acquired and forgotten.
//!
//! Everything here is pure: [`RunData`] in; rows, fits, tests, SVG text and PNG bytes out.
//! Which equation of the paper each function is, and where it deviates, is in
//! `docs/reproduction.md`.

mod bootstrap;
mod effectivity;
mod evidence;
pub mod figures;
mod fit;
mod outliers;
mod peak;
mod retainability;
mod run;
mod settings;
mod signed_rank;
mod summary;
#[cfg(test)]
mod synthetic;

pub use bootstrap::Interval;
pub use effectivity::{Effectivities, Effectivity, effectivities};
pub use evidence::{Evidence, FactEvidence, evidence};
pub use fit::{DecayFit, LineFit, line_fit};
pub use peak::{Exposure, Peak, exposures, peak};
pub use retainability::{
    Estimator, Exclusions, Retainability, RetainabilityCurve, RetainabilityPoint, Weighting,
    retainability,
};
pub use run::{Control, FactSchedule, ProbeSeries, RunData};
pub use settings::{Preset, Settings};
pub use signed_rank::{SignedRank, signed_rank_greater};
pub use summary::{GroupAnalysis, SummaryRow, analyse, analyse_together, summary_csv};

/// Version of the formulas and of their defaults, kept with every stored result.
///
/// Raise it with every change that moves a number: stored results of another version are computed
/// again.
pub const VERSION: u32 = 1;
