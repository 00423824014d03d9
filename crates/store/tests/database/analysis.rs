//! What is kept of analyses, when it is shown, and the examples that show it.

use imprint_analysis::{GroupAnalysis, Preset, Settings, analyse};
use imprint_core::{ArmSteps, ArmText, Depth, Probe, ProbeControl, Scenario, Span};
use imprint_store::analysis::{self, Fit, FitKind, Method};
use imprint_testkit::{Study, TestDb, begin_attempt};
use sqlx::{Executor as _, Row as _};

use crate::sql::{arm, noise, run_data};

/// The scenario `paper`, small: four facts an arm and four held out.
fn study(checkpoint: &str, batch_size: u32) -> Study {
    let every = |count| ArmSteps::every(0, 30, count);
    Study {
        label: format!("study/{checkpoint}-paper-b{batch_size}-s0"),
        facts: Study::facts(16, 2, 5),
        scenario_name: "paper".to_owned(),
        scenario: Scenario {
            arm: vec![
                arm("paraphrase", 0..4, ArmText::Paraphrases, every(5)),
                arm("duplication", 4..8, ArmText::Original, every(5)),
                arm("once", 8..12, ArmText::Original, every(1)),
            ],
        },
        swap: true,
        batch_size,
        seq_len: 2048,
        n_updates: 400,
        reading_steps: (0..=400).collect(),
    }
}

/// Facts are acquired at each exposure and forgotten in log t, sooner in smaller batches.
fn sum_nats(study: &Study) -> impl Fn(&Probe, Span, u32) -> f32 {
    let schedule = study.schedule();
    let decay = if study.batch_size < 1000 { 0.35 } else { 0.25 };
    move |probe, span, step| {
        let gain: f64 = (schedule.injections().iter())
            .filter(|i| i.fact == probe.fact && i.step < step)
            .map(|i| (1.0 - decay * f64::from(step - i.step).log10()) / f64::from(1 + i.exposure))
            .sum();
        let share = match (probe.control, probe.depth) {
            (ProbeControl::Swap { .. }, _) => 0.3,
            (_, Depth::Mem) => 1.2,
            (_, Depth::Gen) => 0.8,
            (_, Depth::HardGen) => 0.5,
        };
        let nats = -6.0 + share * gain + 0.1 * noise(7, probe, span, step);
        (nats.min(0.0) * f64::from(Study::n_tokens(probe, span))) as f32
    }
}

fn method(preset: Preset) -> Method {
    Method {
        preset: preset.as_str(),
        span: Span::Target,
        max_window_steps: 50,
        version: imprint_analysis::VERSION,
    }
}

fn fits(group: &GroupAnalysis) -> Vec<Fit> {
    let row = &group.row;
    let fit = |fit: &imprint_analysis::DecayFit| {
        let is_robust = row.decay_fit.as_ref() == Some(&fit.name);
        let is_published = row.published_fit.as_ref() == Some(&fit.name);
        let low_high = |low, high| if is_robust { [low, high] } else { [None, None] };
        Fit {
            arm: row.arm.clone(),
            depth: row.depth,
            name: fit.name.clone(),
            kind: (is_robust.then_some(FitKind::Robust))
                .or_else(|| is_published.then_some(FitKind::Published)),
            n_points: fit.n_points,
            decay_a: fit.a,
            decay_a_ci95: low_high(row.decay_a_ci95_low, row.decay_a_ci95_high),
            intercept: fit.intercept,
            r2: fit.r2,
            r2_linear: fit.r2_linear,
            threshold_log10_steps: fit.x_intercept_log10_steps,
            threshold_log10_tokens: fit.x_intercept_log10_tokens,
            threshold_log10_tokens_ci95: low_high(
                row.threshold_log10_tokens_ci95_low,
                row.threshold_log10_tokens_ci95_high,
            ),
        }
    };
    group.fits.iter().map(fit).collect()
}

/// Submits, measures and analyses a run; returns its number.
async fn made(db: &TestDb, study: &Study) -> i32 {
    let id = study.submit(&db.store).await;
    study.measure(&db.store, id, sum_nats(study)).await;
    let run = run_data(study, Span::Target, sum_nats(study));
    for preset in Preset::ALL {
        let settings = Settings {
            n_bootstrap: 100,
            ..Settings::of(preset)
        };
        let readings = analysis::watermark(&db.store, id).await.unwrap();
        let fits: Vec<Fit> = analyse(&run, &settings).iter().flat_map(fits).collect();
        analysis::keep(&db.store, readings, &method(preset), &fits)
            .await
            .unwrap();
    }
    id
}

/// The text between ```` ```sql ```` and ```` ``` ````.
fn examples(page: &str) -> Vec<&str> {
    page.split("```sql\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect()
}

#[tokio::test]
async fn every_example_of_the_page_answers() {
    let db = TestDb::start().await;
    for (checkpoint, batch_size) in [("early", 2048), ("mid", 2048), ("late", 2048), ("mid", 128)] {
        made(&db, &study(checkpoint, batch_size)).await;
    }
    let mut reader = db.store.pool().acquire().await.unwrap();
    // As who may only read, where there is such a role.
    let role: Option<String> =
        sqlx::query_scalar("select rolname::text from pg_roles where rolname = 'imprint_reader'")
            .fetch_optional(&mut *reader)
            .await
            .unwrap();
    if let Some(role) = role {
        let set = format!("set role {role}");
        reader.execute(sqlx::AssertSqlSafe(set)).await.unwrap();
    }
    let examples = examples(include_str!("../../../../docs/sql.md"));
    assert!(examples.len() >= 15, "{}", examples.len());
    for example in examples {
        let rows = sqlx::query(example).fetch_all(&mut *reader).await;
        let rows = rows.unwrap_or_else(|error| panic!("{error}\n{example}"));
        assert!(!rows.is_empty(), "no rows:\n{example}");
        // A column in which nothing ever stands is one that the demo does not show.
        for column in rows[0].columns() {
            let name = sqlx::Column::name(column);
            let says = |row: &sqlx::postgres::PgRow| {
                !sqlx::ValueRef::is_null(&row.try_get_raw(name).unwrap())
            };
            assert!(rows.iter().any(says), "`{name}` is always null:\n{example}");
        }
    }
}

#[tokio::test]
async fn fits_are_shown_while_they_are_of_the_readings_that_there_are() {
    let db = TestDb::start().await;
    let store = &db.store;
    let study = study("mid", 2048);
    let id = made(&db, &study).await;
    let shown = async || -> (i64, i64, String) {
        sqlx::query_as(
            "select (select count(*) from imprint.decay_fit where run = $1),
                 (select count(*) from imprint.learnability_threshold where run = $1),
                 (select analysis from imprint.run_summary where run = $1)",
        )
        .bind(&study.label)
        .fetch_one(store.pool())
        .await
        .unwrap()
    };
    let kept = async || -> i64 {
        sqlx::query_scalar("select count(*) from imprint.analysis_result")
            .fetch_one(store.pool())
            .await
            .unwrap()
    };
    // Three arms, three depths, two presets, eight fits.
    assert_eq!(shown().await, (144, 144, "current".to_owned()));
    let paper = method(Preset::Paper);
    assert!(analysis::wanting(store, &paper).await.unwrap().is_empty());
    let next_version = Method {
        version: paper.version + 1,
        ..paper.clone()
    };
    assert_eq!(
        analysis::wanting(store, &next_version).await.unwrap(),
        [study.label.as_str()]
    );

    // What they were computed from: the interval is that of the fit, in the right column.
    let settings = Settings {
        n_bootstrap: 100,
        ..Settings::of(Preset::Paper)
    };
    let run = run_data(&study, Span::Target, sum_nats(&study));
    let groups = analyse(&run, &settings);
    let once = (groups.iter())
        .find(|g| (g.row.arm.as_str(), g.row.depth) == ("once", Depth::Gen))
        .unwrap();
    let row: (String, f64, f64, f64, f64, f64) = sqlx::query_as(
        "select fit, decay_a, decay_a_ci95_low, decay_a_ci95_high, threshold_log10_tokens,
             threshold_log10_tokens_ci95_low
         from imprint.decay_fit join imprint.learnability_threshold
             using (run, arm, depth, span, preset, max_window_steps, fit, kind)
         where run = $1 and arm = 'once' and depth = 'gen' and kind = 'robust'
             and preset = 'paper'",
    )
    .bind(&study.label)
    .fetch_one(store.pool())
    .await
    .unwrap();
    let want = &once.row;
    assert_eq!(
        (
            Some(row.0),
            Some(row.1),
            Some(row.2),
            Some(row.3),
            Some(row.4),
            Some(row.5)
        ),
        (
            want.decay_fit.clone(),
            want.decay_a,
            want.decay_a_ci95_low,
            want.decay_a_ci95_high,
            want.threshold_log10_tokens,
            want.threshold_log10_tokens_ci95_low,
        )
    );

    // Computed again: in place of what was there.
    let readings = analysis::watermark(store, id).await.unwrap();
    let fits: Vec<Fit> = fits(once);
    analysis::keep(store, readings, &paper, &fits)
        .await
        .unwrap();
    assert_eq!(shown().await, (72 + 8, 72 + 8, "current".to_owned()));

    // A later attempt goes back: from then on it is another run's past.
    let attempt = begin_attempt(store, id).await;
    imprint_store::ingest::Writer::open(store, id, attempt, 350, "machine")
        .await
        .unwrap();
    assert_eq!(shown().await, (0, 0, "stale".to_owned()));
    assert_eq!(kept().await, 80, "for who asks what was computed then");
    assert_eq!(
        analysis::wanting(store, &paper).await.unwrap(),
        [study.label.as_str()]
    );
    // What was read before and computed after does not pass for current either.
    analysis::keep(store, readings, &paper, &fits)
        .await
        .unwrap();
    assert_eq!(shown().await.2, "stale");

    let readings = analysis::watermark(store, id).await.unwrap();
    analysis::keep(store, readings, &paper, &[]).await.unwrap();
    assert_eq!(shown().await, (0, 0, "current".to_owned()));
    assert!(analysis::wanting(store, &paper).await.unwrap().is_empty());
}
