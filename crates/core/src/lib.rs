//! The vocabulary of `imprint`: facts, probes, scenarios, schedules, experiments, runs, readings.
//!
//! Pure types and functions: no input or output, no async, no tensors.
//!
//! # The time convention
//!
//! A *step* is one optimizer update, counted from the run's start.
//! θ_t are the parameters before update t, and batch t maps θ_t to θ_{t+1}.
//! Reading t is taken on θ_t, so an injection at step t first shows in reading t+1.
//! A run of T updates has readings 0…T and update statistics 0…T−1.

mod experiment;
mod fact;
mod imported;
pub mod learning_rate;
mod memory;
mod reading;
mod run;
mod scenario;
pub mod simulated;

pub use experiment::{
    CheckpointSpec, CorpusFormat, CorpusOrder, CorpusSpec, DataSpec, Error, ExperimentSpec,
    InjectionDefaults, MatrixCell, Pcg64Order, ProbingSpec, ResolvedInputs, ResourcesSpec,
    SavingSpec, below_root,
};
pub use fact::{
    Depth, Fact, FactId, Probe, ProbeControl, ProbeId, ProbeText, Span, TokenizedProbe, probe_set,
};
pub use imported::{ImportFormat, ImportSource, ImportedIdentity, ImportedSpec};
pub use learning_rate::{LearningRate, RateSchedule};
pub use memory::{MemoryAnswer, MemoryQuestion, ModelSource};
pub use reading::{ProbeSums, ReadingSteps, StepReadings, Trajectory, UpdateStats};
pub use run::{
    CheckpointIdentity, CheckpointSource, ClipWarmup, CorpusManifest, ModelSpec, OptimizerSpec,
    OptimizerStart, OrderIdentity, Precision, Rewarmup, RunFiles, RunIdentity, RunSpec, Settled,
    SpecHash, Standing, TrainingSpec,
};
pub use scenario::{
    Arm, ArmSteps, ArmText, EverySteps, FactRange, Injection, InjectionText, Placement, Scenario,
    ScenarioError, Schedule, Stagger,
};
