//! Learning-rate schedules over global steps.

use serde::{Deserialize, Serialize};

/// A learning-rate schedule as an experiment file gives it.
///
/// All steps but `zero_from_step` are global steps: updates since the model was initialised.
///
/// # Units
/// `peak` and the rates of a table are learning rates; `floor` and `warmup_from` are shares of the
/// peak.
///
/// # Source
/// arXiv 2406.11813, appendix (OLMo's schedules): warm-up `peak·(0.1 + 0.9·s/w)` for `s < w`, then
/// constant, linear or cosine decay to a tenth of the peak.
/// Warm-up, stable, decay: arXiv 2405.18392, whose decay is `1 − √x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Keys", into = "Keys")]
pub struct LearningRate {
    pub warmup: Warmup,
    pub shape: Shape,
    /// Rate 0 from this step of the run on: the frozen control, in which nothing may be forgotten.
    pub zero_from_step: Option<u64>,
}

/// The first steps of a schedule: its rate times a share that grows linearly to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warmup {
    pub steps: u64,
    /// The share at global step 0.
    pub from: f64,
}

/// A schedule without its warm-up.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    Constant {
        peak: f64,
    },
    /// From the peak at the end of the warm-up down to the floor at the end.
    Linear {
        peak: f64,
        floor: f64,
        end: End,
    },
    /// As `Linear`, along half a cosine.
    Cosine {
        peak: f64,
        floor: f64,
        end: End,
    },
    /// The peak, and in the last `decay_steps` down to the floor.
    Wsd {
        peak: f64,
        floor: f64,
        end: End,
        decay_steps: u64,
        decay: Decay,
    },
    /// Rates at global steps; the first holds before its step and the last after.
    Table {
        points: Vec<(u64, f64)>,
        interpolation: Interpolation,
    },
}

/// Where a schedule ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At a global step.
    Steps(u64),
    /// Where the model has seen so many tokens, at the run's own batch size.
    Tokens(u64),
}

/// How the last steps of [`Shape::Wsd`] go from 1 to 0, x being the share of them that is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// 1 − x
    #[default]
    Linear,
    /// 1 − √x
    Sqrt,
    /// (1 + cos πx) / 2
    Cosine,
}

/// What a table says of the steps between its points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// The straight line between the points around them.
    #[default]
    Linear,
    /// The rate of the point before them.
    Step,
}

/// Why a schedule that ends after so many tokens cannot be settled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    #[error(
        "`max_tokens` needs to know how many tokens the checkpoint has seen, and the checkpoint \
         does not say; give its `tokens_seen`, or `max_steps` in place of `max_tokens`"
    )]
    UnknownTokens,
    #[error(
        "the checkpoint has seen {tokens_seen} tokens, which is all of the schedule's `max_tokens` \
         ({max_tokens}); raise it, or give `max_steps` in its place"
    )]
    NothingLeft { tokens_seen: u64, max_tokens: u64 },
    #[error(
        "`max_tokens` {max_tokens} at {tokens_per_update} tokens an update ends the schedule at \
         global step {max_steps}, but {problem}"
    )]
    Unfit {
        max_tokens: u64,
        tokens_per_update: u64,
        max_steps: u64,
        problem: String,
    },
}

/// Rates start at, and decay to, this share of the peak unless the file says otherwise.
const SHARE: f64 = 0.1;

impl Default for Warmup {
    fn default() -> Self {
        Self {
            steps: 0,
            from: SHARE,
        }
    }
}

impl Shape {
    fn end(&self) -> Option<End> {
        match self {
            Self::Linear { end, .. } | Self::Cosine { end, .. } | Self::Wsd { end, .. } => {
                Some(*end)
            }
            Self::Constant { .. } | Self::Table { .. } => None,
        }
    }

    fn end_mut(&mut self) -> Option<&mut End> {
        match self {
            Self::Linear { end, .. } | Self::Cosine { end, .. } | Self::Wsd { end, .. } => {
                Some(end)
            }
            Self::Constant { .. } | Self::Table { .. } => None,
        }
    }
}

impl LearningRate {
    /// One rate throughout.
    pub fn constant(peak: f64) -> Self {
        Self {
            warmup: Warmup::default(),
            shape: Shape::Constant { peak },
            zero_from_step: None,
        }
    }

    /// Whether it ends after a number of tokens rather than steps.
    pub fn counts_tokens(&self) -> bool {
        matches!(self.shape.end(), Some(End::Tokens(_)))
    }

    /// The schedule of a run whose checkpoint stands at `first_global_step`, its end in steps.
    ///
    /// # Errors
    /// When it ends after a number of tokens, and the checkpoint's are not known or no fewer.
    ///
    /// # Source
    /// arXiv 2406.11813, released code:
    /// `max_steps = step + (max_tokens − tokens_seen) // (batch size · sequence length)`.
    pub fn settle(
        &self,
        first_global_step: u64,
        tokens_seen: Option<u64>,
        tokens_per_update: u64,
    ) -> Result<RateSchedule, SettleError> {
        let mut settled = self.clone();
        if let Some(end) = settled.shape.end_mut()
            && let End::Tokens(max_tokens) = *end
        {
            let tokens_seen = tokens_seen.ok_or(SettleError::UnknownTokens)?;
            let left = max_tokens.saturating_sub(tokens_seen);
            if left == 0 {
                return Err(SettleError::NothingLeft {
                    tokens_seen,
                    max_tokens,
                });
            }
            let max_steps = first_global_step.saturating_add(left / tokens_per_update);
            *end = End::Steps(max_steps);
            // What is asked of an end in steps holds for this one too.
            Self::try_from(Keys::from(settled.clone())).map_err(|problem| SettleError::Unfit {
                max_tokens,
                tokens_per_update,
                max_steps,
                problem,
            })?;
        }
        Ok(RateSchedule(settled))
    }
}

/// A schedule whose end is a step: it has a rate at every global step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "LearningRate", into = "LearningRate")]
pub struct RateSchedule(LearningRate);

impl TryFrom<LearningRate> for RateSchedule {
    type Error = SettleError;

    fn try_from(rate: LearningRate) -> Result<Self, SettleError> {
        match rate.counts_tokens() {
            true => Err(SettleError::UnknownTokens),
            false => Ok(Self(rate)),
        }
    }
}

impl From<RateSchedule> for LearningRate {
    fn from(schedule: RateSchedule) -> Self {
        schedule.0
    }
}

impl RateSchedule {
    /// The global step at which the schedule ends, where it does.
    pub fn max_steps(&self) -> Option<u64> {
        self.0.shape.end().map(|end| match end {
            End::Steps(steps) => steps,
            End::Tokens(_) => unreachable!("a settled schedule ends at a step"),
        })
    }

    /// The rate of the schedule at a global step.
    pub fn at(&self, global_step: u64) -> f64 {
        let Warmup { steps, from } = self.0.warmup;
        let warm = self.once_warm(global_step);
        match global_step < steps {
            true => warm * (from + (1.0 - from) * global_step as f64 / steps as f64),
            false => warm,
        }
    }

    /// The rate as if there were no warm-up: before its end, the peak.
    fn once_warm(&self, global_step: u64) -> f64 {
        let warmup = self.0.warmup.steps;
        let max_steps = self.max_steps().unwrap_or(u64::MAX);
        // The share that is over of the steps from `begin` to the end.
        let over = |begin: u64| {
            let span = max_steps.saturating_sub(begin).max(1) as f64;
            (global_step.saturating_sub(begin) as f64 / span).min(1.0)
        };
        match &self.0.shape {
            Shape::Constant { peak } => *peak,
            Shape::Linear { peak, floor, .. } => peak - (peak - floor * peak) * over(warmup),
            // Exactly, which the sum below is only to the last digit.
            Shape::Cosine { peak, .. } if global_step <= warmup => *peak,
            Shape::Cosine { peak, floor, .. } => {
                let floor = floor * peak;
                floor + (peak - floor) * half_cosine(over(warmup))
            }
            Shape::Wsd {
                peak,
                floor,
                decay_steps,
                decay,
                ..
            } => {
                let x = over(max_steps.saturating_sub(*decay_steps));
                let floor = floor * peak;
                let left = match decay {
                    Decay::Linear => 1.0 - x,
                    Decay::Sqrt => 1.0 - x.sqrt(),
                    Decay::Cosine => half_cosine(x),
                };
                floor + (peak - floor) * left
            }
            Shape::Table {
                points,
                interpolation,
            } => in_table(points, *interpolation, global_step),
        }
    }

    /// The rate with which update `step` of a run is made whose checkpoint stands at
    /// `first_global_step`.
    ///
    /// The reference increments the global step before it computes the rate, so update 0 uses
    /// `first_global_step + 1`.
    pub fn of_update(&self, first_global_step: u64, step: u64) -> f64 {
        match self.0.zero_from_step {
            Some(zero) if step >= zero => 0.0,
            _ => self.at(first_global_step + step + 1),
        }
    }
}

/// From 1 down to 0 as x goes from 0 to 1.
fn half_cosine(x: f64) -> f64 {
    (1.0 + (std::f64::consts::PI * x).cos()) / 2.0
}

fn in_table(points: &[(u64, f64)], interpolation: Interpolation, global_step: u64) -> f64 {
    let after = points.partition_point(|(step, _)| *step <= global_step);
    match (after.checked_sub(1).map(|i| points[i]), points.get(after)) {
        (None, first) => first.map_or(0.0, |(_, rate)| *rate),
        (Some((from, before)), Some(&(to, then))) if interpolation == Interpolation::Linear => {
            before + (then - before) * (global_step - from) as f64 / (to - from) as f64
        }
        (Some((_, before)), _) => before,
    }
}

/// A schedule as it is written: every key, most of them for some kinds only.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peak: Option<f64>,
    #[serde(default)]
    warmup_steps: u64,
    #[serde(default = "share")]
    warmup_from: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    floor: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_steps: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decay_steps: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decay: Option<Decay>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    points: Option<Vec<(u64, f64)>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interpolation: Option<Interpolation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zero_from_step: Option<u64>,
}

fn share() -> f64 {
    SHARE
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Constant,
    Linear,
    Cosine,
    Wsd,
    Table,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
            Self::Wsd => "wsd",
            Self::Table => "table",
        }
    }
}

impl Keys {
    /// Takes out a key that the kind needs.
    fn need<T>(&self, key: &str, value: Option<T>) -> Result<T, String> {
        value.ok_or_else(|| format!("a schedule of kind `{}` needs `{key}`", self.kind.name()))
    }

    /// Refuses keys of other kinds.
    fn refuse(&self, foreign: &[(&str, bool)]) -> Result<(), String> {
        match foreign.iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((key, _)) => Err(format!(
                "`{key}` does not go with a schedule of kind `{}`",
                self.kind.name()
            )),
        }
    }

    fn peak(&self) -> Result<f64, String> {
        let peak = self.need("peak", self.peak)?;
        match peak.is_finite() && peak >= 0.0 {
            true => Ok(peak),
            false => Err(format!("`peak` {peak} is no learning rate")),
        }
    }

    fn floor(&self) -> Result<f64, String> {
        let floor = self.floor.unwrap_or(SHARE);
        match (0.0..=1.0).contains(&floor) {
            true => Ok(floor),
            false => Err(format!(
                "`floor` {floor} is no share of the peak, from 0 to 1"
            )),
        }
    }

    fn end(&self) -> Result<End, String> {
        let end = match (self.max_steps, self.max_tokens) {
            (Some(steps), None) => End::Steps(steps),
            (None, Some(tokens)) => End::Tokens(tokens),
            _ => {
                return Err(format!(
                    "a schedule of kind `{}` needs either `max_steps` or `max_tokens`",
                    self.kind.name()
                ));
            }
        };
        if let End::Steps(steps) = end
            && steps <= self.warmup_steps
        {
            return Err(format!(
                "`max_steps` {steps} is not after the warm-up of {} steps",
                self.warmup_steps
            ));
        }
        Ok(end)
    }

    fn points(&self) -> Result<Vec<(u64, f64)>, String> {
        let points = self.need("points", self.points.clone())?;
        if points.is_empty() {
            return Err("`points` holds no point".to_owned());
        }
        if !points.is_sorted_by(|a, b| a.0 < b.0) {
            return Err("the global steps of `points` do not ascend".to_owned());
        }
        match points.iter().find(|(_, r)| !r.is_finite() || *r < 0.0) {
            Some((step, rate)) => Err(format!(
                "{rate}, the rate of `points` at step {step}, is no learning rate"
            )),
            None => Ok(points),
        }
    }
}

impl TryFrom<Keys> for LearningRate {
    type Error = String;

    fn try_from(keys: Keys) -> Result<Self, String> {
        if !(0.0..=1.0).contains(&keys.warmup_from) {
            return Err(format!(
                "`warmup_from` {} is no share of the peak, from 0 to 1",
                keys.warmup_from
            ));
        }
        let (has_peak, has_floor) = (keys.peak.is_some(), keys.floor.is_some());
        let has_end = keys.max_steps.is_some() || keys.max_tokens.is_some();
        let has_decay = keys.decay.is_some() || keys.decay_steps.is_some();
        let has_points = keys.points.is_some() || keys.interpolation.is_some();
        let foreign: &[(&str, bool)] = match keys.kind {
            Kind::Constant => &[
                ("floor", has_floor),
                ("max_steps` or `max_tokens", has_end),
                ("decay_steps` or `decay", has_decay),
                ("points` or `interpolation", has_points),
            ],
            Kind::Linear | Kind::Cosine => &[
                ("decay_steps` or `decay", has_decay),
                ("points` or `interpolation", has_points),
            ],
            Kind::Wsd => &[("points` or `interpolation", has_points)],
            Kind::Table => &[
                ("peak", has_peak),
                ("floor", has_floor),
                ("max_steps` or `max_tokens", has_end),
                ("decay_steps` or `decay", has_decay),
            ],
        };
        keys.refuse(foreign)?;
        let shape = match keys.kind {
            Kind::Constant => Shape::Constant { peak: keys.peak()? },
            Kind::Linear => Shape::Linear {
                peak: keys.peak()?,
                floor: keys.floor()?,
                end: keys.end()?,
            },
            Kind::Cosine => Shape::Cosine {
                peak: keys.peak()?,
                floor: keys.floor()?,
                end: keys.end()?,
            },
            Kind::Wsd => {
                let end = keys.end()?;
                let decay_steps = keys.need("decay_steps", keys.decay_steps)?;
                if decay_steps == 0 {
                    return Err("`decay_steps` must be 1 at least".to_owned());
                }
                if let End::Steps(max_steps) = end
                    && decay_steps + keys.warmup_steps > max_steps
                {
                    return Err(format!(
                        "{decay_steps} `decay_steps` after {} `warmup_steps` do not fit into \
                         `max_steps` {max_steps}",
                        keys.warmup_steps
                    ));
                }
                Shape::Wsd {
                    peak: keys.peak()?,
                    floor: keys.floor()?,
                    end,
                    decay_steps,
                    decay: keys.decay.unwrap_or_default(),
                }
            }
            Kind::Table => Shape::Table {
                points: keys.points()?,
                interpolation: keys.interpolation.unwrap_or_default(),
            },
        };
        Ok(Self {
            warmup: Warmup {
                steps: keys.warmup_steps,
                from: keys.warmup_from,
            },
            shape,
            zero_from_step: keys.zero_from_step,
        })
    }
}

impl From<LearningRate> for Keys {
    fn from(rate: LearningRate) -> Self {
        let mut keys = Self {
            kind: Kind::Constant,
            peak: None,
            warmup_steps: rate.warmup.steps,
            warmup_from: rate.warmup.from,
            floor: None,
            max_steps: None,
            max_tokens: None,
            decay_steps: None,
            decay: None,
            points: None,
            interpolation: None,
            zero_from_step: rate.zero_from_step,
        };
        match rate.shape.end() {
            Some(End::Steps(steps)) => keys.max_steps = Some(steps),
            Some(End::Tokens(tokens)) => keys.max_tokens = Some(tokens),
            None => {}
        }
        match rate.shape {
            Shape::Constant { peak } => keys.peak = Some(peak),
            Shape::Linear { peak, floor, .. } => {
                keys.kind = Kind::Linear;
                (keys.peak, keys.floor) = (Some(peak), Some(floor));
            }
            Shape::Cosine { peak, floor, .. } => {
                keys.kind = Kind::Cosine;
                (keys.peak, keys.floor) = (Some(peak), Some(floor));
            }
            Shape::Wsd {
                peak,
                floor,
                decay_steps,
                decay,
                ..
            } => {
                keys.kind = Kind::Wsd;
                (keys.peak, keys.floor) = (Some(peak), Some(floor));
                (keys.decay_steps, keys.decay) = (Some(decay_steps), Some(decay));
            }
            Shape::Table {
                points,
                interpolation,
            } => {
                keys.kind = Kind::Table;
                (keys.points, keys.interpolation) = (Some(points), Some(interpolation));
            }
        }
        keys
    }
}

#[cfg(test)]
mod tests;
