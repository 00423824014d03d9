//! The main job as a user does it: `imprint up`, `submit`, `status`, `results`, `figure`, `verify`,
//! `sql`, with a database that `imprint` brings itself.

use std::time::Duration;

use imprint_e2e::{STOP_WITHIN, User, experiment, training};
use imprint_testkit::{ChildGuard, wait_until};
use nix::sys::signal::Signal;

fn goes_down(mut up: ChildGuard) {
    up.signal(Signal::SIGTERM);
    let status = up.wait(STOP_WITHIN).expect("imprint up ends");
    assert!(status.success(), "imprint up ended with {status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_end_to_end() {
    let user = User::new();
    let model = "name = 'scratch'\ninit = { hidden_size = 32, intermediate_size = 80, \
                 num_hidden_layers = 1, num_attention_heads = 4, tie_word_embeddings = true }";
    let pre = experiment(
        "pre",
        "scenarios = ['none']\nbatch_sizes = [8]",
        model,
        &(training(40)
            + "[saving]\nkeep = [20, 40]\n[probing.reading_steps]\ndense_after_last_injection = 0\nthen_every = 10"),
    );
    let shown = experiment(
        "shown",
        "scenarios = ['duplication', 'once']\nbatch_sizes = [8, 4]",
        "name = 'early'\nrun = 'pre/scratch-none-b8-s0'\nstep = 20\n\
         [[checkpoint]]\nname = 'late'\nrun = 'pre/scratch-none-b8-s0'\nstep = 40",
        &(training(60)
            + "[injection]\nstart = 2\nevery = 10\ncount = 2\n\
               stagger = { groups = 10, every = 1 }\n[probing]\nswap = true"),
    );
    std::fs::write(user.dir().join("pre.toml"), pre).expect("write");
    std::fs::write(user.dir().join("shown.toml"), shown).expect("write");

    let running = user.up(&["--slots", "2"]).await;
    let missing_parent = user.says(&["submit", "shown.toml", "--dry-run"]);
    assert_eq!(
        missing_parent.status.code(),
        Some(2),
        "its parent was not submitted yet"
    );
    let dry = user.prints(&["submit", "pre.toml", "--dry-run"]);
    assert!(dry.contains("pre/scratch-none-b8-s0"), "{dry}");
    assert!(
        !user.prints(&["list"]).contains("pre"),
        "a dry run stores nothing"
    );
    user.prints(&["submit", "pre.toml"]);
    user.prints(&["submit", "shown.toml", "--wait"]);
    // The same file again is a no-op that ends at once.
    let again = user.prints(&["submit", "shown.toml", "--wait"]);
    assert!(again.contains("shown/early-duplication-b8-s0"), "{again}");

    let status = user.prints(&["status", "shown"]);
    assert_eq!(status.matches("complete").count(), 8, "{status}");
    user.prints(&["verify", "pre"]);
    user.prints(&["verify", "shown"]);
    let results: serde_json::Value =
        serde_json::from_str(&user.prints(&["results", "shown", "--output", "json"]))
            .expect("JSON");
    assert_eq!(
        results.as_array().map(Vec::len),
        Some(8 * 3),
        "a row per run and depth"
    );
    assert!(user.prints(&["results", "shown"]).contains("hard_gen"));
    assert!(
        user.prints(&["results", "shown", "--output", "csv"])
            .lines()
            .count()
            == 1 + 8 * 3
    );
    // Fits are kept by themselves soon after, and for other spans on request.
    // By both presets.
    let analysed = "select 'analysed: ' || count(*) from imprint.analysis
                    join imprint.run_summary using (run_id)
                    where experiment = 'shown' and analysis = 'current'";
    wait_until(
        Duration::from_secs(120),
        "the runs are analysed",
        || async {
            user.prints(&["sql", "-c", analysed])
                .contains("analysed: 16")
        },
    )
    .await;
    let again = user.prints(&["analyze", "shown", "--span", "first"]);
    assert_eq!(again.lines().count(), 8, "{again}");
    let spans = "select span || ': ' || count(*) from imprint.analysis group by span";
    let spans = user.prints(&["sql", "-c", spans]);
    assert!(
        spans.contains("first: 8") && spans.contains("target: 16"),
        "{spans}"
    );
    user.prints(&["figure", "shown", "--out", "figures"]);
    for extension in ["svg", "png", "csv"] {
        let n = std::fs::read_dir(user.dir().join("figures"))
            .expect("figures")
            .filter(|f| {
                f.as_ref()
                    .is_ok_and(|f| f.path().extension().is_some_and(|e| e == extension))
            })
            .count();
        assert!(n >= 2, "{n} {extension} files");
    }

    // One row per (run, step, probe): 28 facts x 10 probes and the swaps of 20 facts.
    let count = "select count(*), count(distinct step), min(target_mean_nats) < 0 \
                 from imprint.reading where run = 'shown/late-once-b4-s0'";
    let row = user.prints(&["sql", "-c", count]);
    let n_probes = 28 * 10 + 20 * 10;
    assert!(
        row.contains(&(61 * n_probes).to_string()) && row.contains("61"),
        "{row}"
    );

    // Everything is there again after a restart.
    goes_down(running);
    let down = user.says(&["status", "shown"]);
    assert_eq!(
        down.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&down.stderr)
    );
    let running = user.up(&["--slots", "2"]).await;
    user.prints(&["verify", "shown"]);
    goes_down(running);
}
