//! The main job as a user does it: `imprint up`, `submit`, `status`, `results`, `figure`, `verify`,
//! `sql`, with a database that `imprint` brings itself.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use imprint_e2e::experiment;
use imprint_testkit::{ChildGuard, bin, wait_until};
use imprint_world::{World, WorldConfig};
use nix::sys::signal::Signal;

struct User<'a>(&'a Path);

impl User<'_> {
    fn imprint(&self) -> Command {
        let mut command = Command::new(bin("imprint"));
        command
            .current_dir(self.0)
            .env_remove("DATABASE_URL")
            .env("IMPRINT_DATA_DIR", self.0.join("data"));
        command
    }

    fn says(&self, arguments: &[&str]) -> Output {
        self.imprint()
            .args(arguments)
            .output()
            .expect("run imprint")
    }

    /// What a command prints that ends well.
    #[track_caller]
    fn prints(&self, arguments: &[&str]) -> String {
        let out = self.says(arguments);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(
            out.status.success(),
            "imprint {arguments:?}: {}\n{stderr}",
            out.status
        );
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

fn up(user: &User) -> ChildGuard {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(user.0.join("up.log"))
        .expect("open a log");
    ChildGuard::spawn(
        user.imprint()
            .args(["up", "--slots", "2"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log),
    )
}

async fn is_up(user: &User<'_>) {
    wait_until(Duration::from_secs(60), "imprint up serves", || async {
        user.says(&["list"]).status.success()
    })
    .await;
}

async fn goes_down(mut up: ChildGuard) {
    up.signal(Signal::SIGTERM);
    let deadline = std::time::Instant::now() + Duration::from_secs(40);
    loop {
        if let Some(status) = up.child().try_wait().expect("look at imprint up") {
            assert!(status.success(), "imprint up ended with {status}");
            return;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "imprint up does not end"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_end_to_end() {
    let dir = tempfile::Builder::new()
        .prefix("imprint-user-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .expect("make a directory");
    let user = User(dir.path());
    World::generate(WorldConfig::ci())
        .and_then(|w| w.write(dir.path()))
        .expect("write a world");
    let model = "name = 'scratch'\ninit = { hidden_size = 32, intermediate_size = 80, \
                 num_hidden_layers = 1, num_attention_heads = 4, tie_word_embeddings = true }";
    let training = |steps: u32| {
        format!(
            "[training]\nsteps = {steps}\n\
             learning_rate = {{ kind = 'constant', peak = 5e-3, warmup_steps = 5 }}\n"
        )
    };
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
    std::fs::write(dir.path().join("pre.toml"), pre).expect("write");
    std::fs::write(dir.path().join("shown.toml"), shown).expect("write");

    let running = up(&user);
    is_up(&user).await;
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
    let analysed = "select 'analysed: ' || count(*) from imprint.run_summary
                    where experiment = 'shown' and analysis = 'current'";
    wait_until(
        Duration::from_secs(120),
        "the runs are analysed",
        || async {
            user.prints(&["sql", "-c", analysed])
                .contains("analysed: 8")
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
        let n = std::fs::read_dir(dir.path().join("figures"))
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
    goes_down(running).await;
    let down = user.says(&["status", "shown"]);
    assert_eq!(
        down.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&down.stderr)
    );
    let running = up(&user);
    is_up(&user).await;
    user.prints(&["verify", "shown"]);
    goes_down(running).await;
}
