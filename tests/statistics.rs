//! The phenomena themselves, at the smallest size at which they show: facts are acquired by
//! exposure, bound to their names, and forgotten while training goes on.

use std::time::Duration;

use imprint_e2e::{Lab, experiment, succeeds};

const LIMIT: Duration = Duration::from_secs(400);
const SHOWN: &str = "[injection]\nstart = 0\nevery = 20\ncount = 3\nstagger = { groups = 5, every = 4 }\n\
                     [probing]\nswap = true\n";

fn injection(name: &str, seed: u32, rate: &str) -> String {
    experiment(
        name,
        &format!("scenarios = ['paraphrase']\nbatch_sizes = [8]\nseeds = [{seed}]"),
        &format!("name = 'pre'\nrun = 'pre/scratch-none-b16-s{seed}'\nstep = 500"),
        &format!(
            "[training]\nsteps = 210\noptimizer = {{ eps = 1e-8 }}\n\
             learning_rate = {{ kind = 'constant', peak = 7e-3, {rate} }}\n{SHOWN}"
        ),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_of_acquisition_and_forgetting() {
    statistics(0).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: `cargo xtask soak` runs it"]
async fn statistics_of_other_seeds() {
    for seed in 1..=4 {
        statistics(seed).await;
    }
}

async fn statistics(seed: u32) {
    let lab = Lab::start().await;
    let pretraining = experiment(
        "pre",
        &format!("scenarios = ['none']\nbatch_sizes = [16]\nseeds = [{seed}]"),
        "name = 'scratch'\ninit = { hidden_size = 64, intermediate_size = 168, \
         num_hidden_layers = 2, num_attention_heads = 4, tie_word_embeddings = true }",
        "[training]\nsteps = 500\noptimizer = { eps = 1e-8 }\n\
         learning_rate = { kind = 'constant', peak = 7e-3, warmup_steps = 30 }\n\
         [saving]\nkeep = [500]\nevery = 500\n[probing.reading_steps]\n\
         dense_after_last_injection = 0\nthen_every = 100",
    );
    lab.submit(&pretraining)
        .await
        .expect("submit the pretraining");
    // Children wait for their parent's state, so all can be submitted at once.
    lab.submit(&injection("shown", seed, "warmup_steps = 0"))
        .await
        .expect("submit the injection");
    let frozen = injection("frozen", seed, "warmup_steps = 0, zero_from_step = 60");
    lab.submit(&frozen)
        .await
        .expect("submit the frozen control");
    for name in ["pre", "shown", "frozen"] {
        lab.all_complete(name, LIMIT).await;
    }

    let shown = evidence(&lab, "shown");
    println!("{shown:#}");
    let p = |test: &str| shown[test]["p_value"].as_f64().expect("a p-value");
    assert!(
        p("jump") < 0.001,
        "the first exposure raises log-probability: p = {}",
        p("jump")
    );
    assert!(
        p("first_over_second") < 0.01,
        "the first more than the second: {}",
        p("first_over_second")
    );
    assert!(
        p("own_over_swap") < 0.001,
        "the fact more than its value alone: {}",
        p("own_over_swap")
    );
    assert!(
        p("decay") < 0.001,
        "less is left late than early: {}",
        p("decay")
    );
    let retained = shown["retained_late"].as_f64().expect("a share");
    assert!(
        retained <= 0.8,
        "late in the run {retained} of the gain is left"
    );
    for depth in ["mem", "gen"] {
        let fit = &shown["decay_fits"][depth];
        let value = |name: &str| fit[name].as_f64().expect("a number");
        assert!(value("a") > 0.1, "{depth}: decay constant {}", value("a"));
        assert!(
            value("r2") > 0.6,
            "{depth}: R² of the log fit {}",
            value("r2")
        );
    }

    let frozen = evidence(&lab, "frozen")["retained_late"]
        .as_f64()
        .expect("a share");
    assert!(
        frozen >= 0.9,
        "with rate 0 nothing is forgotten, but {frozen} is left"
    );
}

/// What `imprint results` says of the only arm of an experiment.
fn evidence(lab: &Lab, experiment: &str) -> serde_json::Value {
    let out = succeeds(
        lab.imprint()
            .args(["results", experiment, "--tests", "--output", "json"])
            .args(["--window", "20", "--late-from", "75"]),
    );
    let rows: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    rows[0].clone()
}
