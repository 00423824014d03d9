//! Simulated trainers: a spool each, delivered as a real trainer delivers.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use imprint_core::simulated;
use imprint_proto::pb;
use imprint_spool::{Cursors, Delivery, DeliveryError, Record, SpoolWriter};
use imprint_store::bench::{ATTEMPT, SimulatedRuns};
use imprint_telemetry::one_line;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::Load;
use crate::failure::Failure;

/// A step that takes this long to become durable is taken for lost.
const PATIENCE: Duration = Duration::from_secs(120);

/// Steps that a trainer is ahead of what is durable at most.
const STEPS_AHEAD: usize = 64;

pub(super) struct Trainers {
    all: Vec<Trainer>,
    load: Load,
}

struct Trainer {
    number: u32,
    run_id: i32,
    spool: SpoolWriter,
    durable: watch::Receiver<Cursors>,
    delivery: JoinHandle<Result<(), DeliveryError>>,
    next: u32,
}

impl Trainers {
    pub(super) fn start(
        metrics_url: &str,
        load: &Load,
        runs: &SimulatedRuns,
        spools: &Path,
    ) -> Result<Self, Failure> {
        let trainers = (0..).zip(&runs.run_ids).map(|(number, &run_id)| {
            let open = pb::Open {
                run_id,
                attempt: ATTEMPT,
                resume_step: 0,
                machine: "simulated".to_owned(),
            };
            let dir = spools.join(run_id.to_string());
            let spool = SpoolWriter::create(&dir, &open).map_err(|e| broken(&e))?;
            let (durable, seen) = watch::channel(Cursors::default());
            let delivery = Delivery {
                metrics: metrics_url.into(),
                open,
                spool: dir,
                extent: spool.extent(),
                durable,
            };
            Ok(Trainer {
                number,
                run_id,
                spool,
                durable: seen,
                delivery: tokio::spawn(delivery.run()),
                next: 0,
            })
        });
        Ok(Self {
            all: trainers.collect::<Result<_, Failure>>()?,
            load: load.clone(),
        })
    }

    /// Everybody connects, and is where its first round begins.
    pub(super) async fn warm_up(&mut self) -> Result<(), Failure> {
        let load = self.load.clone();
        self.each(|trainer| {
            let to = load.first_reading(trainer.number);
            (to, None)
        })
        .await
        .map(drop)
    }

    /// One round of every trainer; how long it took each step from its spool to the disk.
    pub(super) async fn round(&mut self) -> Result<Vec<Duration>, Failure> {
        let load = self.load.clone();
        self.each(|trainer| {
            let offset = load.period().map(|p| p * trainer.number / load.trainers);
            (trainer.next + load.steps, offset)
        })
        .await
    }

    async fn each(
        &mut self,
        until: impl Fn(&Trainer) -> (u32, Option<Duration>),
    ) -> Result<Vec<Duration>, Failure> {
        let (began, mut latencies) = (Instant::now(), Vec::new());
        let mut rounds = JoinSet::new();
        for mut trainer in self.all.drain(..) {
            let load = self.load.clone();
            let (to, offset) = until(&trainer);
            rounds.spawn(async move {
                let pace = offset
                    .zip(load.period())
                    .map(|(o, period)| (began + o, period));
                let latencies = trainer.deliver(to, pace, &load).await?;
                Ok::<_, Failure>((trainer, latencies))
            });
        }
        while let Some(ended) = rounds.join_next().await {
            let (trainer, of_one) = ended
                .map_err(Failure::doing("simulate a trainer"))
                .and_then(|r| r)?;
            self.all.push(trainer);
            latencies.extend(of_one);
        }
        Ok(latencies)
    }

    /// Everybody has delivered everything.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        for trainer in self.all {
            trainer.spool.close();
            let delivered = trainer
                .delivery
                .await
                .map_err(Failure::doing("simulate a trainer"))?;
            delivered.map_err(|e| Failure::failed(one_line(&e)))?;
        }
        Ok(())
    }
}

impl Trainer {
    /// Measures steps up to `to`, the first at the pace's beginning, and waits until they are
    /// durable.
    async fn deliver(
        &mut self,
        to: u32,
        pace: Option<(Instant, Duration)>,
        load: &Load,
    ) -> Result<Vec<Duration>, Failure> {
        let mut latencies = Vec::with_capacity((to - self.next) as usize);
        let mut waiting: VecDeque<(u32, Instant)> = VecDeque::new();
        let first = self.next;
        while self.next < to || !waiting.is_empty() {
            let is_ahead = waiting.len() >= STEPS_AHEAD;
            if self.next < to && !is_ahead {
                if let Some((begin, period)) = pace {
                    let due = begin + period * (self.next - first);
                    self.wait_until(due, &mut waiting, &mut latencies).await?;
                }
                let step = self.next;
                let values = simulated::reading(self.run_id, step, step, ATTEMPT, load.probes);
                let (reading, update) = (
                    (&values).into(),
                    (&simulated::update(self.run_id, step, ATTEMPT)).into(),
                );
                waiting.push_back((step, Instant::now()));
                self.spool
                    .append(Record::Reading(reading))
                    .map_err(|e| broken(&e))?;
                if let Some((begin, period)) = pace {
                    // An update takes most of a step.
                    let due = begin + period * (step - first) + period / 2;
                    self.wait_until(due, &mut waiting, &mut latencies).await?;
                }
                self.spool
                    .append(Record::Update(update))
                    .map_err(|e| broken(&e))?;
                self.next += 1;
                self.settle(&mut waiting, &mut latencies);
            } else {
                self.acknowledged(&mut waiting, &mut latencies).await?;
            }
        }
        Ok(latencies)
    }

    async fn wait_until(
        &mut self,
        due: Instant,
        waiting: &mut VecDeque<(u32, Instant)>,
        latencies: &mut Vec<Duration>,
    ) -> Result<(), Failure> {
        let mut due = std::pin::pin!(tokio::time::sleep_until(due.into()));
        loop {
            tokio::select! {
                () = &mut due => return Ok(()),
                heard = self.acknowledged(waiting, latencies) => heard?,
            }
        }
    }

    /// Waits for the next word of what is durable.
    async fn acknowledged(
        &mut self,
        waiting: &mut VecDeque<(u32, Instant)>,
        latencies: &mut Vec<Duration>,
    ) -> Result<(), Failure> {
        tokio::select! {
            changed = self.durable.changed() => if changed.is_err() {
                let ended = (&mut self.delivery).await.map_err(Failure::doing("deliver"))?;
                let why = ended.err().map_or_else(|| "it ended".to_owned(), |e| one_line(&e));
                return Err(Failure::failed(format!("delivery of run {}: {why}", self.run_id)));
            },
            () = tokio::time::sleep(PATIENCE) => if let Some((step, _)) = waiting.front() {
                return Err(Failure::failed(format!(
                    "step {step} of run {} was not acknowledged within {} s",
                    self.run_id, PATIENCE.as_secs(),
                )));
            },
        }
        self.settle(waiting, latencies);
        Ok(())
    }

    fn settle(&mut self, waiting: &mut VecDeque<(u32, Instant)>, latencies: &mut Vec<Duration>) {
        let durable = *self.durable.borrow_and_update();
        while let Some((step, appended)) = waiting.front()
            && *step < durable.reading
        {
            latencies.push(appended.elapsed());
            waiting.pop_front();
        }
    }
}

fn broken(error: &imprint_spool::Error) -> Failure {
    Failure::failed(one_line(error))
}
