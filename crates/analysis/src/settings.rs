//! How the published formulas are read: presets and their parameters.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Whose reading of the method is followed where the paper's text and its released code differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// The paper's text: outliers beyond 1.5 interquartile ranges.
    #[default]
    Paper,
    /// The released code: factor 2.0, and only denominators of exactly 0 are skipped.
    Code,
}

impl Preset {
    pub const ALL: [Self; 2] = [Self::Paper, Self::Code];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Paper => "paper",
            Self::Code => "code",
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|p| p.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a preset; use `paper` or `code`"))
    }
}

/// Every parameter of an analysis.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub preset: Preset,
    /// t_LAM is looked for this many steps after an injection, at most.
    pub window_steps: u32,
    /// Values further than this many interquartile ranges from the quartiles are outliers.
    pub iqr_factor: f64,
    /// A retainability whose denominator (a probe's whole gain) is smaller is not averaged; `None`
    /// leaves out only denominators of exactly 0.
    pub min_gain_nats: Option<f64>,
    /// Retainability is called late from this many steps after t_LAM on; half of the steps that
    /// every probe has where `None`.
    pub late_from_steps: Option<u32>,
    /// Resamples of a bootstrap interval; 0 for no intervals.
    pub n_bootstrap: u32,
    pub bootstrap_seed: u64,
}

impl Settings {
    /// # Source
    /// arXiv 2406.11813: window of 50 steps (§3.3), outliers beyond 1.5 interquartile ranges; the
    /// released code uses 2.0.
    /// The smallest gain is ours: ratios over a gain of 0.1 nats or less are noise.
    pub fn of(preset: Preset) -> Self {
        Self {
            preset,
            window_steps: 50,
            iqr_factor: match preset {
                Preset::Paper => 1.5,
                Preset::Code => 2.0,
            },
            min_gain_nats: match preset {
                Preset::Paper => Some(0.1),
                Preset::Code => None,
            },
            late_from_steps: None,
            n_bootstrap: 1000,
            bootstrap_seed: 0,
        }
    }

    /// Whether a mean gain is large enough to take shares of; that of too noisy a set is NaN.
    pub(crate) fn is_gain(&self, mean_nats: f64) -> bool {
        mean_nats > self.min_gain_nats.unwrap_or(0.0)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::of(Preset::Paper)
    }
}
