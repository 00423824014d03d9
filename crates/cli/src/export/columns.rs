//! The columns of exported tables: those of the views of the same data in SQL.

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    Null,
    Bool(bool),
    Int(i32),
    Float(f32),
    Double(f64),
    Text(&'a str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int,
    Float,
    Double,
    Text,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) nullable: bool,
    /// Empty for what has none.
    pub(super) unit: &'static str,
    pub(super) meaning: &'static str,
}

const fn column(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    meaning: &'static str,
) -> Column {
    Column {
        name,
        kind,
        nullable: false,
        unit,
        meaning,
    }
}

const fn nullable(column: Column) -> Column {
    Column {
        nullable: true,
        ..column
    }
}

const RUN_ID: Column = column("run_id", Kind::Int, "", "number of the run in its database");
const RUN: Column = column("run", Kind::Text, "", "experiment/cell label of the run");
const STEP: Column = column(
    "step",
    Kind::Int,
    "updates",
    "read on the parameters before update `step`; an injection at step t first shows at t+1",
);
const FACT: Column = column("fact", Kind::Int, "", "index of the fact in the facts file");
const ARM: Column = column(
    "arm",
    Kind::Text,
    "",
    "how the fact is shown in this run; held_out is the null control",
);
const DEPTH: Column = column("depth", Kind::Text, "", "mem, gen or hard_gen");
const SWAP: Column = column(
    "swap",
    Kind::Bool,
    "",
    "whether the target is read after another fact's subject (the swap control)",
);
const ATTEMPT: Column = column("attempt", Kind::Int, "", "the attempt that measured it");

/// As `imprint.reading`.
pub(super) const READINGS: &[Column] = &[
    RUN_ID,
    RUN,
    column("reading", Kind::Int, "", "index of the reading in its run"),
    STEP,
    column(
        "probe",
        Kind::Int,
        "",
        "index of the probe in its run's probe set",
    ),
    FACT,
    nullable(ARM),
    DEPTH,
    column(
        "ordinal",
        Kind::Int,
        "",
        "index of the probe within its fact and depth",
    ),
    SWAP,
    column(
        "first_mean_nats",
        Kind::Double,
        "nats",
        "log-probability of the first target token",
    ),
    column(
        "target_mean_nats",
        Kind::Double,
        "nats per token",
        "mean log-probability of the target's tokens: the paper's headline",
    ),
    column(
        "full_mean_nats",
        Kind::Double,
        "nats per token",
        "mean log-probability of every token of the probe but the first",
    ),
    column(
        "first_sum_nats",
        Kind::Float,
        "nats",
        "as stored: log-probability of the first target token",
    ),
    column(
        "target_sum_nats",
        Kind::Float,
        "nats",
        "as stored: summed log-probability of the target's tokens",
    ),
    column(
        "full_sum_nats",
        Kind::Float,
        "nats",
        "as stored: summed log-probability of every token but the first",
    ),
    ATTEMPT,
];

/// As `imprint.step_stats`.
pub(super) const UPDATES: &[Column] = &[
    RUN_ID,
    RUN,
    column(
        "step",
        Kind::Int,
        "updates",
        "update t maps the parameters of reading t to those of reading t+1",
    ),
    column(
        "loss_nats",
        Kind::Double,
        "nats per token",
        "mean cross-entropy over all predicted tokens of the global batch",
    ),
    column(
        "learning_rate",
        Kind::Double,
        "",
        "learning rate of the update",
    ),
    column(
        "grad_norm",
        Kind::Double,
        "",
        "global L2 norm of the gradient before clipping",
    ),
    column(
        "update_norm",
        Kind::Double,
        "",
        "global L2 norm of the change of the parameters",
    ),
    column(
        "n_tokens",
        Kind::Int,
        "tokens",
        "tokens of the global batch",
    ),
    column(
        "n_injected_tokens",
        Kind::Int,
        "tokens",
        "of them, those of injected texts",
    ),
    column("duration_ms", Kind::Float, "ms", "how long the update took"),
    nullable(column(
        "tokens_per_second",
        Kind::Double,
        "tokens per second",
        "n_tokens over the duration",
    )),
    ATTEMPT,
];

/// As `imprint.mean_curve`.
pub(super) const MEANS: &[Column] = &[
    RUN_ID,
    RUN,
    ARM,
    DEPTH,
    SWAP,
    STEP,
    column(
        "n_probes",
        Kind::Int,
        "probes",
        "probes that the mean is over",
    ),
    column(
        "first_mean_nats",
        Kind::Double,
        "nats",
        "mean over probes of the log-probability of the first target token",
    ),
    column(
        "target_mean_nats",
        Kind::Double,
        "nats per token",
        "mean over probes of the mean log-probability of the target's tokens",
    ),
    column(
        "full_mean_nats",
        Kind::Double,
        "nats per token",
        "mean over probes of the mean log-probability of every token but the first",
    ),
];

/// As `imprint.exposure`.
pub(super) const EXPOSURES: &[Column] = &[
    RUN_ID,
    RUN,
    ARM,
    FACT,
    column(
        "exposure",
        Kind::Int,
        "",
        "1 for the first time the fact is shown",
    ),
    column(
        "step",
        Kind::Int,
        "updates",
        "placed in the batch of this update; first shows in the reading at step + 1",
    ),
    column(
        "text",
        Kind::Text,
        "",
        "what is shown: passage or paraphrase",
    ),
    nullable(column(
        "paraphrase",
        Kind::Int,
        "",
        "index of the paraphrase shown; null for the passage itself",
    )),
    nullable(column(
        "next_step",
        Kind::Int,
        "updates",
        "step of the fact's next exposure; null for its last",
    )),
];
