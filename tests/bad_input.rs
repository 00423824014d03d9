//! Bad input ends in one clear line that names the file or field, and leaves nothing behind.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use imprint_e2e::{ANSWER_WITHIN, Lab, TINY, experiment};
use imprint_proto::pb::RunState;

const ONCE: &str = "[training]\nsteps = 30\nlearning_rate = { kind = 'constant', peak = 1e-3 }\n\
                    [injection]\nstart = 1\nevery = 5\ncount = 1\n\
                    stagger = { groups = 10, every = 1 }";

fn small(name: &str, checkpoint: &str, rest: &str) -> String {
    experiment(
        name,
        "scenarios = ['once']\nbatch_sizes = [4]",
        checkpoint,
        rest,
    )
}

/// Submits through the client program.
fn submit(lab: &Lab, toml: &str) -> Output {
    std::fs::write(lab.dir().join("bad.toml"), toml).expect("write the experiment");
    lab.says(&["submit", "bad.toml"])
}

/// The experiment is refused with one line that has all of `words`, and nothing of it is stored.
#[track_caller]
fn refused(lab: &Lab, toml: &str, words: &[&str]) {
    let out = submit(lab, toml);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
    let list = lab.says(&["list", "--output", "json"]);
    let listed = String::from_utf8_lossy(&list.stdout);
    assert!(
        !listed.contains("bad"),
        "something of a refused experiment was stored: {listed}"
    );
}

fn rewrite_facts(lab: &Lab, change: impl FnOnce(&mut serde_json::Value)) {
    let read = std::fs::read_to_string(lab.dir().join("facts.json")).expect("read the facts");
    let mut facts: serde_json::Value = serde_json::from_str(&read).expect("JSON");
    change(&mut facts);
    std::fs::write(lab.dir().join("bad-facts.json"), facts.to_string()).expect("write the facts");
}

/// A Hugging Face directory with one shard missing.
fn shards_without_one(dir: &Path) {
    std::fs::create_dir_all(dir).expect("make a directory");
    std::fs::write(
        dir.join("config.json"),
        r#"{"model_type": "olmo", "vocab_size": 1000}"#,
    )
    .expect("write");
    let index = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors",
                                   "b": "model-00002-of-00002.safetensors"}}"#;
    std::fs::write(dir.join("model.safetensors.index.json"), index).expect("write");
    std::fs::write(dir.join("model-00001-of-00002.safetensors"), b"").expect("write");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_is_refused_before_anything_is_stored() {
    let lab = Lab::start().await;
    let good = small("bad", TINY, ONCE);

    refused(
        &lab,
        &good.replace("seq_len = 64", "seq_len = 64\nseqlen = 1"),
        &["seqlen", "line 10"],
    );
    refused(
        &lab,
        &good
            .replace("max_epochs = 4", "")
            .replace("steps = 30", "steps = 90000"),
        &["max_epochs"],
    );
    refused(
        &lab,
        &good.replace("'once'", "'paper'"),
        &["130-item layout", "[scenario.<name>]"],
    );
    refused(&lab, &good.replace("groups = 10", "groups = 1"), &["rows"]);
    refused(
        &lab,
        &good.replace("tokenizer.json", "nowhere.json"),
        &["nowhere.json"],
    );
    refused(
        &lab,
        &good.replace("corpus.u16", "nowhere.u16"),
        &["nowhere.u16"],
    );
    // A token that the vocabulary does not have, far from the corpus' beginning.
    let mut corpus = std::fs::read(lab.dir().join("corpus.u16")).expect("read the corpus");
    let half = corpus.len() / 2;
    corpus[half..].fill(0xff);
    std::fs::write(lab.dir().join("outside.u16"), &corpus).expect("write the corpus");
    refused(
        &lab,
        &good.replace("corpus.u16", "outside.u16"),
        &["outside.u16", "65535", "data.corpus.format"],
    );
    let order = "max_epochs = 1\norder = { kind = 'file', path = 'order' }";
    std::fs::write(lab.dir().join("order"), [0xff; 4 * 120]).expect("write an order");
    refused(
        &lab,
        &good.replace("max_epochs = 4", order),
        &["order", "4294967295", "instances"],
    );
    std::fs::write(lab.dir().join("bad.jsonl"), "{\"te\n").expect("write");
    refused(
        &lab,
        &good
            .replace("corpus.u16", "bad.jsonl")
            .replace("format = \"uint16\"", "format = \"jsonl\""),
        &["bad.jsonl:1:", "JSON"],
    );
    refused(&lab, &good.replace("steps = 30", "steps = 5"), &["inject"]);

    rewrite_facts(&lab, |facts| {
        facts[3]
            .as_object_mut()
            .expect("an item")
            .remove("gen_target");
    });
    let bad_facts = good.replace("\"facts.json\"", "\"bad-facts.json\"");
    refused(
        &lab,
        &bad_facts,
        &["bad-facts.json", "fact 3", "gen_target"],
    );
    rewrite_facts(&lab, |facts| {
        facts[2]["mem_target"]
            .as_array_mut()
            .expect("targets")
            .pop();
    });
    refused(&lab, &bad_facts, &["bad-facts.json", "fact 2", "mem_"]);

    shards_without_one(&lab.dir().join("sharded"));
    let path = small("bad", "name = 'c'\npath = 'sharded'", ONCE);
    refused(&lab, &path, &["model-00002-of-00002.safetensors"]);
    std::fs::create_dir_all(lab.dir().join("small")).expect("make a directory");
    std::fs::write(
        lab.dir().join("small/config.json"),
        r#"{"model_type": "olmo", "vocab_size": 100}"#,
    )
    .expect("write");
    std::fs::write(lab.dir().join("small/model.safetensors"), "").expect("write");
    refused(
        &lab,
        &path.replace("sharded", "small"),
        &["vocabulary", "100"],
    );
    refused(
        &lab,
        &small("bad", "name = 'c'\nrun = 'no/such-run'\nstep = 3", ONCE),
        &["no/such-run"],
    );
}

/// What is allowed but looks wrong is told, and nothing is held up.
#[tokio::test(flavor = "multi_thread")]
async fn a_corpus_that_looks_wrong_is_warned_of() {
    let lab = Lab::start().await;
    let corpus = [5, 0].repeat(200_000);
    std::fs::write(lab.dir().join("endless.u16"), corpus).expect("write a corpus");
    let endless = small("endless", TINY, ONCE).replace("corpus.u16", "endless.u16");
    std::fs::write(lab.dir().join("endless.toml"), endless).expect("write the experiment");
    let out = lab.says(&["submit", "--dry-run", "endless.toml"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    let warnings: Vec<&str> = said
        .lines()
        .filter(|l| l.starts_with("warning: "))
        .collect();
    assert_eq!(warnings.len(), 1, "{said}");
    assert!(warnings[0].contains("`<|endoftext|>`"), "{said}");
}

/// What only training can find fails the run, with its reason in `status`.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_says_why() {
    let lab = Lab::start().await;
    // Nothing is injected and little is read, so that it is the loss that tells.
    let diverging = small(
        "diverges",
        TINY,
        &(ONCE.replace("1e-3", "1e30")
            + "\n[probing.reading_steps]\ndense_after_last_injection = 0\nthen_every = 30"),
    )
    .replace("'once'", "'none'");
    lab.submit(&diverging).await.expect("submit");
    let runs = lab.wait("diverges", Duration::from_secs(120)).await;
    let reason = &runs[0].reason;
    assert_eq!(runs[0].state(), RunState::Failed, "{reason}");
    assert!(
        reason.contains("update 2") && reason.contains("NaN"),
        "{reason}"
    );
    assert_eq!(
        runs[0].attempts, 1,
        "what cannot succeed is not tried again"
    );
    let status = lab.says(&["status", "diverges"]);
    let said = String::from_utf8_lossy(&status.stdout);
    assert!(said.contains("failed"), "{said}");
    let waited = lab.says(&["submit", "--wait", "bad.toml"]);
    assert_eq!(
        waited.status.code(),
        Some(2),
        "a file that is not there is bad input"
    );
}

#[test]
fn services_that_are_down_are_one_line() {
    let nobody = format!("http://127.0.0.1:{}", imprint_testkit::free_port());
    let mut list = Command::new(imprint_testkit::bin("imprint"));
    list.args(["--orchestrator", &nobody, "list"]);
    let out = imprint_testkit::output(&mut list, ANSWER_WITHIN);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "{said}");
    assert!(
        said.contains(&nobody) && said.contains("imprint up"),
        "{said}"
    );
    assert_eq!(said.trim().lines().count(), 1, "{said}");
}
