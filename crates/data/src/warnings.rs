//! What is allowed but looks wrong: told before training, for it shows in no number.

use std::collections::BTreeMap;
use std::fs;

use imprint_core::CorpusFormat;
use serde_json::Value;

use crate::Tokenizer;
use crate::corpus::CorpusSource;
use crate::order::OrderFile;

/// Of every second token of a sample this share is zero where 32-bit ids are read as 16-bit ones.
const ZERO_SHARE: f64 = 0.99;

/// An order is cut to a multiple of the ranks or of the batch of its run, which are fewer.
const MOST_LEFT_OUT: u64 = 1 << 14;

/// The warnings about a corpus, of which `sample` are some tokens, and its end-of-sequence token.
pub(crate) fn of_tokens(
    sample: &[u32],
    source: &CorpusSource,
    tokenizer: &Tokenizer,
    eos: &str,
    eos_id: u32,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(configured) = configured_eos(tokenizer).filter(|c| c != eos) {
        warnings.push(format!(
            "`data.eos` is `{eos}`, but the tokenizer_config.json beside the tokenizer says \
             `{configured}`"
        ));
    }
    if !sample.contains(&eos_id) {
        let instead = match most_frequent(&tokenizer.special_tokens(), sample) {
            Some((token, n)) => format!(", but `{token}` is, {n} times"),
            None => String::new(),
        };
        warnings.push(format!(
            "the end-of-sequence token `{eos}` ({eos_id}) is not among the {} tokens of the corpus \
             that were looked at{instead}; is `data.eos` the token that its documents end with?",
            sample.len()
        ));
    }
    let mut rows = sample.chunks(source.seq_len as usize);
    if source.format == CorpusFormat::Uint16 && rows.all(every_second_is_zero) {
        warnings.push(
            "every second token of the corpus is 0, as if 32-bit ids were read as 16-bit ones; \
             is `data.corpus.format = \"uint32\"` right?"
                .to_owned(),
        );
    }
    warnings
}

/// The warnings about an order file for a corpus of so many instances.
pub(crate) fn of_order(order: &OrderFile, n_instances: u64) -> Option<String> {
    let n_left_out = n_instances.saturating_sub(order.len());
    (n_left_out > MOST_LEFT_OUT).then(|| {
        format!(
            "{} has {} indices, but the corpus has {n_instances} instances; is the file cut \
             short, or of another corpus?",
            order.path().display(),
            order.len()
        )
    })
}

/// The `eos_token` of the `tokenizer_config.json` that lies beside a Hugging Face tokenizer.
fn configured_eos(tokenizer: &Tokenizer) -> Option<String> {
    let json = fs::read(tokenizer.path().with_file_name("tokenizer_config.json")).ok()?;
    let config: Value = serde_json::from_slice(&json).ok()?;
    let eos = &config["eos_token"];
    let text = eos.as_str().or_else(|| eos["content"].as_str());
    text.map(str::to_owned)
}

fn most_frequent(tokens: &BTreeMap<u32, String>, sample: &[u32]) -> Option<(String, usize)> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for token in sample.iter().filter(|t| tokens.contains_key(t)) {
        *counts.entry(*token).or_default() += 1;
    }
    let (token, n) = counts.into_iter().max_by_key(|(_, n)| *n)?;
    Some((tokens.get(&token)?.clone(), n))
}

/// Whether every second token of a row is zero, and the others are not.
fn every_second_is_zero(row: &[u32]) -> bool {
    let zeros_from = |start: usize| {
        let of = row.iter().skip(start).step_by(2);
        of.clone().filter(|&&t| t == 0).count() as f64 / of.count().max(1) as f64
    };
    // A row of an odd length begins in the middle of an id, or the one after it does.
    let (even, odd) = (zeros_from(0), zeros_from(1));
    even.max(odd) >= ZERO_SHARE && even.min(odd) < ZERO_SHARE
}
