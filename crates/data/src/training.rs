//! One run's inputs, opened and checked, and the batches that follow from them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imprint_core::{
    Fact, FactId, Injection, InjectionText, OrderIdentity, Probe, RunSpec, Schedule,
    TokenizedProbe, probe_set,
};

use crate::corpus::{Corpus, CorpusSource, Tokens};
use crate::digest::{check_hash, corpus_file_sha256, file_sha256};
use crate::inspection::Inspection;
use crate::order::{DataOrder, OrderFile};
use crate::token_cache::TokenCache;
use crate::{Error, Result, Tokenizer, injection, load_facts, warnings};

/// Everything that a run trains on and asks, checked as a whole before anything starts.
#[derive(Debug)]
pub struct TrainingData {
    inputs: Arc<Inputs>,
    order: DataOrder,
    schedule: Schedule,
    /// The tokens of every text that is injected, each closed by the end-of-sequence token.
    texts: BTreeMap<(FactId, InjectionText), Vec<u32>>,
    probes: Vec<Probe>,
    tokenized_probes: Vec<TokenizedProbe>,
    reading_steps: Vec<u32>,
    n_updates: u32,
    batch_size: u32,
    seq_len: u32,
    start_instance: u64,
    document_mask: bool,
}

/// What is read from files; runs of one experiment share it.
#[derive(Debug)]
struct Inputs {
    facts: Vec<Fact>,
    tokenizer: Tokenizer,
    eos_id: u32,
    corpus: Corpus,
    order: Option<Arc<OrderFile>>,
    warnings: Vec<String>,
}

/// The global batch of one update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub step: u32,
    pub batch_size: u32,
    pub seq_len: u32,
    /// # Shapes
    /// `[batch_size, seq_len]`, row after row.
    pub tokens: Vec<u32>,
    /// The rows with injected texts, ascending.
    pub rows: Vec<InjectedRow>,
    pub n_injected_tokens: u32,
}

/// A batch row that begins with injected texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectedRow {
    pub row: u32,
    /// In their order in the row.
    pub items: Vec<InjectedItem>,
    /// Tokens of the texts, their end-of-sequence tokens included.
    pub n_injected: u32,
}

/// One injected text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectedItem {
    pub fact: FactId,
    /// The arm of the scenario in which the fact is shown.
    pub arm: String,
    /// 0 for the fact's first exposure.
    pub exposure: u32,
}

impl Batch {
    /// The tokens of one row.
    pub fn row(&self, row: u32) -> &[u32] {
        let seq_len = self.seq_len as usize;
        &self.tokens[row as usize * seq_len..][..seq_len]
    }
}

/// Which files inputs were loaded from, and how.
#[derive(PartialEq)]
struct InputsKey<'a> {
    facts: &'a Path,
    tokenizer: &'a Path,
    corpus: CorpusSource<'a>,
    order: Option<&'a PathBuf>,
    eos: &'a str,
}

impl<'a> InputsKey<'a> {
    fn of(run: &'a RunSpec) -> Self {
        Self {
            facts: &run.files.facts,
            tokenizer: &run.files.tokenizer,
            corpus: CorpusSource {
                files: &run.files.corpus,
                format: run.identity.corpus.format,
                text_field: run
                    .identity
                    .corpus
                    .text_field
                    .as_deref()
                    .unwrap_or_default(),
                seq_len: run.identity.seq_len,
            },
            order: run.files.order.as_ref(),
            eos: &run.identity.eos,
        }
    }
}

impl Inputs {
    fn load(key: &InputsKey, cache: &TokenCache) -> Result<Self> {
        let tokenizer = Tokenizer::open(key.tokenizer)?;
        let eos_id = tokenizer.eos_id(key.eos)?;
        let facts = load_facts(key.facts)?;
        let order = key.order.map(|path| OrderFile::open(path)).transpose()?;
        let tokens = Tokens {
            tokenizer: &tokenizer,
            eos_id,
            cache,
        };
        let corpus = Corpus::open(&key.corpus, &tokens)?;
        let sample = corpus.sample()?;
        let mut warnings = warnings::of_tokens(&sample, &key.corpus, &tokenizer, key.eos, eos_id);
        if let Some(order) = &order {
            warnings.extend(warnings::of_order(order, corpus.n_instances()));
        }
        Ok(Self {
            facts,
            tokenizer,
            eos_id,
            corpus,
            order: order.map(Arc::new),
            warnings,
        })
    }
}

/// Checks the plan of every run and shows it to `visit`, loading what the runs share only once.
///
/// # Errors
/// The first thing that would stop a run, under the run's label.
pub fn visit_plans(runs: &[RunSpec], mut visit: impl FnMut(&RunSpec, &TrainingData)) -> Result<()> {
    let cache = TokenCache::of_user();
    let mut loaded: Option<(InputsKey, Arc<Inputs>)> = None;
    for run in runs {
        let mut open = || {
            check_unchanged(run)?;
            let key = InputsKey::of(run);
            let inputs = match &loaded {
                Some((known, inputs)) if *known == key => inputs.clone(),
                _ => {
                    let inputs = Arc::new(Inputs::load(&key, &cache)?);
                    loaded = Some((key, inputs.clone()));
                    inputs
                }
            };
            TrainingData::plan(run, inputs)
        };
        let data = open().map_err(|err| Error::Run {
            label: run.label.clone(),
            err: Box::new(err),
        })?;
        visit(run, &data);
    }
    Ok(())
}

/// The run's identity says what its files held when it was submitted.
fn check_unchanged(run: &RunSpec) -> Result<()> {
    let (files, identity) = (&run.files, &run.identity);
    let corpus_sha256 = &identity.corpus.files_sha256;
    if files.corpus.len() != corpus_sha256.len() {
        return Err(Error::CorpusFiles {
            now: files.corpus.len(),
            then: corpus_sha256.len(),
        });
    }
    check_hash(
        &files.facts,
        file_sha256(&files.facts)?,
        &identity.facts_sha256,
    )?;
    let tokenizer_sha256 = file_sha256(&files.tokenizer)?;
    check_hash(
        &files.tokenizer,
        tokenizer_sha256,
        &identity.tokenizer_sha256,
    )?;
    for (path, then) in files.corpus.iter().zip(corpus_sha256) {
        let now = corpus_file_sha256(path, identity.corpus.format)?;
        check_hash(path, now, then)?;
    }
    if let (Some(path), OrderIdentity::File { sha256 }) = (&files.order, &identity.corpus.order) {
        check_hash(path, file_sha256(path)?, sha256)?;
    }
    Ok(())
}

impl TrainingData {
    /// The inputs of a run, after its whole plan has been checked.
    ///
    /// # Errors
    /// When a file is missing, malformed or not the one that was submitted; when the corpus is
    /// shorter than the run; when a probe's target has no tokens of its own; when an injection comes
    /// after the last update or does not fit the batch.
    pub fn open(run: &RunSpec) -> Result<Self> {
        Self::open_with(run, &TokenCache::of_user())
    }

    fn open_with(run: &RunSpec, cache: &TokenCache) -> Result<Self> {
        check_unchanged(run)?;
        Self::plan(run, Arc::new(Inputs::load(&InputsKey::of(run), cache)?))
    }

    fn plan(run: &RunSpec, inputs: Arc<Inputs>) -> Result<Self> {
        let id = &run.identity;
        let schedule = id
            .scenario
            .schedule(&inputs.facts)
            .map_err(|err| Error::Scenario {
                scenario: id.scenario_name.clone(),
                err,
            })?;
        let probes = probe_set(&inputs.facts, id.probing.swap.then_some(&schedule));
        let data = Self {
            order: DataOrder::new(
                &id.corpus.order,
                id.seed,
                inputs.corpus.n_instances(),
                inputs.order.clone(),
            )?,
            texts: inputs.tokenise_texts(&schedule)?,
            tokenized_probes: probes
                .iter()
                .map(|probe| inputs.tokenizer.encode_probe(probe))
                .collect::<Result<_>>()?,
            probes,
            reading_steps: id
                .probing
                .reading_steps
                .expand(id.training.steps, schedule.last_step()),
            schedule,
            inputs,
            n_updates: id.training.steps,
            batch_size: id.batch_size,
            seq_len: id.seq_len,
            start_instance: id.corpus.start_instance,
            document_mask: id.document_mask,
        };
        data.check_corpus(id.corpus.max_epochs)?;
        data.check_probes()?;
        data.check_injections()?;
        Ok(data)
    }

    fn check_corpus(&self, max_epochs: u32) -> Result<()> {
        let n_instances = self.order.epoch_len();
        let needed = u64::from(self.n_updates) * u64::from(self.batch_size);
        let end = self.start_instance.saturating_add(needed);
        if end <= n_instances.saturating_mul(u64::from(max_epochs)) {
            return Ok(());
        }
        if let Some(path) = self.order.file() {
            return Err(Error::OrderTooShort {
                path: path.to_owned(),
                n_indices: n_instances,
                steps: self.n_updates,
                batch_size: self.batch_size,
                start_instance: self.start_instance,
                end,
            });
        }
        Err(Error::CorpusTooShort {
            steps: self.n_updates,
            batch_size: self.batch_size,
            start_instance: self.start_instance,
            needed,
            seq_len: self.seq_len,
            n_instances,
            max_epochs,
            enough_epochs: end.div_ceil(n_instances),
        })
    }

    /// A probe longer than a row would be read at positions that no update has ever trained.
    fn check_probes(&self) -> Result<()> {
        let long = |t: &TokenizedProbe| t.tokens.len() > self.seq_len as usize;
        let Some(index) = self.tokenized_probes.iter().position(long) else {
            return Ok(());
        };
        let probe = &self.probes[index];
        Err(Error::Probe {
            fact: probe.fact,
            depth: probe.depth,
            ordinal: probe.ordinal,
            problem: format!(
                "has {} tokens, more than a row of `data.seq_len` = {}",
                self.tokenized_probes[index].tokens.len(),
                self.seq_len
            ),
        })
    }

    fn check_injections(&self) -> Result<()> {
        let seq_len = self.seq_len as usize;
        for ((fact, text), tokens) in &self.texts {
            if tokens.len() > seq_len {
                return Err(Error::TextTooLong {
                    fact: *fact,
                    text: match text {
                        InjectionText::Original => "passage".to_owned(),
                        InjectionText::Paraphrase(i) => format!("paraphrase {i}"),
                    },
                    n_tokens: tokens.len(),
                    seq_len: self.seq_len,
                });
            }
        }
        let injections = self.schedule.injections();
        if let Some(late) = injections.iter().find(|i| i.step >= self.n_updates) {
            return Err(Error::InjectionAfterEnd {
                fact: late.fact,
                step: late.step,
                last: self.n_updates - 1,
                needed: self.schedule.last_step().map_or(0, |last| last + 1),
            });
        }
        for at_step in injections.chunk_by(|a, b| a.step == b.step) {
            let lengths: Vec<usize> = at_step.iter().map(|i| self.text(i).len()).collect();
            let longest = injection::longest_row(&lengths, self.batch_size as usize);
            if longest > seq_len {
                // One text a row fits, so the search ends there at the latest.
                let enough_rows = (self.batch_size as usize + 1..lengths.len())
                    .find(|&b| injection::longest_row(&lengths, b) <= seq_len)
                    .unwrap_or(lengths.len());
                return Err(Error::RowTooLong {
                    step: at_step[0].step,
                    n_texts: lengths.len(),
                    n_tokens: lengths.iter().sum(),
                    batch_size: self.batch_size,
                    seq_len: self.seq_len,
                    longest,
                    enough_rows: enough_rows as u32,
                });
            }
        }
        Ok(())
    }

    /// Tokens of the texts that are injected at a step.
    pub fn n_injected_tokens(&self, step: u32) -> u32 {
        let texts = self.schedule.at(step).iter().map(|i| self.text(i).len());
        texts.sum::<usize>() as u32
    }

    fn text(&self, injection: &Injection) -> &[u32] {
        &self.texts[&(injection.fact, injection.text)]
    }

    /// The global batch of update `step`: corpus rows in the run's data order, with this step's
    /// texts at the heads of the first rows.
    ///
    /// # Errors
    /// When the run has no such update, the corpus cannot be read, or a token of it is outside the
    /// vocabulary.
    pub fn batch(&self, step: u32) -> Result<Batch> {
        if step >= self.n_updates {
            return Err(Error::StepOutOfRange {
                step,
                last: self.n_updates - 1,
            });
        }
        let seq_len = self.seq_len as usize;
        let start = self.start_instance + u64::from(step) * u64::from(self.batch_size);
        let mut tokens = Vec::with_capacity(self.batch_size as usize * seq_len);
        for instance in self.order.instances(start, self.batch_size)? {
            self.inputs.corpus.read_instance(instance, &mut tokens)?;
        }
        let injections = self.schedule.at(step);
        let rows: Vec<InjectedRow> = injection::rows(injections.len(), self.batch_size as usize)
            .zip(tokens.chunks_exact_mut(seq_len))
            .enumerate()
            .map(|(row, (texts, tokens))| {
                let injected = &injections[texts];
                let knowledge: Vec<&[u32]> = injected.iter().map(|i| self.text(i)).collect();
                let knowledge = knowledge.concat();
                injection::replace_head(tokens, &knowledge);
                InjectedRow {
                    row: row as u32,
                    items: injected.iter().map(|i| self.item(i)).collect(),
                    n_injected: knowledge.len() as u32,
                }
            })
            .collect();
        Ok(Batch {
            step,
            batch_size: self.batch_size,
            seq_len: self.seq_len,
            n_injected_tokens: rows.iter().map(|r| r.n_injected).sum(),
            tokens,
            rows,
        })
    }

    fn item(&self, injection: &Injection) -> InjectedItem {
        InjectedItem {
            fact: injection.fact,
            arm: self.schedule.arm_name(injection).to_owned(),
            exposure: injection.exposure,
        }
    }

    /// What update `step` trains on, for a human to look at: injected rows, or all rows.
    ///
    /// # Errors
    /// As [`Self::batch`].
    pub fn inspect(&self, step: u32, all_rows: bool) -> Result<Inspection> {
        Ok(Inspection::of(&self.batch(step)?, all_rows))
    }

    pub fn facts(&self) -> &[Fact] {
        &self.inputs.facts
    }

    /// Every probe that the run reads, in the order of the values of its readings.
    pub fn probes(&self) -> &[Probe] {
        &self.probes
    }

    /// The tokens of [`Self::probes`], in the same order.
    pub fn tokenized_probes(&self) -> &[TokenizedProbe] {
        &self.tokenized_probes
    }

    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The steps at which the run's probes are read, ascending, always with 0 and the last.
    pub fn reading_steps(&self) -> &[u32] {
        &self.reading_steps
    }

    /// The end-of-sequence token at which attention stops, where documents are masked from each
    /// other.
    pub fn document_mask(&self) -> Option<u32> {
        self.document_mask.then_some(self.inputs.eos_id)
    }

    /// What is allowed but looks wrong, each in one line.
    pub fn warnings(&self) -> &[String] {
        &self.inputs.warnings
    }

    /// The tokenizer's vocabulary: every token of a batch or a probe is below it.
    pub fn vocab_size(&self) -> u32 {
        self.inputs.tokenizer.vocab_size()
    }
}

impl Inputs {
    fn tokenise_texts(
        &self,
        schedule: &Schedule,
    ) -> Result<BTreeMap<(FactId, InjectionText), Vec<u32>>> {
        let mut texts = BTreeMap::new();
        for injection in schedule.injections() {
            let key = (injection.fact, injection.text);
            if texts.contains_key(&key) {
                continue;
            }
            let fact = &self.facts[injection.fact.0 as usize];
            let text = match injection.text {
                InjectionText::Original => &fact.passage,
                InjectionText::Paraphrase(i) => &fact.paraphrases[i as usize],
            };
            let mut tokens = self.tokenizer.encode(text)?;
            tokens.push(self.eos_id);
            texts.insert(key, tokens);
        }
        Ok(texts)
    }
}

#[cfg(test)]
mod tests;
