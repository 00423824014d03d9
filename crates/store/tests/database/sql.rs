//! The formulas in SQL against those in Rust, and the examples of docs/sql.md.

use std::collections::BTreeMap;

use imprint_analysis::{
    Control, Estimator, FactSchedule, Preset, ProbeSeries, RunData, Settings, analyse,
    effectivities, retainability,
};
use imprint_core::{
    Arm, ArmSteps, ArmText, Depth, FactId, FactRange, Placement, Probe, ProbeControl, Scenario,
    Span, Stagger, Trajectory,
};
use imprint_testkit::{Study, TestDb};
use proptest::prelude::*;
use sqlx::Executor as _;

/// What the formulas are given, straight from the values that were written.
pub(crate) fn run_data(
    study: &Study,
    span: Span,
    sum_nats: impl Fn(&Probe, Span, u32) -> f32,
) -> RunData {
    let schedule = study.schedule();
    let facts = (0..study.facts.len() as u32).map(|fact| FactSchedule {
        fact: FactId(fact),
        arm: schedule.arm_of(FactId(fact)).map(str::to_owned),
        exposure_steps: (schedule.injections().iter())
            .filter(|i| i.fact == FactId(fact))
            .map(|i| i.step)
            .collect(),
    });
    let series = study.probes().into_iter().map(|probe| {
        let n_tokens = f64::from(Study::n_tokens(&probe, span));
        let nats = |step| f64::from(sum_nats(&probe, span, step)) / n_tokens;
        ProbeSeries {
            probe: probe.id,
            fact: probe.fact,
            depth: probe.depth,
            ordinal: probe.ordinal,
            control: match probe.control {
                ProbeControl::Own => Control::Own,
                ProbeControl::Swap { .. } => Control::Swap,
            },
            trajectory: Trajectory::new(study.reading_steps.iter().map(|&s| (s, nats(s)))),
        }
    });
    RunData {
        label: study.label.clone(),
        checkpoint: String::new(),
        scenario: study.scenario_name.clone(),
        batch_size: study.batch_size,
        seed: 0,
        repeat: 0,
        n_updates: study.n_updates,
        tokens_per_step: u64::from(study.batch_size) * u64::from(study.seq_len),
        span,
        facts: facts.collect(),
        probes: series.collect(),
    }
}

pub(crate) fn arm(name: &str, facts: std::ops::Range<u32>, text: ArmText, steps: ArmSteps) -> Arm {
    Arm {
        name: name.to_owned(),
        facts: FactRange {
            start: facts.start,
            end: facts.end,
        },
        text,
        steps,
        stagger: Stagger::default(),
        placement: Placement::RowHead,
    }
}

/// In 0…1, the same at every call.
pub(crate) fn noise(salt: u64, probe: &Probe, span: Span, step: u32) -> f64 {
    let mut x = salt;
    for v in [u64::from(probe.id.0), span as u64, u64::from(step)] {
        x = (x ^ v).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x ^= x >> 29;
    }
    (x >> 11) as f64 / (1_u64 << 53) as f64
}

#[derive(Clone, Debug)]
struct Case {
    study: Study,
    preset: Preset,
    span: Span,
    window: u32,
    salt: u64,
    /// Values that are the same now and then: which reading is the largest is then a matter of
    /// order, and shares are not looked at since they would be of nothing.
    ties: bool,
}

impl Case {
    /// A jump at each exposure that is forgotten in log t, and noise.
    fn sum_nats(&self, probe: &Probe, span: Span, step: u32) -> f32 {
        let since = |i: &&imprint_core::Injection| i.fact == probe.fact && i.step < step;
        let schedule = self.study.schedule();
        let gain: f64 = (schedule.injections().iter().filter(since))
            .map(|i| 1.0 - 0.3 * f64::from(step - i.step).log10())
            .sum();
        let mean = -8.0 + 0.7 * gain + noise(self.salt, probe, span, step);
        let sum = mean.min(0.0) * f64::from(Study::n_tokens(probe, span));
        if self.ties {
            sum.round() as f32
        } else {
            sum as f32
        }
    }
}

fn arm_steps(n_updates: u32) -> impl Strategy<Value = ArmSteps> {
    // Beyond the run's end too: such exposures are planned and never made.
    prop::collection::btree_set(0..n_updates + 5, 1..5)
        .prop_map(|steps| ArmSteps::At(steps.into_iter().collect()))
}

fn case() -> impl Strategy<Value = Case> {
    let size = (2..6_u32, 1..3_u16, any::<bool>(), 20..200_u32);
    size.prop_flat_map(|(n_facts, probes_per_depth, swap, n_updates)| {
        let cut = prop::collection::vec(0..=n_facts, 2);
        let arms = (
            cut,
            arm_steps(n_updates),
            arm_steps(n_updates),
            1..3_u32,
            0..4_u32,
        );
        let read = prop_oneof![
            Just(vec![true; n_updates as usize]),
            prop::collection::vec(prop::bool::weighted(0.7), n_updates as usize),
        ];
        let how = (
            prop::sample::select(Preset::ALL.to_vec()),
            prop::sample::select(Span::ALL.to_vec()),
            1..80_u32,
            any::<u64>(),
            prop::bool::weighted(0.3),
        );
        (arms, read, how).prop_map(move |(arms, read, (preset, span, window, salt, ties))| {
            let (mut cut, first, second, groups, every) = arms;
            cut.sort_unstable();
            let mut scenario = Scenario { arm: Vec::new() };
            for (name, facts, steps) in [("a", 0..cut[0], first), ("b", cut[0]..cut[1], second)] {
                if !facts.is_empty() {
                    scenario.arm.push(Arm {
                        stagger: Stagger { groups, every },
                        ..arm(name, facts, ArmText::Original, steps)
                    });
                }
            }
            let reading_steps =
                (0..=n_updates).filter(|&t| t == 0 || t == n_updates || read[t as usize]);
            Case {
                study: Study {
                    label: String::new(),
                    facts: Study::facts(n_facts, probes_per_depth, 0),
                    scenario_name: "random".to_owned(),
                    scenario,
                    swap,
                    batch_size: 8,
                    seq_len: 64,
                    n_updates,
                    reading_steps: reading_steps.collect(),
                },
                preset,
                span,
                window,
                salt,
                ties,
            }
        })
    })
}

#[track_caller]
fn assert_close(got: Option<f64>, want: Option<f64>, what: &str) {
    let close = match (got, want) {
        (Some(got), Some(want)) => (got - want).abs() <= 1e-5 * want.abs().max(1.0),
        (None, None) => true,
        _ => false,
    };
    assert!(close, "{what}: SQL says {got:?}, Rust {want:?}");
}

async fn play(db: &TestDb, mut case: Case, number: u32) {
    case.study.label = format!("random/{number}");
    let study = &case.study;
    let id = study.submit(&db.store).await;
    let nats = |probe: &Probe, span, step| case.sum_nats(probe, span, step);
    study.measure(&db.store, id, nats).await;
    let run = run_data(study, case.span, nats);
    let settings = Settings {
        window_steps: case.window,
        n_bootstrap: 0,
        ..Settings::of(case.preset)
    };
    compare_effectivity(db, &case, &run, &settings).await;
    if !case.ties {
        compare_retainability(db, &case, &run, &settings).await;
    }
}

async fn compare_effectivity(db: &TestDb, case: &Case, run: &RunData, settings: &Settings) {
    type Row = (
        String,
        String,
        i32,
        i32,
        i32,
        i32,
        i32,
        f64,
        Option<f64>,
        Option<f64>,
        bool,
    );
    let rows: Vec<Row> = sqlx::query_as(
        "select arm, depth, probe, exposure, step, window_steps, t_lam,
             own_nats, null_nats, swap_nats, is_outlier
         from imprint.effectivity($1, $2, $3, $4)",
    )
    .bind(&case.study.label)
    .bind(case.window as i32)
    .bind(case.preset.as_str())
    .bind(case.span.as_str())
    .fetch_all(db.store.pool())
    .await
    .unwrap();
    let mut found: BTreeMap<(String, String, i32, i32), Row> = rows
        .into_iter()
        .map(|row| ((row.0.clone(), row.1.clone(), row.2, row.3), row))
        .collect();
    let groups = analyse(run, settings);
    for arm in run.arms() {
        for depth in Depth::ALL {
            let mut outliers = 0;
            for want in &effectivities(run, arm, depth, settings).rows {
                let key = (
                    arm.to_owned(),
                    depth.to_string(),
                    want.probe.0 as i32,
                    want.exposure.index as i32 + 1,
                );
                let what = format!("{key:?} of {case:?}");
                let got = found.remove(&key).unwrap_or_else(|| panic!("no {what}"));
                assert_eq!(
                    (got.4 as u32, got.5 as u32, got.6 as u32),
                    (want.exposure.step, want.exposure.window_steps, want.t_lam),
                    "{what}"
                );
                assert_close(Some(got.7), Some(want.own_nats), &what);
                assert_close(got.8, want.null_nats, &what);
                assert_close(got.9, want.swap_nats, &what);
                outliers += usize::from(got.10);
            }
            let row = groups
                .iter()
                .find(|g| (g.row.arm.as_str(), g.row.depth) == (arm, depth));
            if let Some(group) = row {
                assert_eq!(
                    outliers, group.row.mean_published_n_outliers,
                    "{arm} {depth} {case:?}"
                );
            }
        }
    }
    assert!(found.is_empty(), "{found:?} of {case:?}");
}

async fn compare_retainability(db: &TestDb, case: &Case, run: &RunData, settings: &Settings) {
    type Row = (String, String, String, bool, i32, f64, i64, i64, i64);
    let ask = async |at_steps: Option<Vec<i32>>| -> Vec<Row> {
        sqlx::query_as("select * from imprint.retainability($1, $2, $3, $4, $5)")
            .bind(&case.study.label)
            .bind(case.window as i32)
            .bind(case.preset.as_str())
            .bind(case.span.as_str())
            .bind(at_steps)
            .fetch_all(db.store.pool())
            .await
            .unwrap()
    };
    let rows = ask(Some((0..=case.study.n_updates as i32).collect())).await;
    let mut curves: BTreeMap<(String, String, String, bool), Vec<Row>> = BTreeMap::new();
    for row in &rows {
        let key = (row.0.clone(), row.1.clone(), row.2.clone(), row.3);
        curves.entry(key).or_default().push(row.clone());
    }
    for arm in run.arms() {
        for depth in Depth::ALL {
            let Some(retained) = retainability(run, arm, depth, settings) else {
                continue;
            };
            for (name, estimator) in [
                ("ratio_of_means", Estimator::RatioOfMeans),
                ("mean_of_ratios", Estimator::MeanOfRatios),
            ] {
                for null_subtracted in [false, true] {
                    let key = (
                        arm.to_owned(),
                        depth.to_string(),
                        name.to_owned(),
                        null_subtracted,
                    );
                    let got = curves.remove(&key).unwrap_or_default();
                    let want = retained.curve(estimator, null_subtracted);
                    let want = want.as_ref().map_or(&[][..], |c| &c.points);
                    let what = format!("{key:?} of {case:?}");
                    assert_eq!(got.len(), want.len(), "{what}");
                    for (got, want) in got.iter().zip(want) {
                        assert_eq!(
                            (got.4 as u32, got.6 as usize, got.7 as usize),
                            (want.t_steps, want.n_probes, want.n_outliers),
                            "{what}"
                        );
                        assert_close(Some(got.5), Some(want.r), &what);
                    }
                }
            }
        }
    }
    assert!(curves.is_empty(), "{curves:?} of {case:?}");
    // Where no t are asked for, some of the same.
    let key = |row: &Row| (row.0.clone(), row.1.clone(), row.2.clone(), row.3, row.4);
    let all: BTreeMap<_, f64> = rows.iter().map(|row| (key(row), row.5)).collect();
    let some = ask(None).await;
    for row in &some {
        assert_close(
            all.get(&key(row)).copied(),
            Some(row.5),
            &format!("{row:?} of {case:?}"),
        );
    }
    assert_eq!(some.is_empty(), rows.is_empty(), "{case:?}");
}

#[test]
fn formulas_in_sql_agree_with_those_in_rust() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let db = runtime.block_on(TestDb::start());
    let number = std::cell::Cell::new(0);
    crate::random_cases(40)
        .run(&case(), |case| {
            number.set(number.get() + 1);
            runtime.block_on(play(&db, case, number.get()));
            Ok(())
        })
        .unwrap();
    let _inside = runtime.enter();
    drop(db);
}

#[tokio::test]
async fn what_there_is_not_is_said() {
    let db = TestDb::start().await;
    for (query, says) in [
        (
            "select * from imprint.curve('a/b', 0)",
            "there is no run `a/b`",
        ),
        (
            "select * from imprint.effectivity('a/b')",
            "there is no run `a/b`",
        ),
        (
            "select * from imprint.effectivity(1, 50, 'mine')",
            "preset `mine`: use",
        ),
        (
            "select * from imprint.retainability(1, span => 'x')",
            "span `x`: use",
        ),
    ] {
        let error = db.store.pool().execute(query).await.unwrap_err();
        assert!(error.to_string().contains(says), "{query}: {error}");
    }
    // A run that has no readings yet has no results either.
    let none = db
        .store
        .pool()
        .fetch_all("select * from imprint.effectivity(1)")
        .await;
    assert_eq!(none.unwrap().len(), 0);
}
