//! A model that learns and can be read: parameters, optimizer, device.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use burn::tensor::Tensor;
use imprint_core::{OptimizerSpec, ProbeSums, TokenizedProbe};

use crate::adamw::{AdamW, Moments};
use crate::checkpoint::{self, NamedMatrix, TensorFiles};
use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::device::DeviceChoice;
use crate::error::{Error, io_error};
use crate::parameters::Layout;
use crate::probes::{PackedProbes, check_tokens};
use crate::tape::{Kernels, Matrix, ParameterGradients, Tokens};
use crate::workers::Workers;

const CONFIG: &str = "config.json";
const OPTIMIZER: &str = "optimizer.safetensors";
/// Annotation of both safetensors files of a saved state: they belong together.
const N_UPDATES: &str = "n_updates";

/// How a model is computed and updated.
#[derive(Clone, Debug)]
pub struct LearnerOptions {
    pub device: DeviceChoice,
    pub optimizer: OptimizerSpec,
    /// Threads of the CPU; they change no number.
    pub threads: usize,
    /// Rows of one forward and backward pass; the whole batch where absent.
    /// It changes the order of sums, and so the last digits of a number.
    pub micro_batch_rows: Option<usize>,
}

impl Default for LearnerOptions {
    fn default() -> Self {
        Self {
            device: DeviceChoice::Cpu,
            optimizer: OptimizerSpec::default(),
            threads: 1,
            micro_batch_rows: None,
        }
    }
}

/// What one update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpdateReport {
    /// Mean cross-entropy over all predicted tokens of the batch, on the parameters before it.
    pub loss_nats: f64,
    /// Global L2 norm of the gradient, before the clip.
    pub grad_norm: f64,
    /// Global L2 norm of the parameters' change.
    pub update_norm: f64,
}

/// A model with its optimizer, on one device.
pub struct Learner {
    decoder: Decoder,
    optimizer: AdamW,
    kernels: Kernels,
    workers: Workers,
    micro_batch_rows: Option<usize>,
}

impl Learner {
    /// A model from scratch; its parameters follow from the seed alone.
    ///
    /// # Errors
    /// When the device or the optimizer's constants are refused.
    pub fn initialise(
        config: ModelConfig,
        seed: u64,
        options: &LearnerOptions,
    ) -> Result<Self, Error> {
        let layout = Layout::new(&config);
        let values = layout.initial_values(seed);
        Self::new(config, layout, values, options)
    }

    /// The model in a Hugging Face directory, with a fresh optimizer.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the tensors do not fit the configuration; the device
    /// or the optimizer's constants are refused.
    pub fn load_hugging_face(dir: &Path, options: &LearnerOptions) -> Result<Self, Error> {
        let config = ModelConfig::read(&dir.join(CONFIG))?;
        let files = TensorFiles::open_dir(dir)?;
        let layout = Layout::new(&config);
        let values = read_weights(&files, &layout, config.tie_word_embeddings)?;
        Self::new(config, layout, values, options)
    }

    /// The model and optimizer that [`Learner::save_state`] wrote; it goes on as if it had never
    /// been saved.
    ///
    /// # Errors
    /// As [`Learner::load_hugging_face`], and when the optimizer's file is missing, damaged or of
    /// another update than the weights.
    pub fn load_state(dir: &Path, options: &LearnerOptions) -> Result<Self, Error> {
        let mut learner = Self::load_hugging_face(dir, options)?;
        let weights = TensorFiles::open_file(dir.join(checkpoint::WEIGHTS))?;
        let path = dir.join(OPTIMIZER);
        let files = TensorFiles::open_file(path.clone())?;
        let n_updates = n_updates_of(&files, &path)?;
        let of_weights = n_updates_of(&weights, &dir.join(checkpoint::WEIGHTS))?;
        if n_updates != of_weights {
            return Err(Error::State {
                path,
                reason: format!(
                    "holds moments after {n_updates} updates, but the weights beside it are those \
                     after {of_weights}"
                ),
            });
        }
        learner.optimizer.n_updates = n_updates;
        learner.optimizer.moments = match n_updates {
            0 => None,
            _ => Some(read_moments(&files, &learner.decoder)?),
        };
        Ok(learner)
    }

    fn new(
        config: ModelConfig,
        layout: Layout,
        values: Vec<Vec<f32>>,
        options: &LearnerOptions,
    ) -> Result<Self, Error> {
        let kernels = match options.device {
            DeviceChoice::Cpu => Kernels::Host,
            DeviceChoice::Cuda(_) => Kernels::Tensor,
        };
        Self::with_kernels(config, layout, values, options, kernels)
    }

    fn with_kernels(
        config: ModelConfig,
        layout: Layout,
        values: Vec<Vec<f32>>,
        options: &LearnerOptions,
        kernels: Kernels,
    ) -> Result<Self, Error> {
        if options.micro_batch_rows == Some(0) {
            return Err(Error::Batch {
                reason: "a micro-batch has at least 1 row".to_owned(),
            });
        }
        let optimizer = AdamW::new(options.optimizer, kernels)?;
        let device = options.device.open()?;
        let threads = match options.device {
            DeviceChoice::Cpu => options.threads,
            // One queue feeds a GPU.
            DeviceChoice::Cuda(_) => 1,
        };
        Ok(Self {
            decoder: Decoder::new(config, layout, values, device, kernels),
            optimizer,
            kernels,
            workers: Workers::new(threads)?,
            micro_batch_rows: options.micro_batch_rows,
        })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.decoder.config
    }

    /// Updates that the optimizer has made.
    pub fn n_updates(&self) -> u64 {
        self.optimizer.n_updates
    }

    /// Makes one update on a batch of rows of `seq_len` tokens each.
    ///
    /// The loss is the mean cross-entropy over all predicted tokens: every row's but its first.
    ///
    /// # Errors
    /// When the batch is no whole number of rows, does not fit the context, or holds a token
    /// outside the vocabulary; when the loss or the gradient is not finite.
    /// The model is then as it was.
    pub fn update(
        &mut self,
        tokens: &[u32],
        seq_len: usize,
        learning_rate: f64,
    ) -> Result<UpdateReport, Error> {
        self.check_batch(tokens, seq_len)?;
        let update = self.optimizer.n_updates;
        let (loss_nats, gradients) = self.loss_and_gradients(tokens, seq_len);
        if !loss_nats.is_finite() {
            return Err(Error::NonFiniteLoss { update, loss_nats });
        }
        let Self {
            decoder,
            optimizer,
            workers,
            ..
        } = self;
        workers.run(|| {
            let mut gradients: Vec<Tensor<2>> = (gradients.0.into_iter())
                .map(|gradient| gradient.expect("every parameter takes part in the loss"))
                .collect();
            let grad_norm = optimizer.global_norm(&mut gradients, &decoder.device);
            if !grad_norm.is_finite() {
                return Err(Error::NonFiniteGradient { update, grad_norm });
            }
            let update_norm = optimizer.update(
                &decoder.layout.parameters,
                &mut decoder.parameters,
                gradients,
                grad_norm,
                learning_rate,
            );
            Ok(UpdateReport {
                loss_nats,
                grad_norm,
                update_norm,
            })
        })
    }

    /// Mean cross-entropy of the batch, and its gradient.
    ///
    /// Micro-batches are weighted by their tokens and added up in their order, whichever thread
    /// computed them.
    fn loss_and_gradients(&self, tokens: &[u32], seq_len: usize) -> (f64, ParameterGradients) {
        let n_rows = tokens.len() / seq_len;
        let n_predicted = n_rows * (seq_len - 1);
        let scale = (1.0 / n_predicted as f64) as f32;
        let micro_rows = self.micro_batch_rows.unwrap_or(n_rows).min(n_rows);
        let micro_batches: Vec<&[u32]> = tokens.chunks(micro_rows * seq_len).collect();
        let mut sum_nats = 0.0;
        let mut sum = ParameterGradients::new(self.decoder.parameters.len());
        for wave in micro_batches.chunks(self.workers.n_at_a_time()) {
            let parts = self.workers.map(wave.len(), |i| {
                let rows = || wave[i].chunks_exact(seq_len);
                let inputs = rows()
                    .flat_map(|row| &row[..seq_len - 1])
                    .copied()
                    .collect();
                let targets = rows().flat_map(|row| &row[1..]).copied().collect();
                let inputs = Tokens::new(inputs, &self.decoder.device);
                let targets = Tokens::new(targets, &self.decoder.device);
                let (log_probs, gradients) =
                    self.decoder
                        .log_probs_and_gradients(&inputs, seq_len - 1, &targets, scale);
                let sum_nats: f64 = read_back(log_probs).iter().map(|&x| f64::from(x)).sum();
                (sum_nats, gradients)
            });
            for (part_nats, gradients) in parts {
                sum_nats += part_nats;
                for (idx, gradient) in gradients.0.into_iter().enumerate() {
                    if let Some(gradient) = gradient {
                        sum.add(idx, gradient);
                    }
                }
            }
        }
        (-sum_nats / n_predicted as f64, sum)
    }

    fn check_batch(&self, tokens: &[u32], seq_len: usize) -> Result<(), Error> {
        let refuse = |reason: String| Err(Error::Batch { reason });
        let context = self.decoder.config.max_position_embeddings;
        if seq_len < 2 {
            return refuse(format!("rows of {seq_len} token(s) predict nothing"));
        }
        if seq_len > context {
            return refuse(format!(
                "rows of {seq_len} tokens do not fit the model's context of {context}"
            ));
        }
        if tokens.is_empty() || !tokens.len().is_multiple_of(seq_len) {
            return refuse(format!(
                "{} tokens are no whole number of rows of {seq_len}",
                tokens.len()
            ));
        }
        check_tokens(tokens, self.decoder.config.vocab_size, || {
            "batch".to_owned()
        })
    }

    /// Probes laid out for this model and uploaded to its device.
    ///
    /// # Errors
    /// When a probe has no prompt or no target, does not fit the context, or holds a token
    /// outside the vocabulary.
    pub fn pack(&self, probes: &[TokenizedProbe]) -> Result<PackedProbes, Error> {
        PackedProbes::new(
            probes,
            &self.decoder.config,
            self.kernels,
            &self.decoder.device,
        )
    }

    /// Summed log-probabilities of the probes' three spans on the parameters as they are, in the
    /// order in which the probes were packed.
    ///
    /// # Units
    /// Nats, ≤ 0, from a float32 log-softmax.
    pub fn read(&self, probes: &PackedProbes) -> Vec<ProbeSums> {
        let log_probs = self.workers.map(probes.groups.len(), |i| {
            let group = &probes.groups[i];
            (self.decoder).log_probs(
                &group.inputs,
                group.seq_len,
                group.kept.as_ref(),
                &group.targets,
            )
        });
        probes.sums(&read_back(log_probs.into_iter().flatten().collect()))
    }

    /// Writes `config.json` and `model.safetensors` into a directory, which is made where it is
    /// missing; `transformers` loads it.
    ///
    /// Each file is written under a temporary name, synced and renamed.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_hugging_face(&self, dir: &Path) -> Result<(), Error> {
        fs::create_dir_all(dir).map_err(io_error("make the directory", dir))?;
        let config = format!("{:#}\n", self.decoder.config.to_json());
        checkpoint::write_text(&dir.join(CONFIG), &config)?;
        let tensors = [(&self.decoder.parameters, "")];
        self.write(&dir.join(checkpoint::WEIGHTS), &tensors)?;
        checkpoint::sync_dir(dir)
    }

    /// Writes everything that [`Learner::load_state`] needs to go on bit for bit: the Hugging
    /// Face directory, and the optimizer's moments and update count in `optimizer.safetensors`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_state(&self, dir: &Path) -> Result<(), Error> {
        self.save_hugging_face(dir)?;
        let moments = self.optimizer.moments.as_deref().unwrap_or_default();
        let exp_avg = moments.iter().map(|m| m.exp_avg.clone()).collect();
        let exp_avg_sq = moments.iter().map(|m| m.exp_avg_sq.clone()).collect();
        let tensors = [(&exp_avg, EXP_AVG), (&exp_avg_sq, EXP_AVG_SQ)];
        self.write(&dir.join(OPTIMIZER), &tensors)?;
        checkpoint::sync_dir(dir)
    }

    /// Writes tables of matrices shaped as the parameters, named by key and suffix.
    fn write(&self, path: &Path, tables: &[(&Vec<Tensor<2>>, &str)]) -> Result<(), Error> {
        let shapes = &self.decoder.layout.parameters;
        let tables: Vec<(Vec<Matrix>, &str)> = (tables.iter())
            .map(|(table, suffix)| {
                let on_host = table
                    .iter()
                    .map(|tensor| Matrix::take(tensor.clone()))
                    .collect();
                (on_host, *suffix)
            })
            .collect();
        let mut matrices = Vec::new();
        for (table, suffix) in &tables {
            for (shape, matrix) in shapes.iter().zip(table) {
                for (part, place) in shape.parts_in_place() {
                    matrices.push(NamedMatrix {
                        name: format!("{}{suffix}", part.key),
                        rows: part.rows,
                        values: &matrix.values()[place],
                    });
                }
            }
        }
        let metadata = HashMap::from([
            // What `transformers` asks of a file it loads.
            ("format".to_owned(), "pt".to_owned()),
            (N_UPDATES.to_owned(), self.optimizer.n_updates.to_string()),
        ]);
        checkpoint::write_matrices(path, &matrices, metadata)
    }
}

const EXP_AVG: &str = ".exp_avg";
const EXP_AVG_SQ: &str = ".exp_avg_sq";

/// Per-token values of all chunks, in one transfer.
fn read_back(chunks: Vec<Tensor<1>>) -> Vec<f32> {
    if chunks.is_empty() {
        return Vec::new();
    }
    // The step's one synchronisation with the device for these values.
    let values = Tensor::cat(chunks, 0).into_data();
    values
        .try_into_vec()
        .expect("log-probabilities are float32")
}

fn read_weights(
    files: &TensorFiles,
    layout: &Layout,
    is_tied: bool,
) -> Result<Vec<Vec<f32>>, Error> {
    // The biggest surprise first: a file of another architecture has other names.
    for name in files.names() {
        let known = (layout.parameters.iter()).any(|p| p.parts.iter().any(|part| part.key == name));
        // Some files of tied models repeat the embedding; `transformers` passes over it too.
        let repeated = is_tied && name == "lm_head.weight";
        if !known && !repeated {
            return Err(Error::UnexpectedTensor {
                path: files.path_of(name).to_owned(),
                tensor: name.to_owned(),
            });
        }
    }
    read_table(files, layout, "")
}

/// Matrices shaped as the parameters, named by key and suffix.
fn read_table(files: &TensorFiles, layout: &Layout, suffix: &str) -> Result<Vec<Vec<f32>>, Error> {
    (layout.parameters.iter())
        .map(|parameter| {
            let mut values = vec![0.0; parameter.n_values()];
            for (part, place) in parameter.parts_in_place() {
                let name = format!("{}{suffix}", part.key);
                files.read(&name, &[part.rows, parameter.columns], &mut values[place])?;
            }
            Ok(values)
        })
        .collect()
}

fn read_moments(files: &TensorFiles, decoder: &Decoder) -> Result<Vec<Moments>, Error> {
    let exp_avg = read_table(files, &decoder.layout, EXP_AVG)?;
    let exp_avg_sq = read_table(files, &decoder.layout, EXP_AVG_SQ)?;
    let shapes = decoder.layout.parameters.iter();
    Ok(shapes
        .zip(exp_avg.into_iter().zip(exp_avg_sq))
        .map(|(shape, (exp_avg, exp_avg_sq))| {
            let put = |values| Matrix::new(values, shape.columns).put(&decoder.device);
            Moments {
                exp_avg: put(exp_avg),
                exp_avg_sq: put(exp_avg_sq),
            }
        })
        .collect())
}

fn n_updates_of(files: &TensorFiles, path: &Path) -> Result<u64, Error> {
    let metadata = files.metadata()?;
    (metadata.get(N_UPDATES).and_then(|n| n.parse().ok())).ok_or_else(|| Error::State {
        path: path.to_owned(),
        reason: format!("has no `{N_UPDATES}`: it is not part of a saved state"),
    })
}

#[cfg(test)]
mod tests;
