//! The calls that list what is stored.

use imprint_proto::page::{Listing, Sizes, cut};
use imprint_proto::{check_text, pb};
use imprint_store::export::StepMean;
use imprint_store::pages::{self, RunKey};
use imprint_store::{Error, Store};
use tonic::Status;

use crate::status::from_store;

const RUNS: Sizes = Sizes {
    default: 100,
    most: 1_000,
};
/// With texts of hundreds of letters, within the 4 MiB that clients take unless told otherwise.
const PROBES: Sizes = Sizes {
    default: 1_000,
    most: 5_000,
};
const READINGS: Sizes = Sizes {
    default: 16,
    most: 256,
};
const POINTS: Sizes = Sizes {
    default: 1_000,
    most: 10_000,
};

/// Values of one page of readings.
const MAX_PAGE_BYTES: usize = 3 << 20;

/// Three float32 values.
const PROBE_BYTES: usize = 12;

pub(crate) async fn list_runs(
    store: &Store,
    request: pb::ListRunsRequest,
) -> Result<pb::ListRunsResponse, Status> {
    let listing = Listing::<2> {
        call: "ListRuns",
        of: &request.experiment,
    };
    let page = listing.page(RUNS, request.page_size, &request.page_token)?;
    check_text("experiment", &request.experiment)?;
    let experiment = Some(request.experiment.as_str()).filter(|name| !name.is_empty());
    let rows = pages::runs(store, experiment, page.after, page.size + 1).await;
    let mut rows = rows.map_err(|e| from_store(&e))?;
    let has_more = cut(&mut rows, page.size);
    let last = rows.last().map(|r| [r.run_id, r.experiment_id]);
    Ok(pb::ListRunsResponse {
        next_page_token: listing.next(last, has_more),
        runs: rows.into_iter().map(run).collect(),
    })
}

fn run(r: pages::RunRow) -> pb::StoredRun {
    pb::StoredRun {
        run_id: r.run_id,
        run: r.label,
        experiment: r.experiment,
        state: r.state.as_str().to_owned(),
        reason: r.reason,
        scenario: r.scenario,
        batch_size: r.batch_size as u32,
        seq_len: r.seq_len as u32,
        seed: r.seed.parse().unwrap_or_default(),
        n_updates: r.n_updates as u32,
        n_probes: r.n_probes as u32,
        readings_expected: r.readings_expected as u32,
        readings_stored: r.readings_stored as u32,
        updates_stored: r.updates_stored as u32,
        first_global_step: r.first_global_step.map(|s| s as u64),
        imported: r.imported,
    }
}

pub(crate) async fn list_probes(
    store: &Store,
    request: pb::ListProbesRequest,
) -> Result<pb::ListProbesResponse, Status> {
    let listing = Listing::<1> {
        call: "ListProbes",
        of: &request.run,
    };
    let page = listing.page(PROBES, request.page_size, &request.page_token)?;
    let run = look_up(store, &request.run).await?;
    let after = page.after.map(|[probe]| probe);
    let rows = pages::probes(store, run, after, page.size + 1).await;
    let mut rows = rows.map_err(|e| from_store(&e))?;
    let has_more = cut(&mut rows, page.size);
    let last = rows.last().map(|(p, _)| [p.probe.0 as i32]);
    let probes = rows.into_iter().map(|(p, arm)| pb::Probe {
        probe: p.probe.0,
        fact: p.fact.0,
        arm,
        depth: p.depth.as_str().to_owned(),
        ordinal: p.ordinal.into(),
        swap_fact: p.swap_fact.map(|f| f.0),
        prompt: p.prompt,
        target: p.target,
        n_target_tokens: p.n_target_tokens,
        n_full_tokens: p.n_full_tokens,
    });
    Ok(pb::ListProbesResponse {
        next_page_token: listing.next(last, has_more),
        probes: probes.collect(),
    })
}

pub(crate) async fn list_readings(
    store: &Store,
    request: pb::ListReadingsRequest,
) -> Result<pb::ListReadingsResponse, Status> {
    let listing = Listing::<1> {
        call: "ListReadings",
        of: &request.run,
    };
    let page = listing.page(READINGS, request.page_size, &request.page_token)?;
    let run = look_up(store, &request.run).await?;
    let reading_bytes = PROBE_BYTES * run.n_probes.max(1) as usize;
    let size = page.size.min((MAX_PAGE_BYTES / reading_bytes).max(1));
    let after = page.after.map(|[index]| index);
    let rows = pages::readings(store, run, after, size + 1).await;
    let mut rows = rows.map_err(|e| from_store(&e))?;
    let has_more = cut(&mut rows, size);
    let last = rows.last().map(|r| [r.index as i32]);
    Ok(pb::ListReadingsResponse {
        next_page_token: listing.next(last, has_more),
        readings: rows.iter().map(pb::Reading::from).collect(),
    })
}

pub(crate) async fn list_curve_points(
    store: &Store,
    request: pb::ListCurvePointsRequest,
) -> Result<pb::ListCurvePointsResponse, Status> {
    let of = format!("{} {}", request.probe, request.run);
    let listing = Listing::<1> {
        call: "ListCurvePoints",
        of: &of,
    };
    let page = listing.page(POINTS, request.page_size, &request.page_token)?;
    let run = look_up(store, &request.run).await?;
    if request.probe >= run.n_probes as u32 {
        let (probe, n) = (request.probe, run.n_probes);
        return Err(from_store(&Error::NotFound {
            what: format!("probe {probe} of run `{}`, which has {n}", request.run),
        }));
    }
    let after = page.after.map(|[index]| index);
    let rows = pages::curve(store, run, request.probe, after, page.size + 1).await;
    let mut rows = rows.map_err(|e| from_store(&e))?;
    let has_more = cut(&mut rows, page.size);
    let last = rows.last().map(|r| [r.reading]);
    let points = rows.into_iter().map(|r| pb::CurvePoint {
        index: r.reading as u32,
        step: r.step as u32,
        first_sum_nats: r.first_sum_nats,
        target_sum_nats: r.target_sum_nats,
        full_sum_nats: r.full_sum_nats,
    });
    Ok(pb::ListCurvePointsResponse {
        next_page_token: listing.next(last, has_more),
        points: points.collect(),
    })
}

pub(crate) async fn list_mean_points(
    store: &Store,
    request: pb::ListMeanPointsRequest,
) -> Result<pb::ListMeanPointsResponse, Status> {
    let listing = Listing::<4> {
        call: "ListMeanPoints",
        of: &request.run,
    };
    let page = listing.page(POINTS, request.page_size, &request.page_token)?;
    let run = look_up(store, &request.run).await?;
    let rows = pages::means(store, run, page.after, page.size + 1).await;
    let mut rows = rows.map_err(|e| from_store(&e))?;
    let has_more = cut(&mut rows, page.size);
    let key = |m: &StepMean| {
        let (reading, depth) = (m.reading as i32, m.depth.index() as i32);
        [reading, m.arm_id.into(), depth, m.swap.into()]
    };
    let last = rows.last().map(key);
    let points = rows.into_iter().map(|m| pb::MeanPoint {
        index: m.reading,
        step: m.step,
        arm: m.arm,
        depth: m.depth.as_str().to_owned(),
        swap: m.swap,
        n_probes: m.n_probes,
        first_mean_nats: m.first_mean_nats,
        target_mean_nats: m.target_mean_nats,
        full_mean_nats: m.full_mean_nats,
    });
    Ok(pb::ListMeanPointsResponse {
        next_page_token: listing.next(last, has_more),
        points: points.collect(),
    })
}

pub(crate) async fn list_updates(
    store: &Store,
    request: pb::ListUpdatesRequest,
) -> Result<pb::ListUpdatesResponse, Status> {
    let listing = Listing::<1> {
        call: "ListUpdates",
        of: &request.run,
    };
    let page = listing.page(POINTS, request.page_size, &request.page_token)?;
    let run = look_up(store, &request.run).await?;
    let after = page.after.map(|[step]| step);
    let rows = pages::updates(store, run, after, page.size + 1).await;
    let mut rows = rows.map_err(|e| from_store(&e))?;
    let has_more = cut(&mut rows, page.size);
    let last = rows.last().map(|u| [u.step as i32]);
    Ok(pb::ListUpdatesResponse {
        next_page_token: listing.next(last, has_more),
        updates: rows.iter().map(pb::Update::from).collect(),
    })
}

async fn look_up(store: &Store, label: &str) -> Result<RunKey, Status> {
    check_text("run", label)?;
    pages::run(store, label).await.map_err(|e| from_store(&e))
}
