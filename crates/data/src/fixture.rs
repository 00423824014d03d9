//! Small inputs for this crate's tests: words `w0`, `w1`, … as tokens 1, 2, …, `<|eos|>` as token 0.

use std::fs;
use std::path::{Path, PathBuf};

use imprint_core::{Depth, ExperimentSpec, Fact, ProbeText, RunSpec};
use tempfile::TempDir;

use crate::{Result, resolve, write_facts};

pub(crate) const N_WORDS: u32 = 1000;
pub(crate) const VOCAB_SIZE: u32 = N_WORDS + 1;

/// Facts, tokenizer and corpus in a directory of their own, and the experiment about them.
pub(crate) struct Fixture {
    pub directory: TempDir,
    pub scenario: String,
    pub batch_sizes: Vec<u32>,
    pub seq_len: u32,
    pub steps: u32,
    /// Further lines of `[data]`.
    pub data: String,
    /// Further lines of `[data.corpus]`.
    pub corpus: String,
    /// Lines of the checkpoint's table after its name.
    pub checkpoint: String,
    /// Further tables.
    pub tables: String,
}

impl Fixture {
    /// A corpus of 1000 tokens that count up from 0, and these facts.
    pub(crate) fn new(facts: &[Fact]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let fixture = Self {
            scenario: "none".to_owned(),
            batch_sizes: vec![4],
            seq_len: 10,
            steps: 25,
            data: String::new(),
            corpus: r#"format = "uint16""#.to_owned(),
            checkpoint: "init = { hidden_size = 8, intermediate_size = 8, num_hidden_layers = 1, \
                         num_attention_heads = 1 }"
                .to_owned(),
            tables: String::new(),
            directory,
        };
        write_facts(&fixture.path("facts.json"), facts).unwrap();
        fs::write(fixture.path("tokenizer.json"), tokenizer_json()).unwrap();
        let counting: Vec<u8> = (0..1000u16).flat_map(u16::to_le_bytes).collect();
        fs::write(fixture.path("corpus"), counting).unwrap();
        fixture
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn experiment(&self) -> ExperimentSpec {
        let Self {
            scenario,
            batch_sizes,
            seq_len,
            steps,
            data,
            corpus,
            checkpoint,
            tables,
            ..
        } = self;
        let text = format!(
            r#"
            name = "test"
            scenarios = ["{scenario}"]
            batch_sizes = {batch_sizes:?}
            [data]
            facts = "facts.json"
            tokenizer = "tokenizer.json"
            eos = "<|eos|>"
            seq_len = {seq_len}
            {data}
            [data.corpus]
            files = ["corpus"]
            {corpus}
            [[checkpoint]]
            name = "start"
            {checkpoint}
            [training]
            steps = {steps}
            learning_rate = {{ kind = "constant", peak = 1e-3 }}
            {tables}
            "#
        );
        ExperimentSpec::parse(&text, Path::new("test.toml"), self.directory.path()).unwrap()
    }

    pub(crate) fn runs(&self) -> Result<Vec<RunSpec>> {
        let spec = self.experiment();
        Ok(spec.expand(&resolve(&spec, |_| None)?).unwrap())
    }

    pub(crate) fn run(&self) -> RunSpec {
        self.runs().unwrap().swap_remove(0)
    }
}

/// A fact whose passage has `n_words` words and one probe a depth, of two words and one.
pub(crate) fn fact(index: usize, n_words: usize, n_paraphrases: usize) -> Fact {
    let text = |first: usize| {
        let words: Vec<String> = (0..n_words).map(|i| word(first + i)).collect();
        words.join(" ")
    };
    Fact {
        subject: None,
        passage: text(20 * index),
        paraphrases: (1..=n_paraphrases).map(|p| text(20 * index + p)).collect(),
        probes: Depth::ALL
            .map(|depth| ProbeText {
                depth,
                ordinal: 0,
                prompt: format!("{} {}", word(index), word(index + 1)),
                target: word(index + 2),
            })
            .to_vec(),
    }
}

fn word(index: usize) -> String {
    format!("w{}", index % N_WORDS as usize)
}

fn tokenizer_json() -> String {
    let words: Vec<String> = (0..N_WORDS)
        .map(|i| format!(r#""w{i}":{}"#, i + 1))
        .collect();
    format!(
        r#"{{"version":"1.0","truncation":{{"direction":"Right","max_length":2,"strategy":
        "LongestFirst","stride":0}},"padding":null,"added_tokens":[{{"id":0,"content":"<|eos|>",
        "single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}}],
        "normalizer":null,"pre_tokenizer":{{"type":"WhitespaceSplit"}},"post_processor":null,
        "decoder":null,"model":{{"type":"WordLevel","unk_token":"<unk>","vocab":{{"<|eos|>":0,{}}}}}}}"#,
        words.join(",")
    )
}
