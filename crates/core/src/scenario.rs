//! Scenarios (how facts are shown) and the injection schedule that follows from one.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::experiment::InjectionDefaults;
use crate::fact::{Fact, FactId};

/// How facts are shown: a set of arms; facts in no arm are held out and make the null control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    #[serde(default)]
    pub arm: Vec<Arm>,
}

/// A group of facts shown in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// The name under which results of these facts are reported.
    pub name: String,
    pub facts: FactRange,
    pub text: ArmText,
    pub steps: ArmSteps,
    #[serde(default)]
    pub stagger: Stagger,
    #[serde(default)]
    pub placement: Placement,
}

/// A half-open range of fact indices, written `"0..40"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FactRange {
    pub start: u32,
    pub end: u32,
}

impl FactRange {
    fn ids(self) -> Range<u32> {
        self.start..self.end
    }
}

impl fmt::Display for FactRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl FromStr for FactRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bounds = text.split_once("..").and_then(|(a, b)| {
            Some((a.trim().parse::<u32>().ok()?, b.trim().parse::<u32>().ok()?))
        });
        match bounds {
            Some((start, end)) if start < end => Ok(Self { start, end }),
            _ => Err(format!(
                "`{text}` is not a range of facts; write the first index and the index after the \
                 last, like \"0..40\""
            )),
        }
    }
}

impl Serialize for FactRange {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FactRange {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Which text an exposure shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArmText {
    /// The passage at every exposure.
    Original,
    /// The passage at the first exposure, then paraphrase after paraphrase.
    Paraphrases,
}

/// The steps at which a fact of stagger group 0 is injected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ArmSteps {
    At(Vec<u32>),
    Every(EverySteps),
}

/// `count` steps from `start`, `every` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EverySteps {
    pub start: u32,
    pub every: u32,
    pub count: u32,
}

impl ArmSteps {
    pub fn every(start: u32, every: u32, count: u32) -> Self {
        Self::Every(EverySteps {
            start,
            every,
            count,
        })
    }

    fn expand(&self) -> Vec<u32> {
        match self {
            Self::At(steps) => steps.clone(),
            Self::Every(e) => (0..e.count).map(|i| e.start + i * e.every).collect(),
        }
    }
}

/// Facts are dealt to `groups` in turn; group g starts `g·every` steps later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stagger {
    pub groups: u32,
    pub every: u32,
}

impl Default for Stagger {
    fn default() -> Self {
        Self {
            groups: 1,
            every: 0,
        }
    }
}

/// Where an injected text goes in its batch row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// At the head of the row; the row's corpus text moves back and loses its tail.
    #[default]
    RowHead,
}

/// The text of one injection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InjectionText {
    Original,
    /// Index into the fact's paraphrases.
    Paraphrase(u32),
}

/// One placing of a fact's text in a training batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Injection {
    pub step: u32,
    pub fact: FactId,
    /// Index into [`Schedule::arms`].
    pub arm: u32,
    /// 0 for the fact's first exposure.
    pub exposure: u32,
    pub text: InjectionText,
}

/// Every injection of a run, ordered by step and then by fact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    arms: Vec<String>,
    injections: Vec<Injection>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScenarioError {
    #[error(
        "scenario `{0}` is neither built in (paper, duplication, paraphrase, once, none) nor \
             defined in a [scenario.{0}] table"
    )]
    Unknown(String),
    #[error(
        "scenario `paper` needs the 130-item layout (0..40 with paraphrases, 40..80, 80..120 \
             shown, the rest held out), but this facts file has {n_facts} facts; define a \
             [scenario.<name>] table with the ranges you want"
    )]
    NotThePaperLayout { n_facts: usize },
    #[error("scenario `{0}` needs facts with paraphrases, but no fact of the file has any")]
    NoParaphrases(String),
    #[error(
        "scenario `{0}` shows the facts with paraphrases, but in this file they do not stand next \
             to each other; define a [scenario.<name>] table with the ranges you want"
    )]
    ScatteredParaphrases(String),
    #[error("arm `{arm}` names facts {facts}, but the facts file has {n_facts}")]
    FactsOutOfRange {
        arm: String,
        facts: FactRange,
        n_facts: usize,
    },
    #[error("fact {fact} is in the arms `{first}` and `{second}`; a fact is shown in one way only")]
    SharedFact {
        fact: FactId,
        first: String,
        second: String,
    },
    #[error("two arms are named `{0}`; results could not be told apart")]
    SharedName(String),
    #[error(
        "arm `{arm}` shows fact {fact} {exposures} times in paraphrases, which needs {needed} \
             paraphrases; it has {has}"
    )]
    TooFewParaphrases {
        arm: String,
        fact: FactId,
        exposures: usize,
        needed: usize,
        has: usize,
    },
    #[error("arm `{arm}`: the steps of its injections must ascend and be one at least")]
    Steps { arm: String },
    #[error("arm `{arm}`: stagger needs one group at least")]
    Stagger { arm: String },
}

impl Scenario {
    /// A built-in scenario for a facts file.
    ///
    /// `paper` is the reference's 130-item layout with its three arms in one run.
    /// `duplication`, `paraphrase` and `once` show the *same* facts (those with paraphrases) and
    /// hold out the rest, so that they can be compared; `none` shows nothing.
    ///
    /// # Source
    /// arXiv 2406.11813 §3.2: injections at steps 0, 100, … 900.
    pub fn built_in(
        name: &str,
        facts: &[Fact],
        defaults: &InjectionDefaults,
    ) -> Option<Result<Self, ScenarioError>> {
        let arm = |name: &str, facts: FactRange| Arm {
            name: name.to_owned(),
            facts,
            text: if name == "paraphrase" {
                ArmText::Paraphrases
            } else {
                ArmText::Original
            },
            steps: match name {
                "once" => ArmSteps::every(defaults.start, defaults.every, 1),
                _ => ArmSteps::every(defaults.start, defaults.every, defaults.count),
            },
            stagger: defaults.stagger,
            placement: Placement::RowHead,
        };
        let scenario = match name {
            "none" => Ok(Self { arm: Vec::new() }),
            "paper" if facts.len() == 130 => Ok(Self {
                arm: vec![
                    arm("paraphrase", FactRange { start: 0, end: 40 }),
                    arm("duplication", FactRange { start: 40, end: 80 }),
                    arm(
                        "once",
                        FactRange {
                            start: 80,
                            end: 120,
                        },
                    ),
                ],
            }),
            "paper" => Err(ScenarioError::NotThePaperLayout {
                n_facts: facts.len(),
            }),
            "duplication" | "paraphrase" | "once" => {
                let with: Vec<u32> = (0..facts.len() as u32)
                    .filter(|&f| !facts[f as usize].paraphrases.is_empty())
                    .collect();
                match (with.first(), with.last()) {
                    (Some(&first), Some(&last)) if with.len() as u32 == last - first + 1 => {
                        Ok(Self {
                            arm: vec![arm(
                                name,
                                FactRange {
                                    start: first,
                                    end: last + 1,
                                },
                            )],
                        })
                    }
                    (Some(_), _) => Err(ScenarioError::ScatteredParaphrases(name.to_owned())),
                    _ => Err(ScenarioError::NoParaphrases(name.to_owned())),
                }
            }
            _ => return None,
        };
        Some(scenario)
    }

    /// The injections of this scenario for these facts.
    ///
    /// # Errors
    /// When arms overlap, name facts that are not there, or need paraphrases that are not there.
    pub fn schedule(&self, facts: &[Fact]) -> Result<Schedule, ScenarioError> {
        let mut owner: Vec<Option<&str>> = vec![None; facts.len()];
        let mut arms: Vec<String> = Vec::new();
        let mut injections = Vec::new();
        for arm in &self.arm {
            if arms.contains(&arm.name) {
                return Err(ScenarioError::SharedName(arm.name.clone()));
            }
            arms.push(arm.name.clone());
            let steps = arm.steps.expand();
            if steps.is_empty() || !steps.is_sorted_by(|a, b| a < b) {
                return Err(ScenarioError::Steps {
                    arm: arm.name.clone(),
                });
            }
            if arm.stagger.groups == 0 {
                return Err(ScenarioError::Stagger {
                    arm: arm.name.clone(),
                });
            }
            if arm.facts.end as usize > facts.len() {
                return Err(ScenarioError::FactsOutOfRange {
                    arm: arm.name.clone(),
                    facts: arm.facts,
                    n_facts: facts.len(),
                });
            }
            for (ordinal, id) in arm.facts.ids().enumerate() {
                let fact = FactId(id);
                if let Some(first) = owner[id as usize].replace(&arm.name) {
                    return Err(ScenarioError::SharedFact {
                        fact,
                        first: first.to_owned(),
                        second: arm.name.clone(),
                    });
                }
                let has = facts[id as usize].paraphrases.len();
                if arm.text == ArmText::Paraphrases && steps.len() > has + 1 {
                    return Err(ScenarioError::TooFewParaphrases {
                        arm: arm.name.clone(),
                        fact,
                        exposures: steps.len(),
                        needed: steps.len() - 1,
                        has,
                    });
                }
                let offset = (ordinal as u32 % arm.stagger.groups) * arm.stagger.every;
                for (exposure, step) in steps.iter().enumerate() {
                    injections.push(Injection {
                        step: step + offset,
                        fact,
                        arm: arms.len() as u32 - 1,
                        exposure: exposure as u32,
                        text: match (arm.text, exposure) {
                            (ArmText::Original, _) | (ArmText::Paraphrases, 0) => {
                                InjectionText::Original
                            }
                            (ArmText::Paraphrases, i) => InjectionText::Paraphrase(i as u32 - 1),
                        },
                    });
                }
            }
        }
        injections.sort_unstable();
        Ok(Schedule { arms, injections })
    }
}

impl Schedule {
    /// The names of the arms.
    pub fn arms(&self) -> &[String] {
        &self.arms
    }

    pub fn arm_name(&self, injection: &Injection) -> &str {
        &self.arms[injection.arm as usize]
    }

    /// All injections, by step and then by fact.
    pub fn injections(&self) -> &[Injection] {
        &self.injections
    }

    /// The injections of one step, by fact.
    pub fn at(&self, step: u32) -> &[Injection] {
        let from = self.injections.partition_point(|i| i.step < step);
        let to = self.injections.partition_point(|i| i.step <= step);
        &self.injections[from..to]
    }

    /// The facts shown at least once, ascending.
    pub fn injected_facts(&self) -> BTreeSet<FactId> {
        self.injections.iter().map(|i| i.fact).collect()
    }

    /// The arm in which a fact is shown; `None` for a held-out fact.
    pub fn arm_of(&self, fact: FactId) -> Option<&str> {
        self.injections
            .iter()
            .find(|i| i.fact == fact)
            .map(|i| self.arm_name(i))
    }

    pub fn last_step(&self) -> Option<u32> {
        self.injections.last().map(|i| i.step)
    }
}

#[cfg(test)]
mod tests;
