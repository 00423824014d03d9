use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use crate::experiment::tests::{inputs, parse};
use crate::{ExperimentSpec, RunSpec, SpecHash};

/// Six cells, before there is a matrix.
const FILE: &str = r#"
name = "tiny"
scenarios = ["duplication", "mine"]
batch_sizes = [8]
seeds = [0, 1, 2]

[data]
facts = "facts.json"
tokenizer = "tokenizer.json"
seq_len = 64

[data.corpus]
files = ["corpus.u16"]
format = "uint16"

[[checkpoint]]
name = "late"
run = "pre/scratch-none-b16-s0"
step = 500

[training]
steps = 30
learning_rate = { kind = "constant", peak = 5e-3, warmup_steps = 30 }

[injection]
every = 5
count = 2

[[scenario.mine.arm]]
name = "mine"
facts = "0..2"
text = "original"
steps = [3, 7]
"#;

/// One scenario, one batch size and one seed, and a matrix.
fn one_cell(matrix: &str) -> String {
    FILE.replace("\"duplication\", ", "")
        .replace("[0, 1, 2]", "[0]")
        + matrix
}

fn runs(text: &str) -> Vec<RunSpec> {
    let spec = parse(text).unwrap_or_else(|err| panic!("{err}"));
    spec.expand(&inputs()).unwrap()
}

/// The labels, without the experiment's name.
fn labels(text: &str) -> String {
    let labels = runs(text).into_iter().map(|run| run.label);
    let cells = labels.map(|l| l.strip_prefix("tiny/late-").unwrap().to_owned() + "\n");
    cells.collect()
}

#[track_caller]
#[expect(
    clippy::needless_pass_by_value,
    reason = "an expectation reads best where it stands"
)]
fn refuses(text: &str, want: Expect) {
    want.assert_eq(&parse(text).unwrap_err().to_string());
}

#[test]
fn a_product_and_a_zip_go_through_all_their_cells() {
    let matrix = r#"
        [matrix.product]
        "training.learning_rate.peak" = [1e-4, 4e-4]
        [[matrix.zip]]
        "training.steps" = [20, 40]
        injection.every = [5, 10]
    "#;
    expect![[r#"
        mine-b8-s0-every5-peak1e-4-steps20
        mine-b8-s0-every10-peak1e-4-steps40
        mine-b8-s0-every5-peak4e-4-steps20
        mine-b8-s0-every10-peak4e-4-steps40
    "#]]
    .assert_eq(&labels(&one_cell(matrix)));
    let runs = runs(&one_cell(matrix));
    let rate = serde_json::to_value(&runs[2].identity.training.learning_rate).unwrap();
    assert_eq!(rate["peak"], 4e-4, "it is set");
    assert_eq!(rate["warmup_steps"], 30, "what is beside it stays");
    assert_eq!(runs[3].identity.training.steps, 40);
}

#[test]
fn a_run_is_the_same_whether_a_field_stands_there_or_is_set() {
    let set = one_cell("[matrix.product]\n\"training.steps\" = [40]");
    let there = one_cell("").replace("\nsteps = 30", "\nsteps = 40");
    assert_eq!(
        runs(&set)[0].identity.hash(),
        runs(&there)[0].identity.hash()
    );
    // Nor need it stand there.
    let only_set = set.replace("\nsteps = 30\n", "\n");
    assert!(only_set.len() < set.len());
    assert_eq!(
        runs(&only_set)[0].identity.hash(),
        runs(&there)[0].identity.hash()
    );
}

#[test]
fn the_four_lists_go_into_a_zip_too() {
    let text = FILE
        .replace("batch_sizes = [8]\n", "")
        .replace("seeds = [0, 1, 2]\n", "")
        + r#"
        [[matrix.zip]]
        batch_size = [8, 32]
        "training.learning_rate.peak" = [1e-4, 4e-4]
        [[matrix.zip]]
        scenario = ["mine", "once"]
        seed = [7, 8]
        "#;
    let text = text.replace("scenarios = [\"duplication\", \"mine\"]\n", "");
    expect![[r#"
        mine-b8-s7-peak1e-4
        once-b8-s8-peak1e-4
        mine-b32-s7-peak4e-4
        once-b32-s8-peak4e-4
    "#]]
    .assert_eq(&labels(&text));
    let two = FILE.replace(
        "[data]",
        "[[checkpoint]]\nname = 'early'\nrun = 'x/y'\nstep = 1\n[data]",
    ) + "[[matrix.zip]]\ncheckpoint = ['late', 'early']\ninjection.count = [1, 2]";
    let spec = parse(&two).unwrap();
    let cells: Vec<(usize, String)> = spec
        .matrix()
        .into_iter()
        .filter(|c| c.seed == 0 && c.scenario == "mine")
        .map(|c| (c.checkpoint, c.label))
        .collect();
    let label = |name: &str, count: u32| format!("tiny/{name}-mine-b8-s0-count{count}");
    assert_eq!(cells, [(1, label("late", 1)), (0, label("early", 2))]);
}

#[test]
fn cells_are_left_out_and_added() {
    let text = FILE.to_owned()
        + r#"
        [matrix.product]
        "training.steps" = [20, 40]
        [[matrix.exclude]]
        scenario = "duplication"
        training.steps = 40
        [[matrix.exclude]]
        seed = 2
        [[matrix.include]]
        scenario = "once"
        seed = 0
        "training.steps" = 500
        "#;
    expect![[r#"
        duplication-b8-s0-steps20
        duplication-b8-s1-steps20
        mine-b8-s0-steps20
        mine-b8-s1-steps20
        mine-b8-s0-steps40
        mine-b8-s1-steps40
        once-b8-s0-steps500
    "#]]
    .assert_eq(&labels(&text));
    // Without further fields too.
    let text = FILE.to_owned() + "[[matrix.exclude]]\nscenario = 'mine'\nseed = 1";
    expect![[r#"
        duplication-b8-s0
        duplication-b8-s1
        duplication-b8-s2
        mine-b8-s0
        mine-b8-s2
    "#]]
    .assert_eq(&labels(&text));
}

#[test]
fn values_are_readable_in_labels() {
    let matrix = r#"
        [matrix.product]
        "training.precision" = ["float32", "bfloat16"]
        "training.optimizer.beta2" = [0.95]
        "training.optimizer.clip_norm" = [1, 10.0]
        "training.learning_rate" = [{ kind = "constant", peak = 0.02 }]
        "probing.swap" = [true]
        "saving.every" = [50]
        "injection.every" = [3]
        "saving.keep" = [[10, 20]]
        "data.eos" = ["<|endoftext|>"]
        "scenario.mine.arm.0.steps" = [{ start = 0, every = 1, count = 5 }]
        "data.corpus.order" = [{ kind = "pcg64", seed = 6198, n_instances = 1234567890123456 }]
    "#;
    expect![[r#"
        mine-b8-s0-order-kind-pcg64_n_instanc-ee941e2f-eos-endoftext-f8740bf4-injection.every3-swap-true-saving.every50-keep10_20-steps-count5_every1_start0-learning_rate-kind-constant_peak0.02-beta2-0.95-clip_norm1-precision-float32
    "#]]
    .assert_eq(&labels(&one_cell(matrix)).lines().next().map_or_else(String::new, |l| l.to_owned() + "\n"));
}

#[test]
fn what_no_field_takes_is_shown_in_its_line() {
    refuses(
        &one_cell("[matrix.product]\n\"training.stps\" = [1]"),
        expect![[r#"
            tiny.toml: TOML parse error at line 35, column 1
               |
            35 | "training.stps" = [1]
               | ^^^^^^^^^^^^^^^
            unknown field `stps`, expected one of `steps`, `learning_rate`, `optimizer`, `precision`, `micro_batch_rows`
            in the runs with `training.stps` = 1"#]],
    );
    refuses(
        &one_cell("[matrix.product]\n\"training.steps\" = [20, \"many\"]"),
        expect![[r#"
            tiny.toml: TOML parse error at line 35, column 25
               |
            35 | "training.steps" = [20, "many"]
               |                         ^^^^^^
            invalid type: string "many", expected u32
            in the runs with `training.steps` = "many""#]],
    );
    refuses(
        &one_cell("[matrix.product]\n\"training.steps\" = [20, 0]"),
        expect![
            "tiny.toml: `training.steps`: must be 1 at least (in the runs with `training.steps` = 0)"
        ],
    );
    refuses(
        &one_cell("[matrix.product]\n\"training.learning_rate.max_steps\" = [20]"),
        expect![[r#"
            tiny.toml: TOML parse error at line 23, column 17
               |
            23 | learning_rate = { kind = "constant", peak = 5e-3, warmup_steps = 30 }
               |                 ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            `max_steps` or `max_tokens` does not go with a schedule of kind `constant`
            in the runs with `training.learning_rate.max_steps` = 20"#]],
    );
    refuses(
        &one_cell("[matrix.product]\n\"training.steps.x\" = [1]"),
        expect!["tiny.toml: line 35: `matrix: training.steps.x`: `training.steps` has no fields"],
    );
    refuses(
        &one_cell("[matrix.product]\n\"scenario.mine.arm.1.text\" = [\"original\"]"),
        expect![
            "tiny.toml: line 35: `matrix: scenario.mine.arm.1.text`: `scenario.mine.arm` is a list of 1, numbered from 0"
        ],
    );
    refuses(
        &FILE
            .replace("seeds = [0, 1, 2]", "seeds = [0, -1]")
            .replace("[data]", "[matrix]\n[data]"),
        expect![[r#"
            tiny.toml: TOML parse error at line 5, column 13
              |
            5 | seeds = [0, -1]
              |             ^^
            invalid value: integer `-1`, expected u64"#]],
    );
}

#[test]
fn impossible_matrices_say_what_to_do() {
    let product = |lines: &str| one_cell(&format!("[matrix.product]\n{lines}"));
    for (text, want) in [
        (
            one_cell("[matrix]\nproducts = {}"),
            expect![
                "tiny.toml: line 35: `matrix.products`: is unknown; there are `product`, `zip`, `exclude` and `include`; fields of the runs go into `[matrix.product]`"
            ],
        ),
        (
            one_cell("[matrix.zip]\nx = [1]"),
            expect![
                "tiny.toml: line 34: `matrix.zip`: is a list of tables: write `[[matrix.zip]]`"
            ],
        ),
        (
            product("\"training.steps\" = 20"),
            expect![
                "tiny.toml: line 35: `matrix.product.training.steps`: is a list of values, as in `[1, 2]`"
            ],
        ),
        (
            product("\"training.steps\" = []"),
            expect!["tiny.toml: line 35: `matrix.product.training.steps`: give at least one"],
        ),
        (
            product("\"training.steps\" = [20, 20]"),
            expect![
                "tiny.toml: line 35: `matrix.product.training.steps`: the same value stands there twice"
            ],
        ),
        (
            product("\"training..steps\" = [20]"),
            expect![[
                r#"tiny.toml: line 35: `training..steps`: is no path of a field, such as "training.steps""#
            ]],
        ),
        (
            product("name = [\"a\"]"),
            expect![
                "tiny.toml: line 35: `matrix.product.name`: is the experiment's; runs get labels of their own"
            ],
        ),
        (
            product("\"data.facts\" = [\"a\"]"),
            expect![
                "tiny.toml: line 35: `matrix.product.data.facts`: is the same for all runs of an experiment, which read one corpus and one facts file; make another experiment file"
            ],
        ),
        (
            product("\"data.corpus.files\" = [[\"a\"]]"),
            expect![
                "tiny.toml: line 35: `matrix.product.data.corpus.files`: is the same for all runs of an experiment, which read one corpus and one facts file; make another experiment file"
            ],
        ),
        (
            product("\"checkpoint.late.step\" = [1]"),
            expect![
                "tiny.toml: line 35: `matrix.product.checkpoint.late.step`: is an axis already: give another [[checkpoint]], which may have the same `path`"
            ],
        ),
        (
            product("seed = [1]"),
            expect![
                "tiny.toml: line 35: `matrix.product.seed`: is an axis already: `seeds` at the top of the file"
            ],
        ),
        (
            product("seeds = [1]"),
            expect![
                "tiny.toml: line 35: `matrix.product.seeds`: is an axis already: a list at the top of the file, or one value in a zip"
            ],
        ),
        (
            product("\"training.learning_rate\" = [1]\n\"training.learning_rate.peak\" = [1]"),
            expect![
                "tiny.toml: line 36: `matrix: training.learning_rate.peak`: is in `training.learning_rate`, which is an axis too"
            ],
        ),
        (
            product("training.steps = [1]\n[[matrix.zip]]\n\"training.steps\" = [1]"),
            expect!["tiny.toml: line 37: `matrix: training.steps`: is an axis twice"],
        ),
        (
            one_cell(
                "[[matrix.zip]]\n\"training.steps\" = [20, 40]\n\"injection.every\" = [1, 2, 3]",
            ),
            expect![
                "tiny.toml: line 35: `matrix.zip.training.steps`: has 2 values and `injection.every` has 3; those of one zip go together one by one"
            ],
        ),
        (
            one_cell("[[matrix.zip]]\n"),
            expect!["tiny.toml: line 34: `matrix.zip`: names no field"],
        ),
        (
            one_cell("[[matrix.zip]]\nseed = [1, 2]"),
            expect![
                "tiny.toml: line 5: `seeds`: is given by `matrix.zip.seed` too; leave one of the two out"
            ],
        ),
        (
            one_cell("[[matrix.zip]]\ncheckpoint = [\"early\"]"),
            expect![[
                r#"tiny.toml: line 35: `matrix.zip.checkpoint`: there is no [[checkpoint]] named "early"; there are "late""#
            ]],
        ),
        (
            one_cell(
                "[[checkpoint]]\nname = 'early'\nrun = 'x/y'\nstep = 1\n\
                 [[matrix.zip]]\ncheckpoint = ['late']\ninjection.count = [1]",
            ),
            expect![[
                r#"tiny.toml: line 35: `checkpoint.name`: no cell of the matrix has "early", so it would not be run: name it in `matrix.zip` or `matrix.include`, leave out less, or remove its table"#
            ]],
        ),
        (
            one_cell(
                "[[checkpoint]]\nname = 'early'\nrun = 'x/y'\nstep = 1\n\
                 [[matrix.exclude]]\ncheckpoint = 'late'",
            ),
            expect![[
                r#"tiny.toml: line 17: `checkpoint.name`: no cell of the matrix has "late", so it would not be run: name it in `matrix.zip` or `matrix.include`, leave out less, or remove its table"#
            ]],
        ),
        (
            one_cell("[[matrix.exclude]]\nseed = 4"),
            expect!["tiny.toml: line 35: `matrix.exclude.seed`: no cell has 4; its values are 0"],
        ),
        (
            one_cell("[[matrix.exclude]]\nseed = 0"),
            expect!["tiny.toml: line 34: `matrix.exclude`: leaves no cell"],
        ),
        (
            one_cell("[[matrix.exclude]]\n"),
            expect!["tiny.toml: line 34: `matrix.exclude`: says nothing, and would leave no cell"],
        ),
        (
            FILE.to_owned() + "[[matrix.exclude]]\nseed = 0\n[[matrix.exclude]]\nseed = 0",
            expect![
                "tiny.toml: line 36: `matrix.exclude`: matches no cell, or only what another one leaves out: remove it"
            ],
        ),
        (
            one_cell("[[matrix.exclude]]\n\"training.steps\" = 20"),
            expect![
                "tiny.toml: line 35: `matrix.exclude.training.steps`: is no axis of this file, which has checkpoint, scenario, batch_size, seed; make it one in `[matrix.product]`, if need be of one value"
            ],
        ),
        (
            FILE.to_owned() + "[[matrix.include]]\nseed = 5",
            expect![[
                r#"tiny.toml: line 34: `matrix.include`: say `scenario` (such as "duplication", "mine") too: an axis with several values"#
            ]],
        ),
        (
            one_cell("[[matrix.include]]\nseed = 0"),
            expect!["tiny.toml: line 34: `matrix.include`: is a cell already: remove it"],
        ),
        (
            one_cell("[[matrix.include]]\ncheckpoint = \"early\""),
            expect![[
                r#"tiny.toml: line 35: `matrix.include.checkpoint`: there is no [[checkpoint]] named "early"; there are "late""#
            ]],
        ),
        (
            FILE.replace(
                "[0, 1, 2]",
                &format!("{:?}", (0..30_000).collect::<Vec<_>>()),
            ),
            expect![
                "tiny.toml: `seeds`: the matrix has 60000 cells, and one file has 50000 at most; make several experiments, which share what they have in common"
            ],
        ),
        (
            product(&format!(
                "\"training.steps\" = {:?}\n\"injection.count\" = {:?}",
                (1..=1000).collect::<Vec<_>>(),
                (1..=100).collect::<Vec<_>>()
            )),
            expect![
                "tiny.toml: line 35: `matrix`: the matrix has 100000 cells, and one file has 50000 at most; make several experiments, which share what they have in common"
            ],
        ),
        (
            FILE.replace("[\"duplication\", \"mine\"]", "[\"a\", \"b-a\"]")
                .replace(
                    "[data]",
                    "[[checkpoint]]\nname = \"late-b\"\nrun = \"x/y\"\nstep = 1\n[data]",
                ),
            expect![
                "tiny.toml: `matrix`: two runs would have the label `tiny/late-b-a-b8-s0`; give a checkpoint or a scenario of theirs another name"
            ],
        ),
    ] {
        refuses(&text, want);
    }
}

/// An axis of the property tests: its field, and values of which each file has some.
const AXES: [(&str, &[&str]); 4] = [
    ("training.steps", &["20", "30", "40"]),
    ("training.learning_rate.peak", &["1e-4", "4e-4", "0.002"]),
    ("injection.every", &["1", "2", "5"]),
    ("training.precision", &["\"float32\"", "\"bfloat16\""]),
];

fn by_label(text: &str) -> BTreeMap<String, SpecHash> {
    let runs = runs(text).into_iter();
    runs.map(|run| (run.label, run.identity.hash())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A further value adds runs and changes none.
    #[test]
    fn a_further_value_renames_no_run(
        chosen in proptest::collection::vec(1..8_usize, AXES.len()),
        grown in 0..AXES.len(),
    ) {
        let file = |chosen: &[usize]| {
            let mut text = one_cell("[matrix.product]\n").replace("[\"mine\"]", "[\"duplication\"]");
            for ((field, values), bits) in AXES.iter().zip(chosen) {
                let some = values.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1);
                let some: Vec<&str> = some.map(|(_, value)| *value).collect();
                if !some.is_empty() {
                    text += &format!("\"{field}\" = [{}]\n", some.join(", "));
                }
            }
            text
        };
        let few = by_label(&file(&chosen));
        let mut more = chosen.clone();
        if more[grown] & 7 != 0 && (more[grown] & 3 != 0 || grown != 3) {
            more[grown] = 7;
        }
        let more = by_label(&file(&more));
        for (label, hash) in few {
            prop_assert_eq!(more.get(&label), Some(&hash));
        }
        let hashes: BTreeSet<&SpecHash> = more.values().collect();
        prop_assert_eq!(hashes.len(), more.len(), "every cell is a run of its own");
    }

    /// The order in which tables, keys and values stand changes neither labels nor hashes.
    #[test]
    fn order_in_the_file_changes_no_run(keys in proptest::collection::vec(any::<u32>(), 64)) {
        let text = FILE.to_owned() + r#"
[probing.reading_steps]
dense_after_last_injection = 5
then_every = 2

[training.optimizer]
beta1 = 0.85
weight_decay = 0.05

[matrix.product]
"training.learning_rate.peak" = [1e-4, 4e-4]
"probing.swap" = [true, false]

[[matrix.exclude]]
seed = 1
"probing.swap" = true
"#;
        let mut keys = keys.into_iter().cycle();
        let mut shuffled = |mut lines: Vec<String>| {
            lines.sort_by_cached_key(|_| keys.next());
            lines
        };
        // The tables, each with its head.
        let mut tables: Vec<Vec<String>> = vec![Vec::new()];
        for line in text.lines().filter(|line| !line.is_empty()) {
            match line.starts_with('[') {
                true => tables.push(vec![line.to_owned()]),
                false => tables.last_mut().unwrap().push(line.to_owned()),
            }
        }
        let top = shuffled(tables.remove(0)).join("\n");
        let rest = tables.into_iter().map(|mut table| {
            let head = table.remove(0);
            format!("{head}\n{}\n", shuffled(table).join("\n"))
        });
        let rest: Vec<String> = rest.collect();
        let other = format!("{top}\n{}", shuffled(rest).join("\n"))
            .replace("[1e-4, 4e-4]", "[0.0004, 0.000_1]")
            .replace("[0, 1, 2]", "[0x2, 0, 1]")
            .replace("{ kind = \"constant\", peak = 5e-3, warmup_steps = 30 }",
                     "{ warmup_steps = 3_0, peak = 0.005, kind = 'constant' }");
        prop_assert_eq!(by_label(&text), by_label(&other));
    }
}

/// The TOML of `docs/experiments.md`, block by block.
fn documented() -> impl Iterator<Item = &'static str> {
    let text = include_str!("../../../../../docs/experiments.md");
    let blocks = text.split("```toml\n").skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap_or_default())
}

/// A file in which the keys of another, where they stand in both, have that one's values.
fn merged(file: &str, other: &str) -> String {
    fn merge(into: &mut toml::Table, from: toml::Table) {
        for (key, value) in from {
            match (into.get_mut(&key), value) {
                (Some(toml::Value::Table(inner)), toml::Value::Table(value))
                    if !value.contains_key("kind") =>
                {
                    merge(inner, value);
                }
                (_, value) => {
                    into.insert(key, value);
                }
            }
        }
    }
    let mut table: toml::Table = file.parse().unwrap();
    merge(&mut table, other.parse().unwrap());
    table.to_string()
}

#[test]
fn the_documented_examples_are_true() {
    let place = |path: &Path| Ok(path.to_owned());
    let read = |text: &str| {
        ExperimentSpec::parse_with(text, Path::new("doc.toml"), place)
            .unwrap_or_else(|err| panic!("{err}\n{text}"))
    };
    let mut blocks = documented();
    let whole = blocks.next().unwrap();
    assert_eq!(read(whole).matrix().len(), 16);
    assert_eq!(
        read(whole).matrix()[0].label,
        "mine/early-paraphrase-b32-s0"
    );
    let mut n_cells = Vec::new();
    for block in blocks {
        let mut file = whole.to_owned();
        if block.contains("in place of `batch_sizes`") {
            file = file.replace("batch_sizes = [32, 128]\n", "");
        }
        if block.contains("[[checkpoint]]") {
            let (before, rest) = file.split_once("[[checkpoint]]").unwrap();
            let (_, after) = rest.split_once("[training]").unwrap();
            file = format!("{before}[training]{after}");
        }
        n_cells.push(read(&merged(&file, block)).matrix().len());
    }
    // Product, product of tables, zip, zip of a list, exclude, include; then the keys' examples.
    assert_eq!(n_cells[..6], [64, 32, 32, 24, 12, 17]);
    assert!(n_cells.len() >= 16, "{n_cells:?}");
    let sweep = include_str!("../../../../../experiments/sweep.toml");
    assert_eq!(read(sweep).matrix().len(), 13, "as its comment says");
}

/// The readers of the tables name their keys where they are given an unknown one.
#[test]
fn every_key_is_documented() {
    let text = include_str!("../../../../../docs/experiments.md");
    let full =
        FILE.to_owned() + "[probing.reading_steps]\n[training.optimizer]\n[saving]\n[resources]\n";
    let scratch = "[[checkpoint]]\nname = \"s\"\n[checkpoint.init]\nhidden_size = 8\n\
                   intermediate_size = 8\nnum_hidden_layers = 1\nnum_attention_heads = 2\n";
    let full = full.replace("[training]\n", &format!("{scratch}[training]\n"));
    for at in [
        "[data]\n",
        "[data.corpus]\n",
        "[[checkpoint]]\n",
        "[checkpoint.init]\n",
        "[training]\n",
        "learning_rate = { ",
        "[training.optimizer]\n",
        "[injection]\n",
        "[[scenario.mine.arm]]\n",
        "[probing.reading_steps]\n",
        "[saving]\n",
        "[resources]\n",
        "\nname = \"tiny\"\n",
    ] {
        let end = if at.ends_with('\n') { "\n" } else { ", " };
        let file = full.replacen(at, &format!("{at}nonsense = 1{end}"), 1);
        assert_ne!(file, full, "{at}");
        let said = parse(&file).unwrap_err().to_string();
        let (_, keys) = said
            .split_once("expected one of ")
            .or_else(|| said.split_once("expected "))
            .unwrap_or_else(|| panic!("{said}"));
        let mut n = 0;
        for key in keys.split('`').skip(1).step_by(2) {
            let stands = [format!("`{key}`"), format!("{key} = "), format!("{key}.")];
            let stands =
                stands.iter().any(|s| text.contains(s)) || text.contains(&format!("[{key}"));
            assert!(stands, "docs/experiments.md has no `{key}` of {at}");
            n += 1;
        }
        assert!(n >= 2, "{said}");
    }
}

/// As many different files as there may be cells.
#[test]
fn the_largest_matrix_is_read() {
    let n = super::MAX_CELLS;
    let numbers: Vec<String> = (0..n).map(|i| i.to_string()).collect();
    let text = FILE
        .replace("seeds = [0, 1, 2]\n", "")
        .replace("[\"duplication\", \"mine\"]", "[\"mine\"]")
        + &format!(
            "[[matrix.zip]]\nseed = [{0}]\n\"training.learning_rate.warmup_steps\" = [{0}]",
            numbers.join(", ")
        );
    let spec = parse(&text).unwrap();
    assert_eq!(spec.matrix().len(), n);
    let text = FILE.replace("[0, 1, 2]", &format!("[{}]", numbers[..n / 2].join(", ")))
        + "[[matrix.exclude]]\nseed = 7";
    assert_eq!(parse(&text).unwrap().matrix().len(), n - 2);
}
