//! What one update trains on, as the trainer's `inspect` prints it.

use imprint_core::FactId;
use serde::Serialize;

use crate::training::Batch;

/// One update's batch as JSON; names and order of the fields are an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    pub step: u32,
    pub batch_size: u32,
    pub seq_len: u32,
    pub n_injected_tokens: u32,
    pub rows: Vec<InspectedRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InspectedRow {
    pub row: u32,
    pub facts: Vec<InspectedFact>,
    pub n_injected: u32,
    /// All tokens of the row.
    pub tokens: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InspectedFact {
    pub fact: FactId,
    /// The arm of the scenario.
    pub scenario: String,
    /// 1 for the fact's first exposure.
    pub exposure: u32,
}

impl Inspection {
    pub(crate) fn of(batch: &Batch, all_rows: bool) -> Self {
        let rows = (0..batch.batch_size)
            .map(|row| match batch.rows.iter().find(|r| r.row == row) {
                Some(injected) => InspectedRow {
                    row,
                    facts: injected
                        .items
                        .iter()
                        .map(|item| InspectedFact {
                            fact: item.fact,
                            scenario: item.arm.clone(),
                            exposure: item.exposure + 1,
                        })
                        .collect(),
                    n_injected: injected.n_injected,
                    tokens: batch.row(row).to_vec(),
                },
                None => InspectedRow {
                    row,
                    facts: Vec::new(),
                    n_injected: 0,
                    tokens: batch.row(row).to_vec(),
                },
            })
            .filter(|r| all_rows || r.n_injected > 0)
            .collect();
        Self {
            step: batch.step,
            batch_size: batch.batch_size,
            seq_len: batch.seq_len,
            n_injected_tokens: batch.n_injected_tokens,
            rows,
        }
    }
}
