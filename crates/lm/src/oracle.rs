//! Agreement with PyTorch and `transformers` in every family, by fixtures that
//! `python/oracle/make_lm_fixtures.py` made.

use std::collections::HashMap;
use std::path::PathBuf;

use imprint_core::OptimizerSpec;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::learner::{Learner, LearnerOptions};
use crate::tape::{Kernels, Matrix, ParameterGradients, Tape, Tokens};

/// Every directory under `tests/fixtures` that holds an oracle.
const CASES: &[&str] = &[
    "olmo-untied-float32",
    "olmo-tied-bfloat16",
    "olmo-clip-qkv",
    "olmo2-untied",
    "olmo2-gqa-tied",
    "llama-gqa-untied",
    "llama-tied",
    "llama-rope-llama3",
    "llama-bias",
    "llama-head-dim",
    "gpt-neox-parallel",
    "gpt-neox-sequential",
    "gpt-neox-tied-gelu-new",
    "gpt2",
    "gpt2-n-inner-untied",
    "gpt2-layer-scale",
    "gpt2-published",
];

#[derive(Deserialize)]
struct Oracle {
    optimizer: OptimizerSpec,
    learning_rate: f64,
    /// The token that ends documents.
    eos: u32,
}

/// A fixture: a Hugging Face directory and what PyTorch says of it.
struct Fixture {
    dir: PathBuf,
    oracle: Oracle,
    bytes: Vec<u8>,
}

impl Fixture {
    fn open(case: &str) -> Self {
        // A binary that was built elsewhere is told where they lie.
        let fixtures = std::env::var_os("IMPRINT_FIXTURES").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"),
            PathBuf::from,
        );
        let dir = fixtures.join(case);
        let read = |name| std::fs::read(dir.join(name)).expect("fixture is committed");
        Self {
            oracle: serde_json::from_slice(&read("oracle.json")).expect("fixture is well formed"),
            bytes: read("oracle.safetensors"),
            dir,
        }
    }

    fn learner(&self, options: &LearnerOptions) -> Learner {
        let options = LearnerOptions {
            optimizer: self.oracle.optimizer,
            ..options.clone()
        };
        Learner::load_checkpoint(&self.dir, &options).expect("fixture loads")
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("fixture is well formed")
    }

    fn names(&self, prefix: &str) -> Vec<String> {
        let tensors = self.tensors();
        let names = tensors.names().into_iter();
        let mut names: Vec<String> = names
            .filter_map(|name| name.strip_prefix(prefix))
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        let tensors = self.tensors();
        let view = tensors.tensor(name).expect("fixture is complete");
        let bytes = view.data();
        match view.dtype() {
            Dtype::F32 => (bytes.as_chunks().0.iter())
                .map(|&le| f64::from(f32::from_le_bytes(le)))
                .collect(),
            Dtype::F64 => (bytes.as_chunks().0.iter())
                .map(|&le| f64::from_le_bytes(le))
                .collect(),
            other => panic!("`{name}` is {other:?}"),
        }
    }

    /// [updates][rows · tokens], and the tokens of a row.
    fn batches(&self) -> (Vec<Vec<u32>>, usize) {
        let tensors = self.tensors();
        let view = tensors.tensor("batches").expect("fixture is complete");
        let [_, rows, seq_len] = *view.shape() else {
            panic!("batches have three dimensions");
        };
        let ids: Vec<u32> = (view.data().as_chunks().0.iter())
            .map(|&le| i32::from_le_bytes(le) as u32)
            .collect();
        let batches = ids.chunks_exact(rows * seq_len).map(<[u32]>::to_vec);
        (batches.collect(), seq_len)
    }
}

/// Logits of every token, which nothing but a test wants.
fn logits(learner: &Learner, tokens: &[u32], seq_len: usize, eos: Option<u32>) -> Vec<f32> {
    let decoder = &learner.decoder;
    let tokens = Tokens::new(tokens.to_vec(), &decoder.device);
    let tokens = match eos {
        None => tokens,
        Some(eos) => tokens.with_documents(seq_len, eos),
    };
    let tape = Tape::forward_only(&decoder.parameters, decoder.compute);
    let hidden = decoder.hidden(&tape, &tokens, seq_len).into_tensor();
    let head = decoder.parameters[decoder.layout.head].clone();
    let logits = Matrix::take(hidden.matmul(head.transpose()));
    logits.values().to_vec()
}

/// Tensors shaped as the parameters, under the names and in the order of a file.
fn by_name(learner: &Learner, values: Vec<Vec<f32>>) -> HashMap<String, Vec<f32>> {
    let mut found = HashMap::new();
    for (parameter, values) in learner.decoder.layout.parameters.iter().zip(values) {
        for (part, place) in parameter.parts_in_place() {
            let mut in_file = vec![0.0; place.len()];
            part.arrange_back(&values[place], parameter.columns, &mut in_file);
            found.insert(part.key.clone(), in_file);
        }
    }
    found
}

fn gradients_by_name(
    learner: &Learner,
    gradients: ParameterGradients,
) -> HashMap<String, Vec<f32>> {
    let values = (gradients.0.into_iter())
        .map(|gradient| {
            let gradient = gradient.expect("every parameter takes part in the loss");
            Matrix::take(gradient).values().to_vec()
        })
        .collect();
    by_name(learner, values)
}

fn weights_by_name(learner: &Learner) -> HashMap<String, Vec<f32>> {
    let values = (learner.decoder.parameters.iter())
        .map(|parameter| Matrix::take(parameter.clone()).values().to_vec())
        .collect();
    by_name(learner, values)
}

fn largest_difference(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    (found.iter().zip(expected))
        .map(|(&found, expected)| (f64::from(found) - expected).abs())
        // NaN must not pass for small.
        .fold(0.0, |a, b| if b <= a { a } else { b })
}

/// How far two tensors lie apart, as a share of the expected one's largest value.
fn relative_difference(found: &[f32], expected: &[f64]) -> f64 {
    let largest = expected.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
    largest_difference(found, expected) / largest.max(1e-30)
}

#[track_caller]
fn assert_tensors_near(
    what: &str,
    fixture: &Fixture,
    prefix: &str,
    found: &HashMap<String, Vec<f32>>,
    tolerance: f64,
) {
    let names = fixture.names(prefix);
    let mut ours: Vec<&String> = found.keys().collect();
    ours.sort();
    assert!(
        ours == names.iter().collect::<Vec<_>>(),
        "{what}: {ours:?}, {names:?}"
    );
    for name in names {
        let expected = fixture.numbers(&format!("{prefix}{name}"));
        let far = relative_difference(&found[&name], &expected);
        assert!(far < tolerance, "{what} of `{name}`: {far:e} apart");
    }
}

/// How far what is computed may lie from what PyTorch says.
struct Tolerances {
    /// Absolute, nats.
    logits: f64,
    /// Relative: of the loss and its gradients, and of the weights after ten updates.
    gradients: f64,
    weights: f64,
}

const ON_CPU: Tolerances = Tolerances {
    logits: 1e-4,
    gradients: 1e-4,
    weights: 1e-5,
};

#[track_caller]
fn agrees_on_cpu(case: &str, kernels: Kernels) {
    let fixture = Fixture::open(case);
    let mut learner = fixture.learner(&LearnerOptions::default());
    learner.use_kernels(kernels);
    agrees(case, &fixture, learner, &ON_CPU);
}

#[track_caller]
fn agrees(case: &str, fixture: &Fixture, mut learner: Learner, tolerances: &Tolerances) {
    let (batches, seq_len) = fixture.batches();

    let found = logits(&learner, &batches[0], seq_len, None);
    let far = largest_difference(&found, &fixture.numbers("logits"));
    assert!(far < tolerances.logits, "{case}: logits are {far:e} apart");
    if !fixture.names("logits_masked").is_empty() {
        let found = logits(&learner, &batches[0], seq_len, Some(fixture.oracle.eos));
        let far = largest_difference(&found, &fixture.numbers("logits_masked"));
        assert!(
            far < tolerances.logits,
            "{case}: logits within documents are {far:e} apart"
        );
    }

    let (loss, gradients) = learner.loss_and_gradients(&batches[0], seq_len);
    let expected = fixture.numbers("loss")[0];
    assert!(
        (loss - expected).abs() < tolerances.gradients * expected,
        "{case}: loss {loss} against {expected}"
    );
    let gradients = gradients_by_name(&learner, gradients);
    assert_tensors_near(
        &format!("{case}: gradient"),
        fixture,
        "grad.",
        &gradients,
        tolerances.gradients,
    );

    let losses = fixture.numbers("losses");
    let norms = fixture.numbers("grad_norms");
    let clip_norm = fixture.oracle.optimizer.clip_norm;
    assert!(
        norms.iter().filter(|&&norm| norm > clip_norm).count() > norms.len() / 2,
        "{case}: clipping is hardly active: {norms:?}"
    );
    for (update, batch) in batches.iter().enumerate() {
        let report = learner
            .update(batch, seq_len, fixture.oracle.learning_rate)
            .expect("batch fits");
        for (what, found, expected) in [
            ("loss", report.loss_nats, losses[update]),
            ("gradient norm", report.grad_norm, norms[update]),
        ] {
            assert!(
                (found - expected).abs() < tolerances.gradients * expected,
                "{case}: {what} of update {update}: {found} against {expected}"
            );
        }
    }
    let weights = weights_by_name(&learner);
    assert_tensors_near(
        &format!("{case}: weight"),
        fixture,
        "after.",
        &weights,
        tolerances.weights,
    );
}

#[test]
fn loops_agree_with_pytorch() {
    for case in CASES {
        agrees_on_cpu(case, Kernels::Host);
    }
}

#[test]
fn definitions_agree_with_pytorch() {
    for case in CASES {
        agrees_on_cpu(case, Kernels::Tensor);
    }
}

#[test]
fn computing_layers_again_changes_no_bit_of_any_family() {
    for case in CASES {
        let fixture = Fixture::open(case);
        let (batches, seq_len) = fixture.batches();
        let gradients = |recompute_layers| {
            let learner = fixture.learner(&LearnerOptions {
                recompute_layers,
                document_end: Some(fixture.oracle.eos),
                ..LearnerOptions::default()
            });
            let (loss, gradients) = learner.loss_and_gradients(&batches[0], seq_len);
            (loss, gradients_by_name(&learner, gradients))
        };
        assert!(gradients(true) == gradients(false), "{case}");
    }
}

/// What is written back holds the same tensors under the same names, in float32.
#[test]
fn written_back_a_model_is_the_same() {
    for case in CASES {
        let fixture = Fixture::open(case);
        let learner = fixture.learner(&LearnerOptions::default());
        let dir = tempfile::TempDir::new().expect("temporary directory");
        learner.save_hugging_face(dir.path()).expect("saved");
        let again = Learner::load_checkpoint(dir.path(), &LearnerOptions::default());
        let again = again.expect("what was written loads");
        assert_eq!(again.config().to_json(), learner.config().to_json());
        assert_eq!(weights_by_name(&again), weights_by_name(&learner));
        let mut kept: Vec<String> = weights_by_name(&learner).into_keys().collect();
        kept.sort();
        assert_eq!(kept, fixture.names("after."), "{case}");
    }
}

/// What needs a GPU: `cargo xtask gpu-test` builds with the feature `cuda` and runs these.
#[cfg(feature = "cuda")]
mod gpu {
    use imprint_core::Precision;

    use super::*;
    use crate::device::DeviceChoice;

    /// Products on tensor cores may round factors to 10 bits of fraction.
    const ON_GPU: Tolerances = Tolerances {
        logits: 1e-2,
        gradients: 1e-2,
        weights: 1e-3,
    };

    fn options() -> LearnerOptions {
        LearnerOptions {
            device: DeviceChoice::Cuda(0),
            ..LearnerOptions::default()
        }
    }

    #[test]
    fn every_family_agrees_with_pytorch() {
        for case in CASES {
            let fixture = Fixture::open(case);
            let learner = fixture.learner(&options());
            let (batches, seq_len) = fixture.batches();
            let found = logits(&learner, &batches[0], seq_len, None);
            let far = largest_difference(&found, &fixture.numbers("logits"));
            println!("{case}: logits are {far:e} apart");
            agrees(case, &fixture, learner, &ON_GPU);
        }
    }

    #[test]
    fn computing_layers_again_and_bfloat16_stay_near() {
        let fixture = Fixture::open("llama-gqa-untied");
        let (batches, seq_len) = fixture.batches();
        let loss = |options: &LearnerOptions| {
            let learner = fixture.learner(options);
            learner.loss_and_gradients(&batches[0], seq_len).0
        };
        let plain = loss(&options());
        let again = loss(&LearnerOptions {
            recompute_layers: true,
            ..options()
        });
        assert!(
            (again - plain).abs() < 1e-6 * plain,
            "{again} against {plain}"
        );
        let rounded = loss(&LearnerOptions {
            precision: Precision::Bfloat16,
            ..options()
        });
        println!("loss {plain}, with bfloat16 products {rounded}");
        assert!(
            (rounded - plain).abs() < 2e-2 * plain,
            "{rounded} against {plain}"
        );
    }

    #[test]
    fn a_saved_state_goes_on() {
        let fixture = Fixture::open("olmo-untied-float32");
        let (batches, seq_len) = fixture.batches();
        let rate = fixture.oracle.learning_rate;
        let mut learner = fixture.learner(&options());
        for batch in &batches[..5] {
            learner.update(batch, seq_len, rate).expect("batch fits");
        }
        let dir = tempfile::TempDir::new().expect("temporary directory");
        learner.save_state(dir.path()).expect("saved");
        let resumed = LearnerOptions {
            optimizer: fixture.oracle.optimizer,
            ..options()
        };
        let mut resumed = Learner::load_state(dir.path(), &resumed).expect("loads");
        for batch in &batches[5..] {
            let expected = learner.update(batch, seq_len, rate).expect("batch fits");
            let found = resumed.update(batch, seq_len, rate).expect("batch fits");
            let far = (found.loss_nats - expected.loss_nats).abs();
            println!("after a resume the loss is {far:e} apart");
            assert!(
                far < 1e-5 * expected.loss_nats,
                "{found:?} against {expected:?}"
            );
        }
    }
}
