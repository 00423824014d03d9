//! Simulated trainers: what the orchestrator hears of real ones, and nothing behind it.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use imprint_proto::pb::attempts_client::AttemptsClient;
use imprint_proto::{Channel, MAX_MESSAGE_BYTES, Target, answer, pb};
use imprint_telemetry::one_line;
use tokio::task::JoinSet;
use tokio::time::{Instant as Moment, sleep_until};

use crate::failure::Failure;

/// Attempts that begin at the same time.
const BEGIN_AT_ONCE: usize = 64;

pub(super) struct Trainers {
    all: Vec<Trainer>,
}

struct Trainer {
    client: AttemptsClient<Channel>,
    run_id: i32,
    attempt: u32,
    every: Duration,
}

/// What became of heartbeats.
#[derive(Default)]
pub(super) struct Told {
    /// From a heartbeat to its answer.
    pub(super) latencies: Vec<Duration>,
    /// Of each that was not answered, or with a no: why.
    pub(super) problems: Vec<String>,
    /// What each trainer said last, by its run.
    pub(super) last_steps: Vec<(i32, u32)>,
}

impl Trainers {
    /// Begins an attempt of each run.
    pub(super) async fn begin(url: &str, runs: &[pb::Run]) -> Result<Self, Failure> {
        let begun = stream::iter(runs.iter().map(|run| Trainer::begin(url, run.run_id)))
            .buffer_unordered(BEGIN_AT_ONCE);
        Ok(Self {
            all: begun.try_collect().await?,
        })
    }

    /// From heartbeat to heartbeat of a trainer, as the orchestrator says.
    pub(super) fn every(&self) -> Duration {
        self.all.first().map_or(Duration::ZERO, |t| t.every)
    }

    /// Sends heartbeats for a while: one of the trainers each `every / n`, and one of each at least.
    pub(super) async fn send_heartbeats(self, watch_for: Duration) -> Told {
        let began = Moment::now();
        let n = self.all.len() as u32;
        let mut telling = JoinSet::new();
        for (number, trainer) in (0..).zip(self.all) {
            let first = began + trainer.every * number / n;
            telling.spawn(trainer.tell(first, began + watch_for));
        }
        let mut told = Told::default();
        while let Some(ended) = telling.join_next().await {
            match ended {
                Ok(of_one) => {
                    told.latencies.extend(of_one.latencies);
                    told.problems.extend(of_one.problems);
                    told.last_steps.extend(of_one.last_steps);
                }
                Err(error) => told.problems.push(one_line(&error)),
            }
        }
        told
    }
}

impl Trainer {
    async fn begin(url: &str, run_id: i32) -> Result<Self, Failure> {
        let channel = imprint_proto::connect_lazy(Target::from(url))
            .map_err(Failure::doing("connect a trainer"))?;
        let mut client = AttemptsClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let request = pb::BeginAttemptRequest {
            run_id,
            host: "bench".to_owned(),
            pid: std::process::id(),
            machine: "simulated".to_owned(),
            ..Default::default()
        };
        let begun = answer("orchestrator", client.begin_attempt(request)).await;
        let begun = begun.map_err(|s| Failure::of_call(&s, "orchestrator", url))?;
        Ok(Self {
            client,
            run_id,
            attempt: begun.attempt,
            every: Duration::from_millis(begun.heartbeat_ms.max(1).into()),
        })
    }

    async fn tell(mut self, first: Moment, until: Moment) -> Told {
        let mut told = Told::default();
        let (mut due, mut step) = (first, 0);
        loop {
            sleep_until(due).await;
            step += 1;
            let request = pb::HeartbeatRequest {
                run_id: self.run_id,
                attempt: self.attempt,
                step,
                steps_per_second: 1.0,
                undelivered_since_step: None,
            };
            let sent = Instant::now();
            match answer("orchestrator", self.client.heartbeat(request)).await {
                Ok(answer) if !answer.stop => told.latencies.push(sent.elapsed()),
                Ok(_) => told
                    .problems
                    .push(format!("run {}: asked to stop", self.run_id)),
                Err(status) => {
                    let why = status.message();
                    told.problems.push(format!("run {}: {why}", self.run_id));
                }
            }
            due += self.every;
            if due >= until {
                told.last_steps.push((self.run_id, step));
                return told;
            }
        }
    }
}
