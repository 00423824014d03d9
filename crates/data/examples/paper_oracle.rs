//! Holds batch composition against the reference study's released data.
//!
//! `cargo run -p imprint-data --example paper_oracle -- --facts FILE --tokenizer FILE`, with the
//! 130-item facts file of the study and the OLMo v1 `tokenizer.json`.
//! Makes a sparse corpus in the temporary directory; ends with `all as in the reference`.
//!
//! # Source
//! arXiv 2406.11813, released data; token sums computed from it independently.

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use imprint_core::{ExperimentSpec, RunSpec};
use imprint_data::{TrainingData, resolve, visit_plans};

const SUMS: [u32; 10] = [
    59374, 33066, 33612, 33327, 33103, 33268, 33422, 33241, 33212, 32939,
];
const STEPS: u32 = 1000;
const SEQ_LEN: u32 = 2048;
const LARGEST_BATCH: u32 = 2048;

fn main() -> Result<(), Box<dyn Error>> {
    let mut facts = None;
    let mut tokenizer = None;
    let mut args = std::env::args_os().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().map(PathBuf::from).ok_or("a path is missing")?;
        match name.to_str() {
            Some("--facts") => facts = Some(std::path::absolute(value)?),
            Some("--tokenizer") => tokenizer = Some(std::path::absolute(value)?),
            _ => return Err(format!("unknown argument {}", name.display()).into()),
        }
    }
    let facts = facts.ok_or("give --facts FILE")?;
    let tokenizer = tokenizer.ok_or("give --tokenizer FILE")?;

    let corpus = std::env::temp_dir().join(format!("paper-oracle-{}.u16", std::process::id()));
    let n_tokens = u64::from(STEPS) * u64::from(LARGEST_BATCH) * u64::from(SEQ_LEN);
    File::create(&corpus)?.set_len(2 * n_tokens)?;
    let outcome = check(&facts, &tokenizer, &corpus);
    fs::remove_file(&corpus)?;
    outcome?;
    println!("all as in the reference");
    Ok(())
}

fn runs(facts: &Path, tokenizer: &Path, corpus: &Path) -> Result<Vec<RunSpec>, Box<dyn Error>> {
    let text = format!(
        r#"
        name = "oracle"
        scenarios = ["paper"]
        batch_sizes = [2048, 128, 100, 64, 32]
        [data]
        facts = {facts:?}
        tokenizer = {tokenizer:?}
        seq_len = {SEQ_LEN}
        corpus = {{ files = [{corpus:?}], format = "uint16" }}
        [[checkpoint]]
        name = "scratch"
        [checkpoint.init]
        hidden_size = 8
        intermediate_size = 8
        num_hidden_layers = 1
        num_attention_heads = 1
        [training]
        steps = {STEPS}
        learning_rate = {{ kind = "constant", peak = 1e-3 }}
        "#
    );
    let spec = ExperimentSpec::parse(&text, Path::new("oracle.toml"), Path::new("/"))?;
    Ok(spec.expand(&resolve(&spec, |_| None)?)?)
}

fn check(facts: &Path, tokenizer: &Path, corpus: &Path) -> Result<(), Box<dyn Error>> {
    let runs = runs(facts, tokenizer, corpus)?;
    let (refused, fitting) = runs.split_last().ok_or("no runs")?;
    visit_plans(fitting, |_, _| ())?;
    let Err(refusal) = TrainingData::open(refused) else {
        return Err("batch size 32 must be refused".into());
    };
    println!("batch size 32: {refusal}");

    for run in fitting {
        let data = TrainingData::open(run)?;
        let mut n_texts = 0;
        let mut sums = Vec::new();
        for step in (0..STEPS).step_by(100) {
            let batch = data.batch(step)?;
            n_texts += batch.rows.iter().map(|r| r.items.len()).sum::<usize>();
            sums.push(batch.n_injected_tokens);
        }
        println!(
            "batch size {}: {n_texts} texts, {sums:?}",
            run.identity.batch_size
        );
        assert_eq!((n_texts, sums.as_slice()), (840, SUMS.as_slice()));
    }

    let data = TrainingData::open(&fitting[0])?;
    let probes = data.tokenized_probes();
    let range = |n: &dyn Fn(usize) -> usize| {
        let all: Vec<usize> = (0..probes.len()).map(n).collect();
        let mean = all.iter().sum::<usize>() as f64 / all.len() as f64;
        (all.iter().min().copied(), mean, all.iter().max().copied())
    };
    println!("{} probes, every boundary aligned", probes.len());
    println!(
        "probe tokens (min, mean, max): {:?}",
        range(&|p| probes[p].tokens.len())
    );
    println!(
        "target tokens (min, mean, max): {:?}",
        range(&|p| probes[p].n_target_tokens)
    );
    assert_eq!(probes.len(), 1950);
    Ok(())
}
