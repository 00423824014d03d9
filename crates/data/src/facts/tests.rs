use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

fn item() -> Value {
    json!({
        "train_context": "a passage",
        "mem_input": ["m0", "m1"], "mem_target": ["t0", "t1"],
        "gen_input": ["g0"], "gen_target": ["t2"],
        "hard_gen_input": [], "hard_gen_target": [],
        "paraphrases": ["p0", "p1"],
        "a key of somebody else": 3,
    })
}

fn load(content: &str) -> Result<Vec<Fact>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("facts.json");
    fs::write(&path, content).unwrap();
    load_facts(&path)
}

#[test]
fn any_number_of_probes_a_depth() {
    let mut named = item();
    named["subject"] = json!("a name");
    let facts = load(&json!([item(), named]).to_string()).unwrap();
    assert_eq!(facts.len(), 2);
    assert_eq!(facts[0].subject, None);
    assert_eq!(facts[1].subject.as_deref(), Some("a name"));
    assert_eq!(facts[0].paraphrases, ["p0", "p1"]);
    let probes: Vec<(Depth, u16, &str, &str)> = facts[0]
        .probes
        .iter()
        .map(|p| (p.depth, p.ordinal, p.prompt.as_str(), p.target.as_str()))
        .collect();
    assert_eq!(
        probes,
        [
            (Depth::Mem, 0, "m0", "t0"),
            (Depth::Mem, 1, "m1", "t1"),
            (Depth::Gen, 0, "g0", "t2"),
        ]
    );
}

#[test]
fn what_is_written_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("facts.json");
    let facts = load(&json!([item(), item()]).to_string()).unwrap();
    write_facts(&path, &facts).unwrap();
    assert_eq!(load_facts(&path).unwrap(), facts);
}

/// Changes the second of two facts, and expects to be told what is wrong with it.
#[track_caller]
fn refuses(change: impl Fn(&mut serde_json::Map<String, Value>), want: &Expect) {
    let mut changed = item();
    change(changed.as_object_mut().unwrap());
    let error = load(&json!([item(), changed]).to_string()).unwrap_err();
    let text = error.to_string();
    want.assert_eq(text.split_once("facts.json").unwrap().1);
}

#[test]
fn flaws_are_named_by_fact_and_field() {
    refuses(
        |f| drop(f.remove("gen_target")),
        &expect![": fact 1: `gen_target`: is missing"],
    );
    refuses(
        |f| f["mem_target"] = json!(["t0"]),
        &expect![": fact 1: `mem_target`: 1 targets for 2 prompts"],
    );
    refuses(
        |f| f["mem_input"] = json!("m0"),
        &expect![": fact 1: `mem_input`: is not a list"],
    );
    refuses(
        |f| f["mem_input"][1] = json!(7),
        &expect![": fact 1: `mem_input[1]`: is not a text"],
    );
    refuses(
        |f| f["train_context"] = json!("  "),
        &expect![": fact 1: `train_context`: is empty"],
    );
    refuses(
        |f| f["paraphrases"][0] = json!(""),
        &expect![": fact 1: `paraphrases[0]`: is empty"],
    );
    refuses(
        |f| drop(f.insert("subject".into(), json!([]))),
        &expect![": fact 1: `subject`: is not a text"],
    );
}

#[test]
fn files_that_are_no_facts_are_refused() {
    let missing = load_facts(Path::new("/nowhere/facts.json")).unwrap_err();
    assert_eq!(missing.to_string(), "cannot read /nowhere/facts.json");
    assert!(matches!(load("[{"), Err(Error::Json { .. })));
    assert!(matches!(load("{}"), Err(Error::Json { .. })));
    assert!(matches!(load("[]"), Err(Error::FactsFile { .. })));
    assert!(matches!(load("[3]"), Err(Error::Fact { fact: 0, .. })));
}
