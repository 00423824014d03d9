use imprint_core::{StepReadings, UpdateStats};
use imprint_store::ingest::{Message, Writer};
use imprint_testkit::{SeedRun, TestDb, begin_attempt, seed_run};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;

use super::*;

/// Values with every digit that a float32 has.
fn nats(seed: u32) -> f32 {
    let noise = seed.wrapping_mul(2_654_435_761) ^ (seed << 7);
    -(noise as f32 / 2.5e8)
}

/// A run of which everything is stored.
async fn measured(store: &Store, run: &SeedRun) -> RunRecord {
    let id = seed_run(store, run).await;
    let attempt = begin_attempt(store, id).await;
    let (mut writer, _) = Writer::open(store, id, attempt, 0, "machine")
        .await
        .unwrap();
    let n_probes = run.n_probes();
    let mut messages = Vec::new();
    for (index, step) in (0..).zip(run.reading_steps()) {
        let sums = |span| {
            let seeds = (0..n_probes).map(|p| nats((index * n_probes + p) * 3 + span));
            seeds.collect::<Vec<_>>()
        };
        messages.push(Message::Reading(StepReadings {
            index,
            step,
            measured_by: attempt,
            first_sum_nats: sums(0),
            target_sum_nats: sums(1),
            full_sum_nats: sums(2),
        }));
    }
    for step in 0..run.n_updates {
        messages.push(Message::Update(UpdateStats {
            step,
            measured_by: attempt,
            loss_nats: f64::from(nats(step)).abs() / 3.0,
            learning_rate: 1e-3 / f64::from(step + 1),
            grad_norm: 0.1 * f64::from(step),
            update_norm: 1e-7,
            n_tokens: 32,
            n_injected_tokens: 8,
            duration_ms: 0.7 * step as f32,
        }));
    }
    let appended = writer.append(&messages).await.unwrap();
    assert_eq!(appended.refused, None);
    let (experiment, _) = run.label.split_once('/').unwrap();
    let runs = results::runs(store, experiment).await.unwrap();
    runs.into_iter().find(|r| r.label == run.label).unwrap()
}

/// The rows that SQL shows, as JSON objects: floats in it mean themselves alone.
async fn shown(store: &Store, what: What) -> Vec<Value> {
    let query = match what {
        What::Readings => {
            "select row_to_json(v)::text from imprint.reading v order by run_id, reading, probe"
        }
        What::Updates => "select row_to_json(v)::text from imprint.step_stats v order by run_id, step",
        What::Means => {
            "select row_to_json(v)::text from imprint.mean_curve v
             join imprint.run_arm a on a.run_id = v.run_id and a.name = v.arm
             order by v.run_id, v.step, a.arm, array_position(array['mem', 'gen', 'hard_gen'], v.depth), v.swap"
        }
        What::Exposures => {
            "select row_to_json(v)::text from imprint.exposure v order by run_id, fact, exposure"
        }
    };
    let rows: Vec<String> = sqlx::query_scalar(query)
        .fetch_all(store.pool())
        .await
        .unwrap();
    let parse = |row: &String| serde_json::from_str(row).unwrap();
    rows.iter().map(parse).collect()
}

#[track_caller]
fn same(exported: &Field, shown: &Value) {
    let is_same = match exported {
        Field::Null => shown.is_null(),
        Field::Bool(value) => shown.as_bool() == Some(*value),
        Field::Int(value) => shown.as_i64() == Some((*value).into()),
        Field::Float(value) => (shown.as_f64().unwrap() as f32).to_bits() == value.to_bits(),
        Field::Double(value) => shown.as_f64().unwrap().to_bits() == value.to_bits(),
        Field::Str(value) => shown.as_str() == Some(value),
        other => panic!("{other:?}"),
    };
    assert!(is_same, "{exported:?} is not {shown}");
}

const ALL: [What; 4] = [What::Readings, What::Updates, What::Means, What::Exposures];

#[tokio::test]
async fn files_hold_what_sql_shows_to_the_bit() {
    let db = TestDb::start().await;
    let store = &db.store;
    let run = SeedRun {
        n_updates: 12,
        ..SeedRun::default()
    };
    let other = SeedRun {
        label: "test/other".to_owned(),
        swap: false,
        read_every: 5,
        ..SeedRun::default()
    };
    let runs = [measured(store, &run).await, measured(store, &other).await];
    let dir = tempfile::tempdir().unwrap();
    for what in ALL {
        let shown = shown(store, what).await;
        let path = dir.path().join("rows.parquet");
        let n = table(store, &runs, what, Format::Parquet, &path)
            .await
            .unwrap();
        assert_eq!(n as usize, shown.len(), "{what:?}");
        assert!(n > 0);
        let file = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        let names: Vec<&str> = what.columns().iter().map(|c| c.name).collect();
        for (row, shown) in file.get_row_iter(None).unwrap().zip(&shown) {
            let row = row.unwrap();
            let columns: Vec<_> = row.get_column_iter().collect();
            assert_eq!(
                columns
                    .iter()
                    .map(|(name, _)| name.as_str())
                    .collect::<Vec<_>>(),
                names
            );
            for (name, field) in columns {
                same(field, &shown[name]);
            }
        }
        let metadata = file
            .metadata()
            .file_metadata()
            .key_value_metadata()
            .unwrap();
        let about = |key: &str| {
            let entry = metadata.iter().find(|kv| kv.key == key).unwrap();
            entry.value.clone().unwrap()
        };
        assert_eq!(about("imprint.table"), what.as_str());
        let columns: Vec<Value> = serde_json::from_str(&about("imprint.columns")).unwrap();
        assert_eq!(columns.len(), names.len());

        let path = dir.path().join("rows.csv");
        table(store, &runs, what, Format::Csv, &path).await.unwrap();
        let mut csv = csv::Reader::from_path(&path).unwrap();
        assert_eq!(csv.headers().unwrap().iter().collect::<Vec<_>>(), names);
        let mut n = 0;
        for (row, shown) in csv.records().zip(&shown) {
            n += 1;
            for (text, column) in row.unwrap().iter().zip(what.columns()) {
                let field = match column.kind {
                    _ if text.is_empty() => Field::Null,
                    columns::Kind::Bool => Field::Bool(text.parse().unwrap()),
                    columns::Kind::Int => Field::Int(text.parse().unwrap()),
                    columns::Kind::Float => Field::Float(text.parse().unwrap()),
                    columns::Kind::Double => Field::Double(text.parse().unwrap()),
                    columns::Kind::Text => Field::Str(text.to_owned()),
                };
                same(&field, &shown[column.name]);
            }
        }
        assert_eq!(n, shown.len());
    }
    assert_eq!(names_in(dir.path()), ["rows.csv", "rows.parquet"]);
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let name =
        |entry: io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

#[tokio::test]
async fn nothing_half_done_stays() {
    let db = TestDb::start().await;
    let store = &db.store;
    let run = measured(store, &SeedRun::default()).await;
    sqlx::query(
        "update imprint.step_reading set full_sum_nats = full_sum_nats[1:3] where reading = 7",
    )
    .execute(store.pool())
    .await
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kept");
    std::fs::write(&path, "what was there").unwrap();
    let runs = std::slice::from_ref(&run);
    for format in [Format::Parquet, Format::Csv] {
        let failed = table(store, runs, What::Readings, format, &path)
            .await
            .unwrap_err();
        assert!(failed.to_string().contains("step 7"), "{failed}");
    }
    let failed = reference_log(store, &run, &path).await.unwrap_err();
    assert!(failed.to_string().contains("step 7"), "{failed}");
    assert_eq!(names_in(dir.path()), ["kept"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "what was there");
}

#[test]
fn groups_end_with_a_step() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let columns = &[columns::UPDATES[2]];
    let mut parquet: Box<dyn TableFile> =
        Box::new(ParquetFile::new(file.reopen().unwrap(), "steps", columns).unwrap());
    for step in 0..3 {
        for _ in 0..70_000 {
            parquet.row(&[Cell::Int(step)]).unwrap();
        }
        parquet.end_of_step().unwrap();
    }
    parquet.finish().unwrap();
    let file = SerializedFileReader::new(file.reopen().unwrap()).unwrap();
    let groups = file.metadata().row_groups().iter();
    let rows: Vec<i64> = groups.map(|group| group.num_rows()).collect();
    assert_eq!(rows, [140_000, 70_000]);
}
