//! What a run trains on and what it asks: facts files, tokenizers, corpora, batches, injections.
//!
//! No tensor library and no network, so that everyone may validate a plan.
//! [`resolve`] reads what an experiment names and turns it into the inputs of its expansion;
//! [`TrainingData`] opens one run's inputs, refuses a plan that cannot work, and hands out batches.

mod array;
mod checkpoint;
mod corpus;
mod digest;
mod documents;
mod error;
mod facts;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod fuzz;
mod hash_memo;
mod injection;
mod inspection;
mod order;
mod resolve;
mod token_cache;
mod tokenizer;
mod training;
mod warnings;

pub use checkpoint::CheckpointFiles;
pub use digest::{corpus_file_sha256, file_sha256};
pub use error::Error;
pub use facts::{load_facts, write_facts};
pub use inspection::{InspectedFact, InspectedRow, Inspection};
pub use resolve::resolve;
pub use tokenizer::Tokenizer;
pub use training::{Batch, InjectedItem, InjectedRow, TrainingData, visit_plans};

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
