//! What can be wrong with a run's inputs: each says which file or field, and what to do.

use std::io;
use std::path::PathBuf;

use imprint_core::{Depth, FactId, ScenarioError};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("cannot write {path}")]
    Write {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("{path} is not the JSON it should be")]
    Json {
        path: PathBuf,
        #[source]
        err: serde_json::Error,
    },
    #[error("{path}: {problem}")]
    FactsFile { path: PathBuf, problem: String },
    #[error("{path}: fact {fact}: `{field}`: {problem}")]
    Fact {
        path: PathBuf,
        fact: usize,
        field: String,
        problem: String,
    },
    #[error("{path} is not a tokenizer.json that can be used: {problem}")]
    Tokenizer { path: PathBuf, problem: String },
    #[error("{path} cannot tokenise {text:?}: {problem}")]
    Encode {
        path: PathBuf,
        text: String,
        problem: String,
    },
    #[error(
        "`{eos}` is not a token of {path}; set `data.eos` to the text of its end-of-sequence token"
    )]
    UnknownEos { path: PathBuf, eos: String },
    #[error("fact {fact}, {depth} probe {ordinal}: {problem}")]
    Probe {
        fact: FactId,
        depth: Depth,
        ordinal: u16,
        problem: String,
    },
    #[error(
        "{path}: {n_bytes} bytes are no whole number of {width}-byte integers; is it cut short, \
             or of another type?"
    )]
    OddLength {
        path: PathBuf,
        n_bytes: u64,
        width: u64,
    },
    #[error("{path}: {problem}")]
    Npy { path: PathBuf, problem: String },
    #[error("{path}:{line}: {problem}")]
    Line {
        path: PathBuf,
        line: u64,
        problem: String,
    },
    #[error(
        "cannot decompress {path} ({compression}) after line {after_line}; is the file complete?"
    )]
    Decompress {
        path: PathBuf,
        compression: String,
        after_line: u64,
        #[source]
        err: io::Error,
    },
    #[error("{path}: {problem}")]
    Parquet { path: PathBuf, problem: String },
    #[error(
        "there is no directory to keep the tokens of a text corpus in; set `IMPRINT_CACHE_DIR` \
             in the environment"
    )]
    NoCache,
    #[error("cannot start threads to tokenise with")]
    Threads {
        #[source]
        err: io::Error,
    },
    #[error(
        "{path}: token {position} is {id}, outside the tokenizer's vocabulary of {vocab_size}; \
             is `data.corpus.format` the type of its ids, and is it this tokenizer's corpus?"
    )]
    TokenOutsideVocabulary {
        path: PathBuf,
        position: u64,
        id: i64,
        vocab_size: u32,
    },
    #[error("no file of the corpus holds {seq_len} tokens, which is one instance")]
    EmptyCorpus { seq_len: u32 },
    #[error(
        "the corpus is shorter than the run: {steps} steps of {batch_size} rows from instance \
             {start_instance} need {needed} instances of {seq_len} tokens; the corpus has \
             {n_instances}, times `max_epochs` {max_epochs}; \
             set `data.corpus.max_epochs = {enough_epochs}` or train less"
    )]
    CorpusTooShort {
        steps: u32,
        batch_size: u32,
        start_instance: u64,
        needed: u64,
        seq_len: u32,
        n_instances: u64,
        max_epochs: u32,
        enough_epochs: u64,
    },
    #[error(
        "the corpus has {n_instances} instances, more than can be shuffled (2^32); \
             set `data.corpus.order = \"sequential\"`"
    )]
    TooManyToShuffle { n_instances: u64 },
    #[error(
        "{path}: index {position} is {index}, but the corpus has {n_instances} instances; is the \
             corpus complete, and are its files, their order and `data.seq_len` those that the \
             order was made for?"
    )]
    OrderPastData {
        path: PathBuf,
        position: u64,
        index: i64,
        n_instances: u64,
    },
    #[error(
        "{path}: index {position} is {index}; an order file holds unsigned 32-bit indices, or a \
             NumPy header that says otherwise"
    )]
    NegativeIndex {
        path: PathBuf,
        position: u64,
        index: i64,
    },
    #[error("{path} holds no indices")]
    EmptyOrder { path: PathBuf },
    #[error(
        "{path} has {n_indices} indices, but {steps} steps of {batch_size} rows from instance \
             {start_instance} need {end}; is it cut short? Without it, \
             `order = {{ kind = \"pcg64\", … }}` computes OLMo's order"
    )]
    OrderTooShort {
        path: PathBuf,
        n_indices: u64,
        steps: u32,
        batch_size: u32,
        start_instance: u64,
        end: u64,
    },
    #[error(
        "the corpus has {n_instances} instances, and `data.corpus.order.n_instances` says \
             {expected}: its shuffle would be another; is a file missing?"
    )]
    OrderOfOtherCorpus { expected: u64, n_instances: u64 },
    #[error(
        "`data.corpus.order.world_size` is {world_size}, but the corpus has {n_instances} \
             instances"
    )]
    WorldTooLarge { world_size: u64, n_instances: u64 },
    #[error("scenario `{scenario}` does not fit the facts")]
    Scenario {
        scenario: String,
        #[source]
        err: ScenarioError,
    },
    #[error(
        "fact {fact} is injected at step {step}, but the last update of the run is {last}; \
             set `training.steps` to {needed} or more, or inject earlier"
    )]
    InjectionAfterEnd {
        fact: FactId,
        step: u32,
        last: u32,
        needed: u32,
    },
    #[error(
        "the {text} of fact {fact} has {n_tokens} tokens with its end-of-sequence token, \
             more than a row of `data.seq_len` = {seq_len}"
    )]
    TextTooLong {
        fact: FactId,
        text: String,
        n_tokens: usize,
        seq_len: u32,
    },
    #[error(
        "step {step} injects {n_texts} texts of {n_tokens} tokens into {batch_size} rows of \
             {seq_len}: the longest row would need {longest} tokens; \
             a batch of {enough_rows} rows holds them"
    )]
    RowTooLong {
        step: u32,
        n_texts: usize,
        n_tokens: usize,
        batch_size: u32,
        seq_len: u32,
        longest: usize,
        enough_rows: u32,
    },
    #[error("step {step} is not an update of this run: they are 0 to {last}")]
    StepOutOfRange { step: u32, last: u32 },
    #[error(
        "{path} is not what it was when the run was submitted (SHA-256 {now}, then {then}); \
             put the file back or submit again"
    )]
    Changed {
        path: PathBuf,
        now: String,
        then: String,
    },
    #[error(
        "the run was submitted with {then} corpus files, and {now} are named now; submit again"
    )]
    CorpusFiles { now: usize, then: usize },
    #[error("checkpoint `{checkpoint}`: {problem}")]
    Checkpoint { checkpoint: String, problem: String },
    #[error("{path}: {problem}")]
    CheckpointDirectory { path: PathBuf, problem: String },
    #[error("run {label}")]
    Run {
        label: String,
        #[source]
        err: Box<Error>,
    },
}
