//! Experiments, runs, attempts and saved states: what the orchestrator asks and writes.
