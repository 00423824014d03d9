//! The JSON log of the reference study's released code.
//!
//! A list with one object a step: `step` (the checkpoint's step plus ours), and for each depth
//! (`mem`, `gen`, `gen_hard`) and token span (`first`, `target`, `full`) a list over facts of lists
//! over probes of cross-entropies: nats, the mean over the span's tokens, so minus our ℓ.
//! `null` stands where a fact has no such probe; `def` is the loss of the passage itself, which we
//! do not read.
//!
//! # Source
//! The released code of arXiv 2406.11813: `postprocess_ppl.py` writes it, `ppl_analysis.py` reads it.

mod read;
mod write;

use imprint_core::{Depth, FactId, Span};

pub(crate) use read::{NanRule, ReadError, Record, Scan, records, scan};
pub(crate) use write::LogWriter;

/// The key of a depth and span.
fn key(depth: Depth, span: Span) -> &'static str {
    match (depth, span) {
        (Depth::Mem, Span::First) => "mem_first",
        (Depth::Mem, Span::Target) => "mem_target",
        (Depth::Mem, Span::Full) => "mem_full",
        (Depth::Gen, Span::First) => "gen_first",
        (Depth::Gen, Span::Target) => "gen_target",
        (Depth::Gen, Span::Full) => "gen_full",
        (Depth::HardGen, Span::First) => "gen_hard_first",
        (Depth::HardGen, Span::Target) => "gen_hard_target",
        (Depth::HardGen, Span::Full) => "gen_hard_full",
    }
}

/// Which probes a log has: for each depth a table of facts and ordinals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    n_facts: usize,
    /// By depth: of each fact and ordinal the position of its value, or `None` for no such probe.
    tables: [Vec<Vec<Option<usize>>>; 3],
    probes: Vec<LoggedProbe>,
}

/// A probe by its place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LoggedProbe {
    pub(crate) fact: FactId,
    pub(crate) depth: Depth,
    pub(crate) ordinal: u16,
}

impl Layout {
    /// The layout in which value i of a record is that of probe i; `None` stands for a probe that
    /// the log leaves out.
    ///
    /// All facts have lists of one length, as in the reference's logs: that of the most probes.
    pub(crate) fn of_probes(n_facts: usize, probes: &[Option<LoggedProbe>]) -> Self {
        let tables = Depth::ALL.map(|depth| {
            let of_depth = || {
                let probes = probes.iter().enumerate();
                probes.filter_map(move |(i, p)| Some((i, p.filter(|p| p.depth == depth)?)))
            };
            let width = of_depth().map(|(_, p)| usize::from(p.ordinal) + 1).max();
            let mut table = vec![vec![None; width.unwrap_or(0)]; n_facts];
            for (i, p) in of_depth() {
                table[p.fact.0 as usize][usize::from(p.ordinal)] = Some(i);
            }
            table
        });
        Self {
            n_facts,
            tables,
            probes: probes.iter().flatten().copied().collect(),
        }
    }

    pub(crate) fn n_facts(&self) -> usize {
        self.n_facts
    }

    /// The probes in the order of a record's values.
    pub(crate) fn probes(&self) -> &[LoggedProbe] {
        &self.probes
    }
}

#[cfg(test)]
mod tests;
