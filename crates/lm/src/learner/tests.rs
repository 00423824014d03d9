use imprint_core::ModelSpec;
use tempfile::TempDir;

use super::*;

const SEQ_LEN: usize = 12;
const RATE: f64 = 5e-3;

fn spec(tied: bool) -> ModelSpec {
    ModelSpec {
        vocab_size: Some(40),
        hidden_size: 24,
        intermediate_size: 20,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        max_position_embeddings: Some(16),
        rope_theta: 1e4,
        tie_word_embeddings: tied,
    }
}

fn config(tied: bool) -> ModelConfig {
    ModelConfig::tiny_olmo(40, 24, 20, 3, tied)
}

fn learner_with(tied: bool, options: &LearnerOptions) -> Learner {
    Learner::initialise(config(tied), 3, options).expect("a model")
}

fn learner(tied: bool) -> Learner {
    learner_with(tied, &LearnerOptions::default())
}

impl Learner {
    /// The same model, computed by others.
    pub(crate) fn use_kernels(&mut self, kernels: Kernels) {
        self.decoder.compute.kernels = kernels;
        self.optimizer.kernels = kernels;
    }
}

fn learner_by_definition(tied: bool) -> Learner {
    let mut learner = learner(tied);
    learner.use_kernels(Kernels::Tensor);
    learner
}

fn batch(n_rows: usize, seed: u32) -> Vec<u32> {
    (0..(n_rows * SEQ_LEN) as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 97) >> 7) % 40)
        .collect()
}

fn parameters(learner: &Learner) -> Vec<Vec<f32>> {
    (learner.decoder.parameters.iter())
        .map(|tensor| Matrix::take(tensor.clone()).values().to_vec())
        .collect()
}

fn gradients(learner: &Learner, tokens: &[u32]) -> (f64, Vec<Vec<f32>>) {
    let (loss, gradients) = learner.loss_and_gradients(tokens, SEQ_LEN);
    let gradients = (gradients.0.into_iter())
        .map(|gradient| {
            let gradient = gradient.expect("every parameter takes part in the loss");
            Matrix::take(gradient).values().to_vec()
        })
        .collect();
    (loss, gradients)
}

#[track_caller]
fn assert_near(found: &[Vec<f32>], expected: &[Vec<f32>], tolerance: f32) {
    for (idx, (found, expected)) in found.iter().zip(expected).enumerate() {
        for (found, expected) in found.iter().zip(expected) {
            let far = (found - expected).abs();
            assert!(
                far < tolerance,
                "parameter {idx}: {found} against {expected}"
            );
        }
    }
}

/// Slopes of the loss along random directions, by differences of losses.
#[test]
fn the_gradient_is_the_slope_of_the_loss() {
    for tied in [true, false] {
        let mut learner = learner(tied);
        let tokens = batch(4, 1);
        let (_, gradients) = gradients(&learner, &tokens);
        let start = parameters(&learner);
        for idx in 0..start.len() {
            // Along the gradient itself the slope is its length; so no sign can be wrong.
            let length = gradients[idx].iter().map(|g| g * g).sum::<f32>().sqrt();
            let step = 2e-3_f32;
            let mut losses = [0.0; 2];
            for (sign, loss) in [1.0, -1.0].into_iter().zip(&mut losses) {
                let moved = start[idx].iter().zip(&gradients[idx]);
                let moved: Vec<f32> = moved.map(|(p, g)| p + sign * step * g / length).collect();
                let columns = learner.decoder.layout.parameters[idx].columns;
                learner.decoder.parameters[idx] =
                    Matrix::new(moved, columns).put(&learner.decoder.device);
                (*loss, _) = learner.loss_and_gradients(&tokens, SEQ_LEN);
            }
            let columns = learner.decoder.layout.parameters[idx].columns;
            learner.decoder.parameters[idx] =
                Matrix::new(start[idx].clone(), columns).put(&learner.decoder.device);
            let slope = (losses[0] - losses[1]) / (2.0 * f64::from(step));
            let ratio = slope / f64::from(length);
            assert!(
                (ratio - 1.0).abs() < 1e-2,
                "parameter {idx}: {slope} against {length}"
            );
        }
    }
}

/// The loops of the CPU against the definitions, and hand-written backward passes against
/// automatic differentiation.
#[test]
fn loops_and_definitions_agree() {
    for tied in [true, false] {
        let (mut by_loops, mut by_definition) = (learner(tied), learner_by_definition(tied));
        let tokens = batch(4, 1);
        let (loss, gradient) = gradients(&by_loops, &tokens);
        let (expected_loss, expected) = gradients(&by_definition, &tokens);
        assert!(
            (loss - expected_loss).abs() < 1e-6,
            "{loss} against {expected_loss}"
        );
        assert_near(&gradient, &expected, 1e-6);
        for seed in 0..3 {
            let tokens = batch(4, seed);
            let found = by_loops.update(&tokens, SEQ_LEN, RATE).expect("update");
            let expected = by_definition
                .update(&tokens, SEQ_LEN, RATE)
                .expect("update");
            assert!((found.loss_nats - expected.loss_nats).abs() < 1e-5);
            assert!((found.grad_norm - expected.grad_norm).abs() < 1e-4);
            assert!((found.update_norm - expected.update_norm).abs() < 1e-4);
        }
    }
}

#[test]
fn chunks_of_logits_change_nothing_but_last_digits() {
    let tokens = batch(4, 1);
    let (loss, whole) = gradients(&learner(false), &tokens);
    for max_logits in [1, 40 * 7, 40 * 44] {
        let mut learner = learner(false);
        learner.decoder = learner.decoder.with_max_logits(max_logits);
        let (chunked_loss, chunked) = gradients(&learner, &tokens);
        assert!(
            (chunked_loss - loss).abs() < 1e-6,
            "{chunked_loss} against {loss}"
        );
        assert_near(&chunked, &whole, 1e-6);
    }
}

#[test]
fn micro_batches_add_up_to_the_batch() {
    let tokens = batch(5, 1);
    let (loss, whole) = gradients(&learner(true), &tokens);
    for rows in [1, 2, 4, 5, 100] {
        let options = LearnerOptions {
            micro_batch_rows: Some(rows),
            ..LearnerOptions::default()
        };
        let (split_loss, split) = gradients(&learner_with(true, &options), &tokens);
        assert!(
            (split_loss - loss).abs() < 1e-6,
            "{rows}: {split_loss} against {loss}"
        );
        assert_near(&split, &whole, 1e-6);
    }
}

#[test]
fn computing_layers_again_changes_no_bit() {
    for kernels in [Kernels::Host, Kernels::Tensor] {
        let run = |recompute_layers| {
            let options = LearnerOptions {
                recompute_layers,
                ..LearnerOptions::default()
            };
            let mut learner = learner_with(false, &options);
            learner.use_kernels(kernels);
            gradients(&learner, &batch(4, 1))
        };
        assert!(run(true) == run(false), "{kernels:?}");
    }
}

/// Factors are rounded to 8 bits; what is kept is not, so that small updates add up.
#[test]
fn bfloat16_is_near_float32_and_keeps_its_parameters_in_float32() {
    for kernels in [Kernels::Host, Kernels::Tensor] {
        let options = LearnerOptions {
            precision: Precision::Bfloat16,
            ..LearnerOptions::default()
        };
        let mut rounded = learner_with(false, &options);
        rounded.use_kernels(kernels);
        let exact = learner(false);
        let (loss, found) = gradients(&rounded, &batch(4, 1));
        let (expected_loss, expected) = gradients(&exact, &batch(4, 1));
        assert!(
            (loss - expected_loss).abs() < 5e-3 * expected_loss,
            "{loss} {expected_loss}"
        );
        assert_ne!(loss, expected_loss);
        for (found, expected) in found.iter().zip(&expected) {
            let dot = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
            let cosine =
                dot(found, expected) / (dot(found, found) * dot(expected, expected)).sqrt();
            assert!(cosine > 0.999, "{kernels:?}: cosine {cosine}");
        }
        // Far below the spacing of bfloat16 at these parameters.
        rounded.update(&batch(4, 1), SEQ_LEN, 1e-6).expect("update");
        let moved = parameters(&rounded);
        let n_moved = (moved
            .iter()
            .flatten()
            .zip(parameters(&exact).iter().flatten()))
        .filter(|(a, b)| a != b)
        .count();
        assert!(
            n_moved > moved.iter().flatten().count() / 2,
            "{n_moved} moved"
        );
    }
}

#[test]
fn threads_change_no_bit() {
    // Wide enough for products that are split among threads.
    let wide = ModelConfig::from_spec(&ModelSpec {
        hidden_size: 192,
        intermediate_size: 512,
        vocab_size: Some(700),
        max_position_embeddings: Some(64),
        ..spec(true)
    })
    .expect("supported");
    for micro_batch_rows in [None, Some(1)] {
        let run = |threads| {
            let options = LearnerOptions {
                threads,
                micro_batch_rows,
                ..LearnerOptions::default()
            };
            let mut learner = Learner::initialise(wide.clone(), 3, &options).expect("a model");
            let tokens: Vec<u32> = (0..8 * 64_u32).map(|i| i * i % 700).collect();
            let reports = [0, 1].map(|_| learner.update(&tokens, 64, RATE).expect("update"));
            let probes: Vec<_> = (2..30_usize)
                .map(|n| TokenizedProbe {
                    tokens: tokens[n..2 * n].to_vec(),
                    n_target_tokens: 1,
                })
                .collect();
            let readings = learner.read(&learner.pack(&probes).expect("probes fit"));
            (reports, readings, parameters(&learner))
        };
        let alone = run(1);
        for threads in [2, 3] {
            assert!(
                run(threads) == alone,
                "{threads} threads, {micro_batch_rows:?}"
            );
        }
    }
}

#[test]
fn a_saved_state_goes_on_bit_for_bit() {
    for tied in [true, false] {
        let mut undisturbed = learner(tied);
        let mut interrupted = learner(tied);
        let dir = TempDir::new().expect("temporary directory");
        let state = dir.path().join("states/5");
        let step = |learner: &mut Learner, seed| {
            (learner.update(&batch(4, seed), SEQ_LEN, RATE)).expect("update")
        };
        for seed in 0..5 {
            step(&mut undisturbed, seed);
            step(&mut interrupted, seed);
        }
        interrupted.save_state(&state).expect("saved");
        drop(interrupted);
        let mut resumed = Learner::load_state(&state, &LearnerOptions::default()).expect("loaded");
        assert_eq!(resumed.n_updates(), 5);
        assert_eq!(resumed.config(), undisturbed.config());
        for seed in 5..10 {
            assert_eq!(step(&mut resumed, seed), step(&mut undisturbed, seed));
        }
        assert_eq!(parameters(&resumed), parameters(&undisturbed));
    }
}

#[test]
fn a_state_before_the_first_update_goes_on_too() {
    let dir = TempDir::new().expect("temporary directory");
    let mut learner = learner(true);
    learner.save_state(dir.path()).expect("saved");
    let options = LearnerOptions::default();
    let mut resumed = Learner::load_state(dir.path(), &options).expect("loaded");
    let tokens = batch(2, 0);
    assert_eq!(
        resumed.update(&tokens, SEQ_LEN, RATE).expect("update"),
        learner.update(&tokens, SEQ_LEN, RATE).expect("update")
    );
}

#[test]
fn weights_alone_are_a_fresh_start() {
    let dir = TempDir::new().expect("temporary directory");
    let mut learner = learner(false);
    learner.update(&batch(2, 0), SEQ_LEN, RATE).expect("update");
    learner.save_hugging_face(dir.path()).expect("saved");
    let options = LearnerOptions::default();
    let loaded = Learner::load_checkpoint(dir.path(), &options).expect("loaded");
    assert_eq!(parameters(&loaded), parameters(&learner));
    assert_eq!(loaded.n_updates(), 0);
    let err = load_state_error(dir.path());
    assert!(err.contains("no optimizer moments"), "{err}");
    assert_eq!(files_in(dir.path()), ["config.json", "model.safetensors"]);
}

#[test]
fn moments_of_another_update_are_refused() {
    let dir = TempDir::new().expect("temporary directory");
    let mut learner = learner(true);
    learner.update(&batch(2, 0), SEQ_LEN, RATE).expect("update");
    learner.save_state(dir.path()).expect("saved");
    assert_eq!(
        files_in(dir.path()),
        ["config.json", "model.safetensors", "optimizer.safetensors"]
    );
    learner.update(&batch(2, 1), SEQ_LEN, RATE).expect("update");
    learner.save_hugging_face(dir.path()).expect("saved");
    let err = load_state_error(dir.path());
    assert!(
        err.contains("after 1 updates") && err.contains("after 2"),
        "{err}"
    );
}

fn files_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = (fs::read_dir(dir).expect("listed"))
        .map(|entry| {
            entry
                .expect("listed")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

fn load_state_error(dir: &Path) -> String {
    match Learner::load_state(dir, &LearnerOptions::default()) {
        Ok(_) => panic!("the state was taken"),
        Err(err) => err.to_string(),
    }
}

fn load_error(dir: &Path) -> String {
    match Learner::load_checkpoint(dir, &LearnerOptions::default()) {
        Ok(_) => panic!("the checkpoint was taken"),
        Err(err) => err.to_string(),
    }
}

#[test]
fn a_checkpoint_whose_tensors_do_not_fit_its_config_is_refused_by_name() {
    let dir = TempDir::new().expect("temporary directory");
    learner(false).save_hugging_face(dir.path()).expect("saved");
    let write = |spec: ModelSpec| {
        let config = ModelConfig::from_spec(&spec).expect("supported");
        fs::write(dir.path().join("config.json"), config.to_json().to_string()).expect("written");
    };

    let mut deeper = spec(false);
    deeper.num_hidden_layers = 3;
    write(deeper);
    let err = load_error(dir.path());
    assert!(
        err.contains("`model.layers.2.") && err.contains("is missing"),
        "{err}"
    );

    let mut shallower = spec(false);
    shallower.num_hidden_layers = 1;
    write(shallower);
    let err = load_error(dir.path());
    assert!(
        err.contains("`model.layers.1.") && err.contains("has no place"),
        "{err}"
    );

    let mut wider = spec(false);
    wider.intermediate_size = 32;
    write(wider);
    let err = load_error(dir.path());
    assert!(
        err.contains("`model.layers.0.mlp.gate_proj.weight`")
            && err.contains("[20, 24]")
            && err.contains("[32, 24]"),
        "{err}"
    );

    fs::remove_file(dir.path().join("config.json")).expect("removed");
    let err = load_error(dir.path());
    assert!(err.contains("config.json"), "{err}");
}

#[test]
fn a_tied_file_may_repeat_the_embedding_but_not_contradict_it() {
    let dir = TempDir::new().expect("temporary directory");
    let mut untied = learner(false);
    untied.save_hugging_face(dir.path()).expect("saved");
    let text = config(true).to_json().to_string();
    fs::write(dir.path().join("config.json"), &text).expect("written");
    let err = load_error(dir.path());
    assert!(
        err.contains("`lm_head.weight`") && err.contains("tie_word_embeddings"),
        "{err}"
    );

    let Layout {
        embedding, head, ..
    } = untied.decoder.layout;
    untied.decoder.parameters[head] = untied.decoder.parameters[embedding].clone();
    untied.save_hugging_face(dir.path()).expect("saved");
    fs::write(dir.path().join("config.json"), &text).expect("written");
    let options = LearnerOptions::default();
    let tied = Learner::load_checkpoint(dir.path(), &options).expect("loaded");
    assert_eq!(parameters(&tied)[0], parameters(&untied)[0]);
}

#[test]
fn a_loss_that_is_not_finite_is_an_error_and_changes_nothing() {
    let mut learner = learner(true);
    learner.update(&batch(2, 0), SEQ_LEN, RATE).expect("update");
    let head = learner.decoder.layout.head;
    let mut poisoned = Matrix::take(learner.decoder.parameters[head].clone());
    poisoned.values_mut()[7] = f32::NAN;
    learner.decoder.parameters[head] = poisoned.put(&learner.decoder.device);
    let before = parameters(&learner);
    let err = learner
        .update(&batch(2, 0), SEQ_LEN, RATE)
        .expect_err("NaN");
    assert!(
        err.to_string().starts_with("the loss of update 1 is NaN"),
        "{err}"
    );
    assert_eq!(learner.n_updates(), 1);
    let same_bits = |a: &Vec<Vec<f32>>, b: &Vec<Vec<f32>>| {
        (a.iter().flatten().zip(b.iter().flatten())).all(|(a, b)| a.to_bits() == b.to_bits())
    };
    assert!(same_bits(&before, &parameters(&learner)));
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let mut learner = learner(true);
    let mut strange = batch(2, 0);
    strange[5] = 40;
    for (tokens, seq_len, reason) in [
        (batch(2, 0), 1, "predict nothing"),
        (batch(2, 0), 24, "context of 16"),
        (batch(2, 0), 11, "no whole number of rows"),
        (Vec::new(), 12, "no whole number of rows"),
        (
            strange,
            12,
            "token id 40 is outside the model's vocabulary of 40 tokens",
        ),
    ] {
        let err = learner.update(&tokens, seq_len, RATE).expect_err(reason);
        assert!(err.to_string().contains(reason), "{err}");
    }
    assert_eq!(learner.n_updates(), 0);
    let options = LearnerOptions {
        micro_batch_rows: Some(0),
        ..LearnerOptions::default()
    };
    assert!(Learner::initialise(config(true), 3, &options).is_err());
}

#[test]
fn updates_lower_the_loss_and_report_how_far_they_went() {
    let mut learner = learner(true);
    let tokens = batch(4, 1);
    let before = parameters(&learner);
    let first = learner.update(&tokens, SEQ_LEN, RATE).expect("update");
    let squares: f64 = (before.iter().flatten())
        .zip(parameters(&learner).iter().flatten())
        .map(|(a, b)| f64::from(b - a).powi(2))
        .sum();
    assert!((first.update_norm - squares.sqrt()).abs() < 1e-6);
    let mut last = first;
    for _ in 0..40 {
        last = learner.update(&tokens, SEQ_LEN, RATE).expect("update");
    }
    assert!(last.loss_nats < 0.5 * first.loss_nats, "{first:?} {last:?}");
    let at_rest = learner.update(&tokens, SEQ_LEN, 0.0).expect("update");
    assert_eq!(at_rest.update_norm, 0.0);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    /// The loss is the mean over all tokens of the batch, however it is cut and shared out.
    #[test]
    fn neither_micro_batches_nor_threads_change_the_loss(
        n_rows in 1..12_usize,
        micro_batch_rows in 1..14_usize,
        threads in 1..4_usize,
        seed in 0..1000_u32,
    ) {
        let tokens = batch(n_rows, seed);
        let (whole_nats, whole) = gradients(&learner(true), &tokens);
        let options = LearnerOptions {
            threads,
            micro_batch_rows: Some(micro_batch_rows),
            ..LearnerOptions::default()
        };
        let (loss_nats, cut) = gradients(&learner_with(true, &options), &tokens);
        let relative = ((loss_nats - whole_nats) / whole_nats).abs();
        proptest::prop_assert!(relative < 1e-6, "{loss_nats} against {whole_nats}");
        assert_near(&cut, &whole, 1e-6);
    }
}
