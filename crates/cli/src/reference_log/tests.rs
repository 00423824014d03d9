use std::path::Path;

use imprint_core::StepReadings;
use proptest::prelude::*;

use super::*;

/// Made by Python's `json.dump(…, indent=4)`, with numbers of every form.
const BY_PYTHON: &str = include_str!("fixtures/by_python.json");

fn probe(fact: u32, depth: Depth, ordinal: u16) -> Option<LoggedProbe> {
    Some(LoggedProbe {
        fact: FactId(fact),
        depth,
        ordinal,
    })
}

fn write(layout: &Layout, n_tokens: &[[u32; 2]], records: &[(u64, StepReadings)]) -> String {
    let mut log = LogWriter::new(Vec::new(), layout.clone(), n_tokens.to_vec());
    for (step, reading) in records {
        log.write(*step, reading).unwrap();
    }
    String::from_utf8(log.finish().unwrap()).unwrap()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn read_all(path: &Path) -> Vec<Record> {
    let mut all = Vec::new();
    records(path, NanRule::Refuse, |record| {
        all.push(record.clone());
        Ok(())
    })
    .unwrap();
    all
}

#[test]
fn what_python_wrote_comes_back_byte_for_byte() {
    let log = file(BY_PYTHON);
    let scan = scan(log.path(), NanRule::Refuse).unwrap();
    assert_eq!(scan.steps, [40000, 40001, 40003]);
    assert_eq!(scan.layout.n_facts(), 3);
    let readings: Vec<(u64, StepReadings)> = read_all(log.path())
        .into_iter()
        .map(|r| {
            let sums = |nats: Vec<f64>| nats.into_iter().map(|v| -v as f32).collect();
            let reading = StepReadings {
                first_sum_nats: sums(r.first_nats),
                target_sum_nats: sums(r.target_nats),
                full_sum_nats: sums(r.full_nats),
                ..StepReadings::default()
            };
            (r.step, reading)
        })
        .collect();
    let n_tokens = vec![[1, 1]; scan.layout.probes().len()];
    assert_eq!(write(&scan.layout, &n_tokens, &readings), BY_PYTHON);
    assert_eq!(scan.n_rounded, 0, "the fixture holds float32 only");
}

#[test]
fn numbers_look_as_in_python() {
    let mut text = String::new();
    for value in [
        0.0,
        1.0,
        0.1,
        12.34375,
        1e-4,
        9.5e-5,
        1e-45,
        1e15,
        1e16,
        1.25e300,
        123456.0,
        f64::from(10.048_05_f32),
        1.5e-7,
    ] {
        write::number(&mut text, value);
        text.push(' ');
    }
    assert_eq!(
        text,
        "0.0 1.0 0.1 12.34375 0.0001 9.5e-05 1e-45 1000000000000000.0 1e+16 1.25e+300 123456.0 \
         10.048049926757812 1.5e-07 "
    );
}

proptest! {
    /// Sums are float32 and losses float64, so that with the token counts nothing is lost.
    #[test]
    fn sums_survive_as_means(sum in -1e9_f32..=-1e-30, n_tokens in 1_u32..100_000) {
        let mut text = String::new();
        write::number(&mut text, f64::from(-sum) / f64::from(n_tokens));
        let loss: f64 = text.parse().unwrap();
        prop_assert_eq!((0.0 - loss * f64::from(n_tokens)) as f32, sum);
    }
}

#[test]
fn a_probe_that_no_fact_has_is_null_and_none_comes_back() {
    let probes = [
        probe(0, Depth::Mem, 0),
        probe(0, Depth::Mem, 1),
        None,
        probe(2, Depth::Mem, 0),
        probe(2, Depth::HardGen, 0),
    ];
    let layout = Layout::of_probes(3, &probes);
    let reading = StepReadings {
        first_sum_nats: vec![-1.0, -2.0, -9.0, -3.0, -4.0],
        target_sum_nats: vec![-2.0, -4.0, -9.0, -6.0, -8.0],
        full_sum_nats: vec![-6.0, -12.0, -9.0, -18.0, -24.0],
        ..StepReadings::default()
    };
    let text = write(&layout, &[[2, 6]; 5], &[(7, reading.clone()), (8, reading)]);
    let log = file(&text);
    let scan = scan(log.path(), NanRule::Refuse).unwrap();
    let expected: Vec<LoggedProbe> = probes.into_iter().flatten().collect();
    assert_eq!(scan.layout.probes(), expected);
    for record in read_all(log.path()) {
        let one_to_four = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(record.first_nats, one_to_four);
        assert_eq!(record.target_nats, one_to_four);
        assert_eq!(record.full_nats, one_to_four);
    }
}

/// Why a log of two records and four probes is refused when a part of it is replaced.
#[track_caller]
fn refused(from: &str, to: &str) -> String {
    let probes = [
        probe(0, Depth::Mem, 0),
        probe(0, Depth::Gen, 0),
        probe(1, Depth::Mem, 0),
        probe(1, Depth::Gen, 0),
    ];
    let value = |nats: f32| vec![nats; 4];
    let reading = |nats: f32| StepReadings {
        first_sum_nats: value(nats),
        target_sum_nats: value(nats - 0.25),
        full_sum_nats: value(nats - 0.5),
        ..StepReadings::default()
    };
    let layout = Layout::of_probes(2, &probes);
    let text = write(
        &layout,
        &[[1, 1]; 4],
        &[(5, reading(-2.0)), (6, reading(-1.0))],
    );
    assert!(text.contains(from), "{text}");
    let log = file(&text.replacen(from, to, 1));
    let error = scan(log.path(), NanRule::Refuse).unwrap_err().to_string();
    let path = log.path().display().to_string();
    error.replace(&path, "LOG")
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let value = "[1].mem_target[0][0]: ";
    for (from, to, place, problem) in [
        ("1.25", "-1.25", value, "-1.25 is below 0"),
        (
            "1.25",
            "NaN",
            value,
            "NaN, which the reference's code writes",
        ),
        ("1.25", "Infinity", value, "expected value"),
        (
            "1.25",
            "1e99",
            value,
            "1e99 nats are more than can be stored",
        ),
        (
            "1.25",
            "null",
            value,
            "no value, but the log begins with one",
        ),
        ("1.25", "\"1.25\"", value, "invalid type: string \"1.25\""),
        (
            "\"step\": 6",
            "\"step\": 5",
            "[1].step: ",
            "step 5 after step 5",
        ),
        (
            "\"step\": 6",
            "\"step\": 6.5",
            "[1].step: ",
            "invalid type: floating point `6.5`",
        ),
        (
            "\"step\": 5",
            "\"step\": -5",
            "[0].step: ",
            "invalid type: integer `-5`",
        ),
        (
            "\"gen_hard_full\"",
            "\"gen_hard\"",
            "[0]: ",
            "`gen_hard_full` is missing",
        ),
        (
            "1.0\n            ],",
            "1.0\n            ]",
            "[1].mem_first[1]: ",
            "expected `,` or `]`",
        ),
        ("\n]", "", "[2]: ", "EOF while parsing a list"),
        ("\n]", "\n] []", ": ", "trailing characters"),
    ] {
        let error = refused(from, to);
        let want = format!("{place}{problem}");
        assert!(
            error.starts_with("LOG: byte ") && error.contains(&want),
            "{want}\n{error}"
        );
    }
    assert_eq!(
        refused("1.25", "-1.25"),
        "LOG: byte 1340, [1].mem_target[0][0]: -1.25 is below 0; a log holds cross-entropies, not \
         log-probabilities at line 82 column 13"
    );
}

#[test]
fn nan_can_be_read_as_no_loss() {
    let log = file(&BY_PYTHON.replacen("0.5", "NaN", 2));
    assert!(scan(log.path(), NanRule::Refuse).is_err());
    let read = scan(log.path(), NanRule::Zero).unwrap();
    assert_eq!(read.n_nan, 2);
    let half = file(&BY_PYTHON.replacen("0.5", "Na", 1));
    assert!(scan(half.path(), NanRule::Zero).is_err());
}

#[test]
fn a_log_of_one_record_is_no_run() {
    for (text, n) in [
        ("[]", 0),
        (
            &*BY_PYTHON.replace("    },\n    {\n        \"step\": 40001", "    }]\n\n"),
            1,
        ),
    ] {
        let text = text.split("]\n\n").next().unwrap().to_owned() + if n == 1 { "]" } else { "" };
        let log = file(&text);
        let error = scan(log.path(), NanRule::Refuse).unwrap_err().to_string();
        assert!(
            error.ends_with(&format!("the log has {n} records; a run has two at least")),
            "{error}"
        );
    }
}
