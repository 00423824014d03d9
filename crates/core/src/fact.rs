//! Facts, their probes, and the three depths and token spans at which a probe is read.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::scenario::Schedule;

/// Index of a fact in its facts file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FactId(pub u32);

/// Index of a probe in its run's probe set: the position of its value in every reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProbeId(pub u32);

impl fmt::Display for FactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ProbeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How far a probe's wording is from what was shown (arXiv 2406.11813 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// Memorization: a sentence of the passage itself.
    Mem,
    /// Semantic generalization: the same content in other words.
    Gen,
    /// Compositional generalization: what follows from several sentences together.
    HardGen,
}

impl Depth {
    pub const ALL: [Self; 3] = [Self::Mem, Self::Gen, Self::HardGen];

    /// The name used in facts files, SQL and output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mem => "mem",
            Self::Gen => "gen",
            Self::HardGen => "hard_gen",
        }
    }

    /// The depth's number in the database.
    pub fn index(self) -> usize {
        self as usize
    }

    pub fn from_index(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The tokens over which a probe's log-probability is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    /// The first target token.
    First,
    /// All target tokens: the paper's headline.
    Target,
    /// Every token of the probe but the first.
    Full,
}

impl Span {
    pub const ALL: [Self; 3] = [Self::First, Self::Target, Self::Full];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Target => "target",
            Self::Full => "full",
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One piece of fictional knowledge: a passage, its paraphrases, its probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The name that the fact is about, where the facts file gives it.
    pub subject: Option<String>,
    pub passage: String,
    pub paraphrases: Vec<String>,
    /// In the order mem, gen, hard_gen, and within a depth as in the file.
    pub probes: Vec<ProbeText>,
}

/// A probe as the facts file words it; the probe's text is `prompt + " " + target`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeText {
    pub depth: Depth,
    /// Index within its depth.
    pub ordinal: u16,
    pub prompt: String,
    pub target: String,
}

/// Whether a probe reads a fact itself or is a control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeControl {
    /// The fact's own prompt and target.
    Own,
    /// The fact's target after another injected fact's subject (or prompt): what this gains is the
    /// popularity of the value, not its binding to the subject.
    Swap { other: FactId },
}

/// A prompt and a target whose log-probability is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    pub id: ProbeId,
    /// The fact whose target is read, also for a swap probe.
    pub fact: FactId,
    pub depth: Depth,
    pub ordinal: u16,
    pub control: ProbeControl,
    pub prompt: String,
    pub target: String,
}

/// A probe's tokens; its three spans are the first target token, all target tokens, and every token
/// but the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizedProbe {
    /// Prompt and target.
    pub tokens: Vec<u32>,
    /// How many of the last tokens are the target's; at least 1, fewer than all.
    pub n_target_tokens: usize,
}

impl TokenizedProbe {
    /// Tokens of the span `first`.
    pub const N_FIRST_TOKENS: usize = 1;

    /// Tokens of the span `full`.
    pub fn n_full_tokens(&self) -> usize {
        self.tokens.len() - 1
    }

    /// Index of the first target token.
    pub fn target_start(&self) -> usize {
        self.tokens.len() - self.n_target_tokens
    }
}

/// Every probe that a run reads, in the order of the values of its readings.
///
/// First each fact's own probes in the order of the facts file.
/// With `swap`, then one swap probe for each own probe of each injected fact: the partner is the
/// next injected fact (cyclically) whose probe of the same depth and number has another target, and
/// the prompt is the own prompt about the partner's subject, or the partner's prompt of the same
/// number where subjects are not named.
/// An injected fact's probe for which no such partner exists gets no swap probe.
pub fn probe_set(facts: &[Fact], swap: Option<&Schedule>) -> Vec<Probe> {
    let own = facts.iter().enumerate().flat_map(|(fact, f)| {
        f.probes
            .iter()
            .map(move |p| (fact, p, ProbeControl::Own, p.prompt.clone()))
    });
    let injected: Vec<usize> = swap
        .map(|s| {
            s.injected_facts()
                .into_iter()
                .map(|f| f.0 as usize)
                .collect()
        })
        .unwrap_or_default();
    let swapped = injected.iter().enumerate().flat_map(|(k, &fact)| {
        let injected = &injected;
        facts[fact].probes.iter().filter_map(move |p| {
            let partners = (1..injected.len()).map(|d| injected[(k + d) % injected.len()]);
            swap_prompt(facts, fact, p, partners)
                .map(|(other, prompt)| (fact, p, ProbeControl::Swap { other }, prompt))
        })
    });
    own.chain(swapped)
        .enumerate()
        .map(|(id, (fact, p, control, prompt))| Probe {
            id: ProbeId(id as u32),
            fact: FactId(fact as u32),
            depth: p.depth,
            ordinal: p.ordinal,
            control,
            prompt,
            target: p.target.clone(),
        })
        .collect()
}

fn swap_prompt(
    facts: &[Fact],
    fact: usize,
    probe: &ProbeText,
    mut partners: impl Iterator<Item = usize>,
) -> Option<(FactId, String)> {
    partners.find_map(|other| {
        let twin = facts[other]
            .probes
            .iter()
            .find(|q| (q.depth, q.ordinal) == (probe.depth, probe.ordinal))?;
        if twin.target == probe.target {
            return None;
        }
        let prompt = match (&facts[fact].subject, &facts[other].subject) {
            (Some(own), Some(theirs)) if probe.prompt.contains(own.as_str()) => {
                probe.prompt.replace(own.as_str(), theirs)
            }
            _ => twin.prompt.clone(),
        };
        Some((FactId(other as u32), prompt))
    })
}
