//! `imprint-trainer inspect` shows any update of an experiment, whatever its corpus is made of.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tempfile::TempDir;

const SEQ_LEN: u64 = 4;
const BATCH_SIZE: u64 = 3;

/// An experiment in a directory of its own; its checkpoint is nowhere.
struct Lab {
    directory: TempDir,
}

impl Lab {
    /// The tokens are `<eos>`, `<unk>`, and the words `w0` to `w99` as 2 to 101.
    fn new() -> Self {
        let lab = Self {
            directory: tempfile::tempdir().expect("make a directory"),
        };
        let words = (0..100).map(|i| (format!("w{i}"), json!(i + 2)));
        let mut vocab: serde_json::Map<String, Value> = words.collect();
        vocab.insert("<eos>".to_owned(), json!(0));
        vocab.insert("<unk>".to_owned(), json!(1));
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [{"id": 0, "content": "<eos>", "single_word": false, "lstrip": false,
                              "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": vocab},
        });
        lab.write("tokenizer.json", tokenizer.to_string().as_bytes());
        let fact = json!({
            "train_context": "w90 w91", "paraphrases": [],
            "mem_input": ["w90"], "mem_target": ["w91"], "gen_input": [], "gen_target": [],
            "hard_gen_input": [], "hard_gen_target": [],
        });
        lab.write("facts.json", json!([fact]).to_string().as_bytes());
        lab
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, bytes).expect("write");
        path
    }

    fn inspect(&self, corpus: &str, steps: u32, step: u32) -> Output {
        let output = self.command(corpus, steps, step).output();
        output.expect("run imprint-trainer")
    }

    fn command(&self, corpus: &str, steps: u32, step: u32) -> Command {
        let toml = format!(
            r#"
            name = "look"
            scenarios = ["shown"]
            batch_sizes = [{BATCH_SIZE}]
            [data]
            facts = "facts.json"
            tokenizer = "tokenizer.json"
            eos = "<eos>"
            seq_len = {SEQ_LEN}
            [data.corpus]
            {corpus}
            [[checkpoint]]
            name = "away"
            path = "/nowhere/OLMo-1B"
            global_step = 40000
            [training]
            steps = {steps}
            learning_rate = {{ kind = "constant", peak = 1e-3 }}
            [[scenario.shown.arm]]
            name = "shown"
            facts = "0..1"
            text = "original"
            steps = [1]
            "#
        );
        let file = self.write("look.toml", toml.as_bytes());
        let mut command = Command::new(env!("CARGO_BIN_EXE_imprint-trainer"));
        command
            .arg("inspect")
            .arg(file)
            .args(["--all", "--step", &step.to_string()])
            .env("IMPRINT_CACHE_DIR", self.directory.path().join("cache"));
        command
    }

    /// The rows of an update.
    #[track_caller]
    fn rows(&self, corpus: &str, steps: u32, step: u32) -> Vec<Vec<u64>> {
        let out = self.inspect(corpus, steps, step);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{said}");
        let batch: Value = serde_json::from_slice(&out.stdout).expect("JSON");
        assert_eq!(batch["step"], json!(step));
        let rows = batch["rows"].as_array().expect("rows");
        rows.iter()
            .map(|row| serde_json::from_value(row["tokens"].clone()).expect("tokens"))
            .collect()
    }

    /// Two updates of the same corpus, the tokens 0 to 99, in another form.
    #[track_caller]
    fn shows(&self, corpus: &str) {
        let corpus = format!("{corpus}\norder = \"sequential\"\nmax_epochs = 2");
        let row = |i: u64| (4 * i..4 * i + 4).collect::<Vec<_>>();
        assert_eq!(self.rows(&corpus, 16, 0), [row(0), row(1), row(2)]);
        let mut injected = row(3);
        injected.splice(.., [92, 93, 0, 12]);
        assert_eq!(self.rows(&corpus, 16, 1), [injected, row(4), row(5)]);
        assert_eq!(self.rows(&corpus, 16, 8), [row(24), row(0), row(1)]);
        assert_eq!(self.rows(&corpus, 16, 15), [row(20), row(21), row(22)]);
    }
}

fn counting<const N: usize>(bytes: impl Fn(u8) -> [u8; N]) -> Vec<u8> {
    (0..100).flat_map(bytes).collect()
}

#[test]
fn token_files() {
    let lab = Lab::new();
    lab.write("c.u16", &counting(|i| u16::from(i).to_le_bytes()));
    lab.shows("files = ['c.u16']\nformat = 'uint16'");
    lab.write("c.u32", &counting(|i| u32::from(i).to_le_bytes()));
    lab.shows("files = ['c.u32']\nformat = 'uint32'");
    let header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (100,), }\n";
    let npy = [
        b"\x93NUMPY\x01\x00".as_slice(),
        &(header.len() as u16).to_le_bytes(),
        header,
        &counting(|i| i64::from(i).to_le_bytes()),
    ];
    lab.write("c.npy", &npy.concat());
    lab.shows("files = ['c.npy']\nformat = 'npy'");
}

/// One file of four-token documents, so that every row is one.
#[test]
fn text_files() {
    let lab = Lab::new();
    let document = |i: u64| format!("w{} w{} w{}", 3 * i, 3 * i + 1, 3 * i + 2);
    let row = |i: u64| vec![3 * i + 2, 3 * i + 3, 3 * i + 4, 0];
    let lines: Vec<String> = (0..30).map(document).collect();
    lab.write("c.txt", lines.join("\n").as_bytes());
    let objects = lines
        .iter()
        .map(|l| json!({"id": 1, "body": l}).to_string() + "\n");
    let objects = objects.collect::<String>().into_bytes();
    lab.write("c.jsonl", &objects);
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&objects).expect("compress");
    lab.write("c.jsonl.gz", &gzip.finish().expect("compress"));
    let zst = zstd::encode_all(&objects[..], 0).expect("compress");
    lab.write("c.jsonl.zst", &zst);
    for corpus in [
        "files = ['c.txt']\nformat = 'text'",
        "files = ['c.jsonl']\nformat = 'jsonl'\ntext_field = 'body'",
        "files = ['c.jsonl.gz']\nformat = 'jsonl'\ntext_field = 'body'",
        "files = ['c.jsonl.zst']\nformat = 'jsonl'\ntext_field = 'body'",
    ] {
        let corpus = format!("{corpus}\norder = 'sequential'\nstart_instance = 6");
        assert_eq!(
            lab.rows(&corpus, 8, 0),
            [row(6), row(7), row(8)],
            "{corpus}"
        );
        assert_eq!(
            lab.rows(&corpus, 8, 7),
            [row(27), row(28), row(29)],
            "{corpus}"
        );
    }
}

#[test]
fn parquet_files() {
    let lab = Lab::new();
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/tests/fixtures/parquet/snappy.parquet");
    fs::copy(fixture, lab.directory.path().join("c.parquet")).expect("copy");
    let corpus = "files = ['c.parquet']\nformat = 'parquet'\norder = 'sequential'";
    // Words that the tokenizer does not have: seven, then seven and a run of w.
    let rows = lab.rows(corpus, 30, 0);
    assert_eq!(
        rows.concat().iter().filter(|&&t| t == 0).count(),
        1,
        "{rows:?}"
    );
    assert_eq!(lab.rows(corpus, 30, 29).len(), 3);
}

#[test]
fn sparse_files_in_every_order() {
    let lab = Lab::new();
    let path = lab.directory.path().join("sparse");
    let file = File::create(&path).expect("create");
    file.set_len(1 << 33).expect("grow");
    // Instance 2^30 − 1, the last.
    let tokens: Vec<u8> = [7u16, 8, 9, 0]
        .into_iter()
        .flat_map(u16::to_le_bytes)
        .collect();
    std::os::unix::fs::FileExt::write_all_at(&file, &tokens, (1 << 33) - 8).expect("write");
    let corpus = "files = ['sparse']\nformat = 'uint16'\norder = 'sequential'\n\
                  start_instance = 1073741821";
    assert_eq!(
        lab.rows(&format!("{corpus}\nmax_epochs = 2"), 2, 0)[2],
        [7, 8, 9, 0]
    );

    let indices: Vec<u8> = [5u32, 1_073_741_823, 3, 9, 8, 7]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    lab.write("global_indices.npy", &indices);
    let corpus = "files = ['sparse']\nformat = 'uint16'\n\
                  order = { kind = 'file', path = 'global_indices.npy' }";
    assert_eq!(lab.rows(corpus, 2, 0)[1], [7, 8, 9, 0]);

    file.set_len(8 << 10).expect("shrink");
    for order in [
        "'shuffled'",
        "{ kind = 'pcg64', seed = 6198, world_size = 2 }",
    ] {
        let corpus = format!("files = ['sparse']\nformat = 'uint16'\norder = {order}");
        assert_eq!(lab.rows(&corpus, 300, 299).len(), 3);
    }
}

#[test]
fn a_root_is_where_it_is_said_to_be() {
    let lab = Lab::new();
    fs::create_dir(lab.directory.path().join("shared")).expect("make a directory");
    lab.write("shared/c.u16", &counting(|i| u16::from(i).to_le_bytes()));
    let corpus = "files = ['data:c.u16']\nformat = 'uint16'\norder = 'sequential'";
    let refused = lab.inspect(corpus, 2, 0);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("`--root data=DIR`"), "{said}");

    let root = format!("--root=data={}/shared", lab.directory.path().display());
    let out = lab.command(corpus, 2, 0).arg(root).output();
    let out = out.expect("run imprint-trainer");
    let batch: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(batch["rows"][0]["tokens"], json!([0, 1, 2, 3]));
    let wrong = lab
        .command(corpus, 2, 0)
        .arg("--root=data=/nowhere")
        .output();
    let said = String::from_utf8(wrong.expect("run imprint-trainer").stderr).expect("text");
    assert!(said.contains("/nowhere is no directory"), "{said}");
}

/// One line that names the file and the place, and nothing in the cache.
#[test]
fn what_cannot_be_read_is_one_line() {
    let lab = Lab::new();
    let refused = |corpus: &str, words: &[&str]| {
        let out = lab.inspect(corpus, 2, 0);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(out.stdout.is_empty());
        let told: Vec<&str> = said
            .lines()
            .filter(|l| l.starts_with("imprint-trainer: "))
            .collect();
        assert_eq!(told.len(), 1, "{said}");
        for word in words {
            assert!(told[0].contains(word), "`{word}` is not in: {said}");
        }
    };
    lab.write("bad.jsonl", b"{\"text\": \"w1 w2 w3\"}\n{\"text\": \n");
    refused(
        "files = ['bad.jsonl']\nformat = 'jsonl'",
        &["bad.jsonl:2: ", "JSON"],
    );
    lab.write(
        "cut.jsonl.zst",
        &zstd::encode_all(&[b'a'; 1000][..], 0).expect("compress")[..9],
    );
    refused(
        "files = ['cut.jsonl.zst']\nformat = 'jsonl'",
        &["cut.jsonl.zst", "zstd", "complete"],
    );
    lab.write("no.parquet", b"PAR1 and nothing else");
    refused(
        "files = ['no.parquet']\nformat = 'parquet'",
        &["no.parquet", "not a Parquet file"],
    );
    lab.write("wide.u16", &[0xff; 64]);
    refused(
        "files = ['wide.u16']\nformat = 'uint16'",
        &["wide.u16", "65535", "data.corpus.format"],
    );
    lab.write("c.u16", &counting(|i| u16::from(i).to_le_bytes()));
    refused(
        "files = ['c.u16']\nformat = 'npy'",
        &["c.u16", "no NumPy header"],
    );
    lab.write("order", &[25, 0, 0, 0, 1, 0]);
    let order = "files = ['c.u16']\nformat = 'uint16'\norder = { kind = 'file', path = 'order' }";
    refused(order, &["order", "6 bytes", "cut short"]);
    lab.write("order", &[25, 0, 0, 0]);
    refused(order, &["index 0 is 25", "25 instances"]);
    lab.write("order", &[24, 0, 0, 0]);
    refused(order, &["has 1 indices", "need 6"]);
    let cache = lab.directory.path().join("cache/tokens");
    let left: Vec<_> = fs::read_dir(cache)
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    assert!(
        left.iter()
            .all(|entry| entry.path().extension().is_some_and(|e| e == "lock")),
        "{left:?}"
    );
}
