//! What tests need to run against the real thing: a Postgres of their own, a Slurm cluster, processes,
//! a bad network, a small disk, a collector of traces, a deadline.
//!
//! Everything here panics when it fails, with what it was doing: it is for tests only.

mod certificates;
mod collector;
mod database;
mod home;
mod many_runs;
mod process;
mod proxy;
mod seed;
pub mod slurm;
mod study;
mod tmpfs;

pub use certificates::{Authority, Certificate};
pub use collector::{Collector, ToldSpan};
pub use database::TestDb;
pub use home::Home;
pub use many_runs::{ManyRuns, ManyRunsReport, QueryCost};
pub use process::{ChildGuard, bin, free_port, http_get, output, wait_until};
pub use proxy::{Proxy, Weather};
pub use seed::{SeedRun, begin_attempt, complete_run, seed_run};
pub use study::Study;
pub use tmpfs::Tmpfs;
