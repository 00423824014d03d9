use std::fs;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::fixture::{Fixture, fact};
use crate::token_cache::TokenCache;

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

/// The rows of the updates, one after the other.
fn rows(data: &TrainingData, steps: std::ops::Range<u32>) -> Vec<Vec<u32>> {
    let batches = steps.map(|step| data.batch(step).unwrap());
    batches
        .flat_map(|b| (0..b.batch_size).map(move |row| b.row(row).to_vec()))
        .collect()
}

/// The row of ten tokens that is instance `i` of the fixture's corpus.
fn instance(i: u32) -> Vec<u32> {
    (10 * i..10 * i + 10).collect()
}

#[test]
fn every_order_starts_at_any_instance_and_goes_over_epochs() {
    let mut fixture = fixture(&[3]);
    fixture.scenario = "none".to_owned();
    let orders = [
        r#"order = "sequential""#,
        r#"order = "shuffled""#,
        r#"order = { kind = "pcg64", seed = 6198 }"#,
        r#"order = { kind = "pcg64", seed = 6198, epoch = 3, world_size = 8 }"#,
    ];
    for order in orders {
        let open = |start: u32, steps: u32| {
            let mut fixture = fixture_of(&fixture, order, start);
            fixture.steps = steps;
            TrainingData::open(&fixture.run()).unwrap()
        };
        let whole = rows(&open(0, 60), 0..60);
        for start in [1, 96, 97, 100, 131] {
            let later = rows(&open(start, 20), 0..20);
            assert_eq!(
                later,
                whole[start as usize..][..80],
                "{order}, from {start}"
            );
        }
    }
}

/// The same inputs under another order, three epochs of it.
fn fixture_of(fixture: &Fixture, order: &str, start_instance: u32) -> Fixture {
    let mut other = Fixture::new(&[fact(0, 3, 1)]);
    other.scenario.clone_from(&fixture.scenario);
    other.tables.clone_from(&fixture.tables);
    other.corpus =
        format!("format = \"uint16\"\nmax_epochs = 3\nstart_instance = {start_instance}\n{order}");
    other
}

#[test]
fn olmos_order_is_numpys_shuffle_of_the_instances() {
    let mut fixture = fixture(&[3]);
    fixture.scenario = "none".to_owned();
    fs::write(
        fixture.path("corpus"),
        (0..100u16).flat_map(u16::to_le_bytes).collect::<Vec<_>>(),
    )
    .unwrap();
    fixture.batch_sizes = vec![2];
    fixture.steps = 8;
    fixture.corpus += "\nmax_epochs = 2\norder = { kind = \"pcg64\", seed = 6198, world_size = 4 }";
    let data = TrainingData::open(&fixture.run()).unwrap();
    let order = [2, 4, 7, 3, 8, 9, 0, 6, 6, 4, 1, 8, 3, 2, 5, 9];
    assert_eq!(rows(&data, 0..8), order.map(instance));

    fixture.steps = 9;
    refuses(
        &fixture,
        &expect![
            "the corpus is shorter than the run: 9 steps of 2 rows from instance 0 need 18 instances of 10 tokens; the corpus has 8, times `max_epochs` 2; set `data.corpus.max_epochs = 3` or train less"
        ],
    );
}

#[test]
fn an_order_file_is_followed_as_far_as_it_goes() {
    let mut fixture = fixture(&[3]);
    fixture.scenario = "none".to_owned();
    let write = |indices: &mut dyn Iterator<Item = u32>| {
        let bytes: Vec<u8> = indices.flat_map(u32::to_le_bytes).collect();
        fs::write(fixture.path("global_indices.npy"), bytes).unwrap();
    };
    write(&mut (0..100).rev());
    let mut fixture = Fixture {
        corpus: "format = \"uint16\"\norder = { kind = \"file\", path = \"global_indices.npy\" }"
            .to_owned(),
        ..fixture
    };
    let run = fixture.run();
    let data = TrainingData::open(&run).unwrap();
    assert_eq!(data.batch(1).unwrap().row(0), instance(95));
    assert!(data.warnings().is_empty(), "{:?}", data.warnings());

    fixture.steps = 26;
    let error = TrainingData::open(&fixture.run()).unwrap_err().to_string();
    let words =
        "global_indices.npy has 100 indices, but 26 steps of 4 rows from instance 0 need 104";
    assert!(error.contains(words), "{error}");

    let bytes: Vec<u8> = (1..101).flat_map(u32::to_le_bytes).collect();
    fs::write(fixture.path("global_indices.npy"), bytes).unwrap();
    let changed = TrainingData::open(&run).unwrap_err();
    assert!(matches!(changed, Error::Changed { .. }), "{changed}");
    fixture.steps = 25;
    let past = TrainingData::open(&fixture.run()).unwrap_err();
    assert!(matches!(
        past,
        Error::OrderPastData {
            position: 99,
            index: 100,
            n_instances: 100,
            ..
        }
    ));
}

#[test]
fn documents_are_masked_only_on_request() {
    let mut fixture = fixture(&[3]);
    let plain = fixture.run();
    assert_eq!(TrainingData::open(&plain).unwrap().document_mask(), None);
    fixture.data = "document_mask = true".to_owned();
    let masked = fixture.run();
    assert_eq!(
        TrainingData::open(&masked).unwrap().document_mask(),
        Some(0)
    );
    assert_ne!(plain.identity.hash(), masked.identity.hash());
}

#[track_caller]
fn warns(fixture: &Fixture, want: &Expect) {
    let data = TrainingData::open(&fixture.run()).unwrap();
    want.assert_eq(&data.warnings().join("\n"));
}

#[test]
fn what_looks_wrong_is_warned_of() {
    let fixture = fixture(&[3]);
    warns(&fixture, &expect![""]);
    let write = |tokens: &mut dyn Iterator<Item = u16>| {
        let bytes: Vec<u8> = tokens.flat_map(u16::to_le_bytes).collect();
        fs::write(fixture.path("corpus"), bytes).unwrap();
    };
    write(&mut (0..2000).map(|i| 1 + i % 700));
    warns(
        &fixture,
        &expect![
            "the end-of-sequence token `<|eos|>` (0) is not among the 2000 tokens of the corpus that were looked at; is `data.eos` the token that its documents end with?"
        ],
    );
    write(&mut (0..2000).map(|i| if i % 2 == 0 { i % 700 } else { 0 }));
    warns(
        &fixture,
        &expect![[
            r#"every second token of the corpus is 0, as if 32-bit ids were read as 16-bit ones; is `data.corpus.format = "uint32"` right?"#
        ]],
    );
    write(&mut (0..1000));
    let config = r#"{"eos_token": {"content": "</s>"}}"#;
    fs::write(fixture.path("tokenizer_config.json"), config).unwrap();
    warns(
        &fixture,
        &expect![
            "`data.eos` is `<|eos|>`, but the tokenizer_config.json beside the tokenizer says `</s>`"
        ],
    );
}

#[test]
fn a_corpus_that_closes_documents_otherwise_is_warned_of() {
    let mut fixture = fixture(&[3]);
    let json = fs::read_to_string(fixture.path("tokenizer.json")).unwrap();
    let eos = r#"{"id":0,"content":"<|eos|>","#;
    let more = json.replace(r#"{"id":0,"content":"<|eos|>","#, &format!(
        r#"{{"id":1,"content":"w0","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}},{eos}"#
    ));
    assert!(
        json.replace('\n', "").contains(&eos.replace('\n', "")),
        "{json:.300}"
    );
    fs::write(fixture.path("tokenizer.json"), more).unwrap();
    fs::write(fixture.path("corpus"), [1, 0, 2, 0].repeat(1000)).unwrap();
    fixture.steps = 20;
    fixture.scenario = "none".to_owned();
    warns(
        &fixture,
        &expect![
            "the end-of-sequence token `<|eos|>` (0) is not among the 2000 tokens of the corpus that were looked at, but `w0` is, 1000 times; is `data.eos` the token that its documents end with?"
        ],
    );
}

#[test]
fn tokens_of_the_wrong_type_are_refused_before_training() {
    let fixture = fixture(&[3]);
    // 16-bit ids read as 32-bit ones.
    let mut wide = Fixture {
        corpus: "format = \"uint32\"\nmax_epochs = 2".to_owned(),
        ..fixture
    };
    wide.scenario = "none".to_owned();
    let error = TrainingData::open(&wide.run()).unwrap_err().to_string();
    let words = "token 0 is 65536, outside the tokenizer's vocabulary of 1001; is \
                 `data.corpus.format` the type of its ids";
    assert!(error.contains(words), "{error}");
}

#[test]
fn text_is_trained_on_through_the_cache() {
    let mut fixture = fixture(&[3]);
    fixture.scenario = "none".to_owned();
    let cache = TokenCache::at(&fixture.path("cache"));
    fs::write(
        fixture.path("corpus"),
        "{\"body\": \"w0 w1 w2 w3\"}\n".repeat(300),
    )
    .unwrap();
    fixture.corpus = "format = \"jsonl\"\ntext_field = \"body\"\norder = \"sequential\"".to_owned();
    let run = fixture.run();
    let data = TrainingData::open_with(&run, &cache).unwrap();
    assert_eq!(
        data.batch(24).unwrap().row(3),
        [1, 2, 3, 4, 0, 1, 2, 3, 4, 0]
    );
    // Unlike token files, text is known by all of its content.
    let mut lines = fs::read(fixture.path("corpus")).unwrap();
    let middle = lines.len() / 2 / 25 * 25;
    lines[middle + 13] = b'3';
    fs::write(fixture.path("corpus"), lines).unwrap();
    assert!(matches!(
        TrainingData::open_with(&run, &cache).unwrap_err(),
        Error::Changed { .. }
    ));
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
