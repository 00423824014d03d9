//! A synthetic world: a corpus, fictional facts with probes of all three depths, and a tokenizer,
//! in the same file forms as real ones.
//!
//! Everything follows from the seed.
//! It is small enough for a model of a hundred thousand parameters to learn in seconds, and rich
//! enough for that model to memorise, to generalise and to forget.

mod config;
mod error;
mod files;
mod language;
mod random;
mod world;

pub use config::WorldConfig;
pub use error::Error;
pub use files::WorldFiles;
pub use world::World;

#[cfg(test)]
mod tests;
