//! A service on a socket, and the trainer's end of a stream to it.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

use std::net::SocketAddr;
use std::time::Duration;

use imprint_access::Door;
use imprint_core::{StepReadings, UpdateStats};
use imprint_metrics::{Limits, serve};
use imprint_proto::pb;
use imprint_proto::pb::ingest_request::Message as Request;
use imprint_proto::pb::ingest_response::Message as Response;
use imprint_proto::pb::metrics_client::MetricsClient;
use imprint_proto::{Channel, Credentials, Target};
use imprint_telemetry::Vitals;
use imprint_testkit::{SeedRun, TestDb};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Service {
    pub address: SocketAddr,
    /// `http` or `https`.
    scheme: &'static str,
    pub vitals: Vitals,
    pub shutdown: CancellationToken,
    ended: tokio::task::JoinHandle<Result<(), imprint_metrics::Error>>,
}

impl Service {
    /// A service without a lock.
    pub async fn start(db: &TestDb) -> Self {
        Self::behind(db, |door| door).await
    }

    /// A service without a lock that takes so much at once and waits for so long.
    pub async fn limited(db: &TestDb, limits: Limits) -> Self {
        Self::new(db, limits, |door| door).await
    }

    /// A service behind a door that `lock` has locked.
    pub async fn behind(db: &TestDb, lock: impl FnOnce(Door) -> Door) -> Self {
        Self::new(db, Limits::default(), lock).await
    }

    async fn new(db: &TestDb, limits: Limits, lock: impl FnOnce(Door) -> Door) -> Self {
        let door = lock(TcpListener::bind("127.0.0.1:0").await.unwrap().into());
        let (address, scheme) = (door.address().unwrap(), door.scheme());
        let shutdown = CancellationToken::new();
        let vitals = Vitals::default();
        let (store, shown, stop) = (db.store.clone(), vitals.clone(), shutdown.clone());
        let ended = tokio::spawn(async move { serve(door, store, &shown, limits, stop).await });
        Self {
            vitals,
            address,
            scheme,
            shutdown,
            ended,
        }
    }

    pub fn target(&self, credentials: Credentials) -> Target {
        let url = format!("{}://{}", self.scheme, self.address);
        Target { url, credentials }
    }

    pub fn channel(&self) -> Channel {
        imprint_proto::connect_lazy(self.target(Credentials::default())).unwrap()
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.ended)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

/// The trainer's end of a stream.
pub struct Trainer {
    pub sender: mpsc::Sender<pb::IngestRequest>,
    pub answers: Streaming<pb::IngestResponse>,
}

impl Trainer {
    pub async fn connect(channel: Channel, first: Request) -> Result<Self, Status> {
        let (sender, messages) = mpsc::channel(64);
        let message = Some(first);
        sender.send(pb::IngestRequest { message }).await.unwrap();
        let answers = MetricsClient::new(channel)
            .ingest(ReceiverStream::new(messages))
            .await?
            .into_inner();
        Ok(Self { sender, answers })
    }

    /// Connects and opens; returns the cursors too.
    pub async fn open(service: &Service, open: pb::Open) -> Result<(Self, (u32, u32)), Status> {
        Self::open_over(service.channel(), open).await
    }

    pub async fn open_over(channel: Channel, open: pb::Open) -> Result<(Self, (u32, u32)), Status> {
        let mut trainer = Self::connect(channel, Request::Open(open)).await?;
        match trainer.answer().await? {
            Some(Response::Opened(at)) => Ok((trainer, (at.next_reading, at.next_update))),
            other => panic!("{other:?} is no answer to `open`"),
        }
    }

    pub async fn send(&self, message: Request) {
        // Where the stream has ended, the answers tell why.
        let message = Some(message);
        let _ = self.sender.send(pb::IngestRequest { message }).await;
    }

    pub async fn answer(&mut self) -> Result<Option<Response>, Status> {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message())
            .await
            .expect("the service answers");
        answer.map(|a| a.and_then(|a| a.message))
    }

    /// Waits until everything below the cursors is acknowledged.
    pub async fn acknowledged(&mut self, next_reading: u32, next_update: u32) {
        loop {
            match self.answer().await.unwrap().expect("the stream goes on") {
                Response::Acknowledged(a) => {
                    if (a.next_reading, a.next_update) == (next_reading, next_update) {
                        return;
                    }
                }
                Response::Opened(_) => panic!("opened twice"),
            }
        }
    }

    pub async fn refusal(&mut self) -> Status {
        loop {
            match self.answer().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended well"),
                Err(status) => return status,
            }
        }
    }
}

pub fn open(run_id: i32, attempt: u32, resume_step: u32) -> pb::Open {
    pb::Open {
        run_id,
        attempt,
        resume_step,
        machine: "machine".to_owned(),
    }
}

pub fn reading(run: &SeedRun, index: u32, measured_by: u32) -> Request {
    let values = vec![-((measured_by * 1000 + index) as f32); run.n_probes() as usize];
    let readings = StepReadings {
        index,
        step: run.reading_steps()[index as usize],
        measured_by,
        first_sum_nats: values.clone(),
        target_sum_nats: values.clone(),
        full_sum_nats: values,
    };
    Request::Reading((&readings).into())
}

pub fn update(step: u32, measured_by: u32) -> Request {
    let stats = UpdateStats {
        step,
        measured_by,
        loss_nats: f64::from(measured_by),
        ..UpdateStats::default()
    };
    Request::Update((&stats).into())
}

/// Holds a run's head, so that commits of its readings wait until it is let go.
pub async fn hold_stream(db: &TestDb, run_id: i32) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut held = db.store.pool().begin().await.unwrap();
    sqlx::query("select from imprint.ingest_head where run_id = $1 for update")
        .bind(run_id)
        .execute(&mut *held)
        .await
        .unwrap();
    held
}

/// (reading, attempt, value) of all that is stored.
pub async fn stored(db: &TestDb, run_id: i32) -> Vec<(i32, i32, f32)> {
    sqlx::query_as(
        "select reading, attempt, target_sum_nats[1] from imprint.step_reading
         where run_id = $1 order by reading",
    )
    .bind(run_id)
    .fetch_all(db.store.pool())
    .await
    .unwrap()
}

pub fn measured(parts: &[(std::ops::Range<i32>, i32)]) -> Vec<(i32, i32, f32)> {
    let row = |i, by: i32| (i, by, -((by * 1000 + i) as f32));
    parts
        .iter()
        .flat_map(|(r, by)| r.clone().map(move |i| row(i, *by)))
        .collect()
}
