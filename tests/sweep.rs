//! A matrix with further axes, from files below a root: dry run, runs, the same file again, more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use imprint_e2e::{Lab, THRICE, TINY, experiment, succeeds, training, write_world};
use imprint_testkit::{TestDb, bin};

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_is_estimated_run_and_widened() {
    let mut lab = Lab::new(TestDb::start_durable().await, bin("imprint-trainer"));
    write_world(lab.dir());
    let dir = lab.dir().display().to_string();
    lab.set_site(&format!(
        "[roots]\nworld = '{dir}'\nonly_roots = true\n[executor.here]\nkind = 'local'\nslots = 2"
    ));
    lab.start_metrics().await;
    lab.start_orchestrator().await;

    let sweep = |seeds: &str| {
        experiment(
            "sweep",
            &format!("scenarios = ['once']\nseeds = {seeds}"),
            TINY,
            &(training(40) + THRICE),
        )
        .replace("\"facts.json\"", "\"world:facts.json\"")
        .replace("\"corpus.u16\"", "\"world:corpus.u16\"")
            + "[matrix.product]\n'training.learning_rate.peak' = [1e-3, 5e-3]\n\
               [[matrix.zip]]\nbatch_size = [4, 8]\n'training.steps' = [40, 30]\n\
               [[matrix.exclude]]\nbatch_size = 8\n'training.learning_rate.peak' = 5e-3\n"
    };
    let file = |seeds: &str| {
        std::fs::write(lab.dir().join("sweep.toml"), sweep(seeds)).expect("write the experiment");
    };
    file("[0]");
    let said = |arguments: &[&str]| {
        let out = lab.says(arguments);
        let (stdout, stderr) = (
            String::from_utf8_lossy(&out.stdout).into_owned(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        );
        assert!(out.status.success(), "{stdout}\n{stderr}");
        (stdout, stderr)
    };
    let (dry, _) = said(&["submit", "sweep.toml", "--dry-run"]);
    for words in [
        "sweep/scratch-once-b4-s0-peak1e-3-steps40",
        "sweep/scratch-once-b8-s0-peak1e-3-steps30",
        "The 3 new runs: ",
        "MiB",
        "No rate is known for 3 runs",
    ] {
        assert!(dry.contains(words), "`{words}` is not in: {dry}");
    }
    assert!(!dry.contains("b8-s0-peak5e-3"), "{dry}");

    let (_, told) = said(&["submit", "sweep.toml"]);
    assert!(told.contains("3 queued"), "{told}");
    lab.all_complete("sweep", Duration::from_secs(240)).await;
    let (_, told) = said(&["submit", "sweep.toml"]);
    assert_eq!(told, "nothing new: all 3 runs are there (3 complete)\n");

    file("[0, 1]");
    let (json, _) = said(&["submit", "sweep.toml", "--dry-run", "--output", "json"]);
    let answer: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let estimate = &answer["estimate"];
    assert_eq!(estimate["n_runs"], 3);
    assert!(
        estimate["device_hours"].as_f64().is_some_and(|h| h > 0.0),
        "{estimate}"
    );
    for group in estimate["groups"].as_array().expect("groups") {
        assert_eq!(group["n_measured_runs"], 3, "{group}");
        assert_eq!(group["executor"], "here");
        assert_eq!(group["problem"], "");
    }
    let (stated, _) = said(&[
        "submit",
        "sweep.toml",
        "--dry-run",
        "--tokens-per-second",
        "1000",
    ]);
    assert!(
        stated.contains("stated") && stated.contains("of one device in all."),
        "{stated}"
    );
    let (_, told) = said(&["submit", "sweep.toml", "--wait"]);
    assert!(!told.contains("failed"), "{told}");
    lab.all_complete("sweep", Duration::from_secs(240)).await;
    assert_eq!(lab.wait("sweep", Duration::from_secs(10)).await.len(), 6);

    // What is not below the root is not read.
    let elsewhere = sweep("[0]").replace("world:facts.json", "/etc/hostname");
    std::fs::write(lab.dir().join("elsewhere.toml"), elsewhere).expect("write the experiment");
    let refused = lab.says(&["submit", "elsewhere.toml"]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("`data.facts`: /etc/hostname is below no root"),
        "{stderr}"
    );
}

/// Seeds are averaged and nothing else is, whatever a checkpoint is called.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_is_shown_cell_by_cell() {
    const CHECKPOINTS: [&str; 2] = ["wide", "wide-once-b4-s0"];
    const PEAKS: [&str; 2] = ["0.001", "0.005"];
    let lab = Lab::start().await;
    let second = TINY
        .replace("scratch", CHECKPOINTS[1])
        .replace("intermediate_size = 32", "intermediate_size = 48");
    let toml = experiment(
        "grid",
        "scenarios = ['once']\nbatch_sizes = [4]\nseeds = [0, 1]",
        &format!(
            "{}\n[[checkpoint]]\n{second}",
            TINY.replace("scratch", CHECKPOINTS[0])
        ),
        &(training(40) + THRICE),
    ) + "[matrix.product]\n'training.learning_rate.peak' = [1e-3, 5e-3]\n";
    lab.complete("grid", &toml, Duration::from_secs(300)).await;
    let label = |checkpoint: &str, peak: &str, seed: u32| {
        let peak = peak.replace("0.00", "");
        format!("grid/{checkpoint}-once-b4-s{seed}-peak{peak}e-3")
    };
    let cells = || CHECKPOINTS.into_iter().flat_map(|c| PEAKS.map(|p| (c, p)));
    let pool = lab.pool().await;
    let json = |arguments: &[&str]| -> serde_json::Value {
        let answer = succeeds(lab.imprint().args(arguments).args(["--output", "json"]));
        serde_json::from_str(&answer).expect("JSON")
    };

    // What each run says, by its own label.
    let mut of_runs = BTreeMap::new();
    for (checkpoint, peak) in cells() {
        for seed in [0, 1] {
            let label = label(checkpoint, peak, seed);
            let of_run: Vec<(String, f64)> = sqlx::query_as(
                "select depth, avg(own_nats) from imprint.effectivity($1)
                 where exposure = 1 group by depth",
            )
            .bind(&label)
            .fetch_all(&pool)
            .await
            .expect("what a run says");
            for (depth, own_nats) in of_run {
                of_runs.insert((label.clone(), depth), own_nats);
            }
        }
    }
    assert_eq!(of_runs.len(), 8 * 3);
    let mean = |checkpoint: &str, peak: &str, depth: &str| {
        let of_seed = |seed| of_runs[&(label(checkpoint, peak, seed), depth.to_owned())];
        assert_ne!(of_seed(0), of_seed(1));
        (of_seed(0) + of_seed(1)) / 2.0
    };

    let in_sql: Vec<(String, String, String, i64, f64)> = sqlx::query_as(
        "select s.checkpoint, settings #>> '{training,learning_rate,peak}', depth,
             count(distinct run), avg(own_nats)
         from imprint.run_summary s join imprint.effectivity using (run)
         where experiment = 'grid' and exposure = 1
         group by s.checkpoint, settings, depth",
    )
    .fetch_all(&pool)
    .await
    .expect("what cells say in SQL");
    assert_eq!(in_sql.len(), 4 * 3);
    for (checkpoint, peak, depth, n_runs, own_nats) in in_sql {
        assert_eq!(n_runs, 2, "{checkpoint} {peak}");
        let want = mean(&checkpoint, &peak, &depth);
        assert!(
            (own_nats - want).abs() < 1e-9,
            "{checkpoint} {peak} {depth}"
        );
    }

    let results = json(&["results", "grid"]);
    let rows = results.as_array().expect("rows");
    let mut seen = BTreeSet::new();
    for row in rows {
        let text = |key: &str| row[key].as_str().expect("text");
        let (checkpoint, depth) = (text("checkpoint"), text("depth"));
        let peak = row["settings"]["training.learning_rate.peak"].to_string();
        assert_eq!((&row["n_runs"], &row["seed"]), (&2.into(), &().into()));
        assert_eq!(text("run"), format!("grid/{checkpoint}-once-b4"));
        let own_nats = row["first_own_nats"].as_f64().expect("a number");
        let want = mean(checkpoint, &peak, depth);
        assert!((own_nats - want).abs() < 1e-9, "{row}");
        seen.insert((checkpoint.to_owned(), peak, depth.to_owned()));
    }
    assert_eq!((rows.len(), seen.len()), (4 * 3, 4 * 3));
    let by_run = json(&["results", "grid", "--by-run"]);
    for row in by_run.as_array().expect("rows") {
        let key = |key: &str| row[key].as_str().expect("text").to_owned();
        let own_nats = row["first_own_nats"].as_f64().expect("a number");
        let want = of_runs[&(key("run"), key("depth"))];
        assert!((own_nats - want).abs() < 1e-9, "{row}");
    }
    let table = succeeds(lab.imprint().args(["results", "grid"]));
    let heading = table.lines().next().expect("a heading");
    assert!(
        heading.contains("peak") && heading.contains("runs"),
        "{table}"
    );

    // A figure for each run here, with that run in it.
    let draw = |name: &str, out: &str| {
        succeeds(lab.imprint().args(["figure", name, "--out", out]));
        let files = std::fs::read_dir(lab.dir().join(out)).expect("figures");
        let files = files.map(|file| file.expect("a file").path());
        let dynamics = files.filter_map(|path| {
            let name = path.file_name()?.to_str()?.to_owned();
            let is_meant = name.starts_with("dynamics-") && name.ends_with(".csv");
            is_meant.then(|| {
                (
                    name,
                    std::fs::read_to_string(path).expect("a figure's points"),
                )
            })
        });
        dynamics.collect::<BTreeMap<String, String>>()
    };
    let figures = draw("grid", "figures");
    assert_eq!(figures.len(), 8, "{:?}", figures.keys());
    for (checkpoint, peak) in cells() {
        for seed in [0, 1] {
            let own = draw(
                &label(checkpoint, peak, seed),
                &format!("of-{checkpoint}-{peak}-{seed}"),
            );
            let own: Vec<&String> = own.values().collect();
            let figure = &figures[&format!("dynamics-{checkpoint}-peak-{peak}-s{seed}.csv")];
            assert_eq!(own, [figure]);
        }
    }
}
