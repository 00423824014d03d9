use std::fs;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::fixture::{Fixture, fact};

const SHOW_ALL: &str = r#"
    [[scenario.show.arm]]
    name = "all"
    facts = "0..N"
    text = "paraphrases"
    steps = [2, 5]
"#;

/// Facts of these lengths (in words), all injected at steps 2 and 5.
fn fixture(n_words: &[usize]) -> Fixture {
    let facts: Vec<Fact> = n_words
        .iter()
        .enumerate()
        .map(|(i, &n)| fact(i, n, 1))
        .collect();
    let mut fixture = Fixture::new(&facts);
    fixture.scenario = "show".to_owned();
    fixture.tables = SHOW_ALL.replace("N\"", &format!("{}\"", n_words.len()));
    fixture
}

#[test]
fn an_update_trains_on_corpus_rows_and_injected_texts() {
    let mut fixture = fixture(&[3, 2, 4]);
    fixture.corpus += "\norder = \"sequential\"\nstart_instance = 10";
    fixture.batch_sizes = vec![2];
    let data = TrainingData::open(&fixture.run()).unwrap();

    let plain = data.batch(1).unwrap();
    assert_eq!(plain.tokens, (120..140).collect::<Vec<u32>>());
    assert_eq!((plain.rows.len(), plain.n_injected_tokens), (0, 0));

    // Facts 0 and 1 share the first row; words w0, w1, … are tokens 1, 2, …
    let injected = data.batch(2).unwrap();
    assert_eq!(injected.row(0), [1, 2, 3, 0, 21, 22, 0, 140, 141, 142]);
    assert_eq!(
        injected.row(1),
        [41, 42, 43, 44, 0, 150, 151, 152, 153, 154]
    );
    assert_eq!(injected.n_injected_tokens, 12);

    // The second exposure is the first paraphrase.
    assert_eq!(data.batch(5).unwrap().row(0)[..5], [2, 3, 4, 0, 22]);
}

#[test]
fn inspection_is_this_json() {
    let mut fixture = fixture(&[3, 2, 4]);
    fixture.corpus += "\norder = \"sequential\"";
    let data = TrainingData::open(&fixture.run()).unwrap();
    let json = |step, all| serde_json::to_string(&data.inspect(step, all).unwrap()).unwrap();
    expect![[r#"{"step":5,"batch_size":4,"seq_len":10,"n_injected_tokens":12,"rows":[{"row":0,"facts":[{"fact":0,"scenario":"all","exposure":2}],"n_injected":4,"tokens":[2,3,4,0,200,201,202,203,204,205]},{"row":1,"facts":[{"fact":1,"scenario":"all","exposure":2}],"n_injected":3,"tokens":[22,23,0,210,211,212,213,214,215,216]},{"row":2,"facts":[{"fact":2,"scenario":"all","exposure":2}],"n_injected":5,"tokens":[42,43,44,45,0,220,221,222,223,224]}]}"#]].assert_eq(&json(5, false));
    expect![[r#"{"step":3,"batch_size":4,"seq_len":10,"n_injected_tokens":0,"rows":[]}"#]]
        .assert_eq(&json(3, false));
    let all = json(5, true);
    assert!(
        all.contains(r#"{"row":3,"facts":[],"n_injected":0,"tokens":[230,"#),
        "{all}"
    );
}

#[test]
fn readings_follow_the_schedule_and_probes_the_swap() {
    let mut fixture = fixture(&[3, 2, 4]);
    fixture.tables += "[probing]\nswap = true\nreading_steps = { dense_after_last_injection = 2, \
                       then_every = 10 }";
    let data = TrainingData::open(&fixture.run()).unwrap();
    assert_eq!(data.reading_steps(), [0, 1, 2, 3, 4, 5, 6, 7, 10, 20, 25]);
    assert_eq!(data.probes().len(), 2 * 3 * 3);
    assert_eq!(data.tokenized_probes().len(), data.probes().len());
    assert!(
        data.tokenized_probes()
            .iter()
            .all(|p| p.tokens.len() == 3 && p.n_target_tokens == 1)
    );
}

#[track_caller]
fn refuses(fixture: &Fixture, want: &Expect) {
    want.assert_eq(&TrainingData::open(&fixture.run()).unwrap_err().to_string());
}

#[test]
fn plans_that_cannot_work_are_refused_with_numbers() {
    let mut small_batch = fixture(&[6, 6, 6, 4, 2]);
    small_batch.batch_sizes = vec![2];
    refuses(
        &small_batch,
        &expect![
            "step 2 injects 5 texts of 29 tokens into 2 rows of 10: the longest row would need 21 tokens; a batch of 5 rows holds them"
        ],
    );

    refuses(
        &fixture(&[3, 10]),
        &expect![
            "the passage of fact 1 has 11 tokens with its end-of-sequence token, more than a row of `data.seq_len` = 10"
        ],
    );

    let mut late = fixture(&[3]);
    late.steps = 5;
    refuses(
        &late,
        &expect![
            "fact 0 is injected at step 5, but the last update of the run is 4; set `training.steps` to 6 or more, or inject earlier"
        ],
    );

    let mut long = fixture(&[3]);
    long.steps = 26;
    refuses(
        &long,
        &expect![
            "the corpus is shorter than the run: 26 steps of 4 rows from instance 0 need 104 instances of 10 tokens; the corpus has 100, times `max_epochs` 1; set `data.corpus.max_epochs = 2` or train less"
        ],
    );

    let mut later = fixture(&[3]);
    later.corpus += "\nstart_instance = 150\nmax_epochs = 2";
    refuses(
        &later,
        &expect![
            "the corpus is shorter than the run: 25 steps of 4 rows from instance 150 need 100 instances of 10 tokens; the corpus has 100, times `max_epochs` 2; set `data.corpus.max_epochs = 3` or train less"
        ],
    );

    let mut unprobed = fixture(&[1]);
    unprobed.seq_len = 2;
    refuses(
        &unprobed,
        &expect!["fact 0, mem probe 0: has 3 tokens, more than a row of `data.seq_len` = 2"],
    );
}

#[test]
fn a_longer_run_passes_over_the_corpus_again_if_it_may() {
    let mut fixture = fixture(&[3]);
    fixture.steps = 50;
    fixture.corpus += "\nmax_epochs = 2";
    let data = TrainingData::open(&fixture.run()).unwrap();
    let epoch = |steps: std::ops::Range<u32>| {
        let mut rows: Vec<Vec<u32>> = Vec::new();
        for step in steps {
            let batch = data.batch(step).unwrap();
            rows.extend((0..4).map(|row| batch.row(row).to_vec()));
        }
        rows
    };
    let (first, second) = (epoch(6..25), epoch(31..50));
    assert_ne!(first, second);
    let error = data.batch(50).unwrap_err().to_string();
    assert_eq!(
        error,
        "step 50 is not an update of this run: they are 0 to 49"
    );
}

#[test]
fn files_changed_since_the_submission_are_refused() {
    let fixture = fixture(&[3]);
    let run = fixture.run();
    for name in ["facts.json", "tokenizer.json", "corpus"] {
        let path = fixture.path(name);
        let content = fs::read(&path).unwrap();
        fs::write(&path, [content.as_slice(), b" "].concat()).unwrap();
        let error = TrainingData::open(&run).unwrap_err();
        assert!(
            matches!(&error, Error::Changed { path: p, .. } if *p == path),
            "{error}"
        );
        fs::write(&path, content).unwrap();
    }
    TrainingData::open(&run).unwrap();
}

#[test]
fn plans_are_checked_together_and_the_bad_one_named() {
    let mut fixture = fixture(&[6, 6, 6]);
    fixture.batch_sizes = vec![4, 2, 3];
    let runs = fixture.runs().unwrap();
    let error = visit_plans(&runs, |_, _| ()).unwrap_err();
    assert!(matches!(&error, Error::Run { label, .. } if label == "test/start-show-b2-s0"));
    visit_plans(&runs[..1], |_, _| ()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Exactly the first rows change: texts at their heads, then the corpus row's own head.
    #[test]
    fn exactly_the_injected_rows_change(
        n_words in proptest::collection::vec(1usize..9, 1..14),
        batch_size in 1u32..10,
        seq_len in 8u32..24,
    ) {
        let mut fixture = fixture(&n_words);
        fixture.batch_sizes = vec![batch_size];
        fixture.seq_len = seq_len;
        fixture.steps = 4;
        fixture.tables = fixture.tables.replace("[2, 5]", "[2]");
        let run = fixture.run();
        let data = match TrainingData::open(&run) {
            Ok(data) => data,
            Err(Error::TextTooLong { .. }) => {
                prop_assert!(n_words.iter().any(|&n| n + 1 > seq_len as usize));
                return Ok(());
            }
            Err(Error::RowTooLong { longest, enough_rows, .. }) => {
                prop_assert!(longest > seq_len as usize);
                fixture.batch_sizes = vec![enough_rows];
                TrainingData::open(&fixture.run()).unwrap();
                return Ok(());
            }
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        fixture.scenario = "none".to_owned();
        let plain = TrainingData::open(&fixture.run()).unwrap().batch(2).unwrap();
        let injected = data.batch(2).unwrap();

        let shown: Vec<u32> = injected
            .rows
            .iter()
            .flat_map(|r| r.items.iter().map(|i| i.fact.0))
            .collect();
        prop_assert_eq!(&shown, &(0..n_words.len() as u32).collect::<Vec<_>>(), "all, in order");
        let mut n_injected_tokens = 0;
        for row in 0..batch_size {
            let mut want = Vec::new();
            if let Some(injected) = injected.rows.iter().find(|r| r.row == row) {
                for item in &injected.items {
                    let fact = item.fact.0 as usize;
                    want.extend((0..n_words[fact]).map(|i| (20 * fact + i + 1) as u32));
                    want.push(0);
                }
                prop_assert_eq!(injected.n_injected as usize, want.len());
                n_injected_tokens += injected.n_injected;
            }
            want.extend(plain.row(row));
            want.truncate(seq_len as usize);
            prop_assert_eq!(injected.row(row), want.as_slice());
        }
        prop_assert_eq!(injected.n_injected_tokens, n_injected_tokens);
        prop_assert_eq!(injected.tokens.len(), (batch_size * seq_len) as usize);
    }
}
