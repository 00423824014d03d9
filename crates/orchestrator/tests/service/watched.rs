//! The orchestrator as those who watch it see it.

use imprint_testkit::http_get;
use tokio::net::TcpListener;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::*;

impl Bench {
    async fn port(&self) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(self.vitals.clone().serve(listener, std::future::pending()));
        address
    }

    /// Whether all services, and the server as a whole, say the same of their health.
    async fn all_are(&self, want: ServingStatus) -> bool {
        for service in ["imprint.v1.Orchestrator", "imprint.v1.Attempts", ""] {
            let service = service.to_owned();
            let request = HealthCheckRequest { service };
            let answer = HealthClient::new(self.channel.clone()).check(request).await;
            if !answer.is_ok_and(|a| a.into_inner().status() == want) {
                return false;
            }
        }
        true
    }
}

#[tokio::test]
async fn health_follows_the_database() {
    let lease = Limits::default().lease;
    let bench = bench_on(TestDb::start_durable().await, None, lease).await;
    let port = bench.port().await;
    let says = |status: u16, words: &'static str| async move {
        let (got, text) = http_get(port, "/healthz").await.unwrap();
        got == status && text.starts_with("orchestrator: ") && text.contains(words)
    };
    let serves =
        || async { bench.all_are(ServingStatus::Serving).await && says(200, "serving").await };
    wait_until(LIMIT, "it serves", serves).await;
    bench.db.kill_postmaster();
    wait_until(LIMIT, "it says that it cannot", || async {
        bench.all_are(ServingStatus::NotServing).await && says(503, "not serving: ").await
    })
    .await;
    bench.db.restart().await;
    wait_until(LIMIT, "it serves again", serves).await;
    bench.shut_down().await;
}

#[tokio::test]
async fn prometheus_is_told_of_runs_and_attempts() {
    let lease = 10 * LIMIT;
    let mut bench = bench_on(TestDb::start().await, None, lease).await;
    let port = bench.port().await;
    let shows = |sample: &'static str| {
        wait_until(LIMIT, sample, move || async move {
            let (status, text) = http_get(port, "/metrics").await.unwrap();
            assert_eq!(status, 200);
            text.lines().any(|line| line == sample)
        })
    };
    bench.submit(PRE).await.unwrap();
    shows("imprint_runs{state=\"queued\"} 1").await;
    let run_id = bench.runs("pre").await[0].run_id;
    bench.begin(run_id).await.unwrap();
    bench.heartbeat(run_id, 1, 5).await.unwrap();
    shows("imprint_runs{state=\"running\"} 1").await;
    shows("imprint_runs{state=\"queued\"} 0").await;
    shows("imprint_attempts_begun_total 1").await;
    // Steps 1 to 4, by the heartbeat.
    shows("imprint_undelivered_steps 4").await;
    let end = pb::EndAttemptRequest {
        run_id,
        attempt: 1,
        outcome: pb::AttemptOutcome::Failed.into(),
        reason: "it diverged".to_owned(),
        step: 5,
    };
    bench.trainers.end_attempt(end).await.unwrap();
    shows("imprint_attempts_ended_total{outcome=\"failed\"} 1").await;
    shows("imprint_runs{state=\"failed\"} 1").await;
    bench.shut_down().await;
}
