//! A model that learns and can be read: parameters, optimizer, device.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use burn::tensor::Tensor;
use imprint_core::{OptimizerSpec, Precision, ProbeSums, TokenizedProbe};

use crate::adamw::{AdamW, Moments};
use crate::checkpoint::{self, EXP_AVG, EXP_AVG_SQ, NamedTensor, TensorFiles};
use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::device::DeviceChoice;
use crate::error::{Error, io_error};
use crate::memory::PassMemory;
use crate::parameters::{Layout, Parameter};
use crate::probes::{PackedProbes, check_tokens};
use crate::tape::{Compute, Kernels, Matrix, ParameterGradients, Tokens};
use crate::workers::Workers;

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
    /// Of matrix products: factors and products are rounded to it. Parameters, moments, norms,
    /// softmax, sums, and the logits of readings are float32.
    pub precision: Precision,
    /// Whether an update computes the inside of decoder layers twice rather than keep it: it changes
    /// no number, takes about a third more time, and leaves of a layer its input alone.
    pub recompute_layers: bool,
    /// The token that ends a document, where updates confine attention to documents.
    /// Probes are read as they are, and positions are counted from the row's beginning.
    pub document_end: Option<u32>,
}

impl Default for LearnerOptions {
    fn default() -> Self {
        Self {
            device: DeviceChoice::Cpu,
            optimizer: OptimizerSpec::default(),
            threads: 1,
            micro_batch_rows: None,
            precision: Precision::Float32,
            recompute_layers: false,
            document_end: None,
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
    pub(crate) decoder: Decoder,
    optimizer: AdamW,
    workers: Workers,
    micro_batch_rows: Option<usize>,
    document_end: Option<u32>,
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

    /// The model in a checkpoint directory of any format, with a fresh optimizer.
    ///
    /// Weights that look wrong are warned of.
    ///
    /// # Errors
    /// When a file is missing, damaged or written to meanwhile, or the tensors do not fit the
    /// configuration; the device or the optimizer's constants are refused.
    pub fn load_checkpoint(dir: &Path, options: &LearnerOptions) -> Result<Self, Error> {
        let (config, weights) = checkpoint::open(dir)?;
        Self::of_files(config, &weights, options)
    }

    /// The model and optimizer in a checkpoint directory: what [`Learner::save_state`] wrote, which
    /// goes on as if it had never been saved, or what OLMo's trainer wrote.
    ///
    /// # Errors
    /// As [`Learner::load_checkpoint`], and when the optimizer's file is missing, damaged or of
    /// another update than the weights.
    pub fn load_state(dir: &Path, options: &LearnerOptions) -> Result<Self, Error> {
        let (config, weights) = checkpoint::open(dir)?;
        let (moments, n_updates) = checkpoint::open_optimizer(dir, &weights)?;
        let mut learner = Self::of_files(config, &weights, options)?;
        learner.optimizer.n_updates = n_updates;
        learner.optimizer.moments = match n_updates {
            0 => None,
            _ => Some(read_moments(&moments, &learner.decoder)?),
        };
        moments.check_unchanged()?;
        warn_of(&moments);
        Ok(learner)
    }

    fn of_files(
        config: ModelConfig,
        weights: &TensorFiles,
        options: &LearnerOptions,
    ) -> Result<Self, Error> {
        let layout = Layout::new(&config);
        let values = read_weights(weights, &config, &layout)?;
        weights.check_unchanged()?;
        warn_of(weights);
        Self::new(config, layout, values, options)
    }

    fn new(
        config: ModelConfig,
        layout: Layout,
        values: Vec<Vec<f32>>,
        options: &LearnerOptions,
    ) -> Result<Self, Error> {
        let kernels = Kernels::of(options.device);
        options
            .micro_batch_rows
            .map_or(Ok(()), check_micro_batch_rows)?;
        let compute = Compute {
            kernels,
            precision: options.precision,
            recomputes_layers: options.recompute_layers,
        };
        let optimizer = AdamW::new(options.optimizer, kernels)?;
        let device = options.device.open()?;
        let threads = match options.device {
            DeviceChoice::Cpu => options.threads,
            // One queue feeds a GPU.
            DeviceChoice::Cuda(_) => 1,
        };
        Ok(Self {
            decoder: Decoder::new(config, layout, values, device, compute),
            optimizer,
            workers: Workers::new(threads)?,
            micro_batch_rows: options.micro_batch_rows,
            document_end: options.document_end,
        })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.decoder.config
    }

    /// Rows of a micro-batch with which updates on `n_rows` rows of `seq_len` tokens fit a memory,
    /// by an estimate; 1 where it says that not even that fits.
    ///
    /// # Units
    /// `memory_bytes`: of the whole device, or, without `is_whole`, beside what the model takes now.
    pub fn micro_batch_rows_in(
        &self,
        n_rows: u32,
        seq_len: usize,
        memory_bytes: u64,
        is_whole: bool,
    ) -> u32 {
        let layout = &self.decoder.layout;
        let n_parameters = layout.parameters.iter().map(Parameter::n_values).sum();
        let pass = PassMemory::new(
            self.config(),
            seq_len,
            n_parameters,
            self.decoder.compute,
            self.decoder.max_logits(),
        );
        // Parameters, the sum of gradients and two moments, of which some may be there already.
        let (there, coming) = match self.optimizer.moments {
            Some(_) => (3, 1),
            None => (1, 3),
        };
        let tables = if is_whole { there + coming } else { coming };
        let left = memory_bytes.saturating_sub(tables * 4 * n_parameters as u64);
        pass.micro_batch_rows(n_rows, self.workers.n_at_a_time() as u64, left)
    }

    /// Sets the rows of one forward and backward pass.
    ///
    /// # Errors
    /// When there are none.
    pub fn set_micro_batch_rows(&mut self, rows: usize) -> Result<(), Error> {
        check_micro_batch_rows(rows)?;
        self.micro_batch_rows = Some(rows);
        Ok(())
    }

    /// Sets the largest norm of a gradient over all parameters, for the updates to come.
    ///
    /// # Errors
    /// When it is not greater than 0.
    pub fn set_clip_norm(&mut self, clip_norm: f64) -> Result<(), Error> {
        self.optimizer.set_clip_norm(clip_norm)
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
    pub(crate) fn loss_and_gradients(
        &self,
        tokens: &[u32],
        seq_len: usize,
    ) -> (f64, ParameterGradients) {
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
                let mut inputs = Tokens::new(inputs, &self.decoder.device);
                if let Some(eos) = self.document_end {
                    inputs = inputs.with_documents(seq_len - 1, eos);
                }
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
            self.decoder.compute.kernels,
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
        checkpoint::write_text(&dir.join(checkpoint::CONFIG), &config)?;
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
        self.write(&dir.join(checkpoint::OPTIMIZER), &tensors)?;
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
        let mut tensors = Vec::new();
        for (table, suffix) in &tables {
            for (shape, matrix) in shapes.iter().zip(table) {
                for (part, place) in shape.parts_in_place() {
                    let values = &matrix.values()[place];
                    tensors.push(NamedTensor {
                        name: format!("{}{suffix}", part.key),
                        shape: part.shape(shape.columns),
                        values: match part.is_in_order() {
                            true => values.into(),
                            false => {
                                let mut in_file = vec![0.0; values.len()];
                                part.arrange_back(values, shape.columns, &mut in_file);
                                in_file.into()
                            }
                        },
                    });
                }
            }
        }
        let metadata = HashMap::from([
            // What `transformers` asks of a file it loads.
            ("format".to_owned(), "pt".to_owned()),
            (
                checkpoint::N_UPDATES.to_owned(),
                self.optimizer.n_updates.to_string(),
            ),
        ]);
        checkpoint::write_tensors(path, &tensors, metadata)
    }
}

fn check_micro_batch_rows(rows: usize) -> Result<(), Error> {
    match rows {
        0 => Err(Error::Batch {
            reason: "a micro-batch has at least 1 row".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Says what looks wrong of the tensors that have been read.
fn warn_of(files: &TensorFiles) {
    for warning in files.warnings() {
        tracing::warn!("{warning}");
    }
}

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
    config: &ModelConfig,
    layout: &Layout,
) -> Result<Vec<Vec<f32>>, Error> {
    let names = config.family.names();
    // Some published files leave out what all names begin with, or name the output matrix
    // otherwise.
    let has_prefix = (files.names()).any(|name| name.starts_with(names.optional_prefix));
    let prefix = if has_prefix {
        ""
    } else {
        names.optional_prefix
    };
    let [head, alias] = [names.head, names.head_alias].map(|name| format!("{name}.weight"));
    let has_alias = files.names().any(|name| name == alias);
    let in_file = |key: &str| match key.strip_prefix(prefix) {
        _ if key == head && has_alias => alias.clone(),
        Some(short) => short.to_owned(),
        None => key.to_owned(),
    };
    let expected: HashSet<String> = (layout.parameters.iter())
        .flat_map(|parameter| &parameter.parts)
        .map(|part| in_file(&part.key))
        .collect();
    // The biggest surprise first: a file of another architecture has other names.
    for name in files.names() {
        let is_buffer = (names.buffers.iter()).any(|end| format!(".{name}").ends_with(end));
        let is_repeated = config.tie_word_embeddings && (name == head || name == alias);
        if !expected.contains(name) && !is_buffer && !is_repeated {
            return Err(Error::UnexpectedTensor {
                path: files.path_of(name).to_owned(),
                tensor: name.to_owned(),
            });
        }
    }
    let values = read_table(files, layout, in_file)?;
    if config.tie_word_embeddings
        && let Some(name) = files.names().find(|&name| name == head || name == alias)
    {
        let mut repeated = vec![0.0; config.vocab_size * config.hidden_size];
        files.read(
            name,
            &[config.vocab_size, config.hidden_size],
            &mut repeated,
        )?;
        if repeated != values[layout.head] {
            return Err(Error::Untied {
                path: files.path_of(name).to_owned(),
                tensor: name.to_owned(),
            });
        }
    }
    Ok(values)
}

/// Tensors shaped as the parameters, under the names that `name_of` gives their keys.
fn read_table(
    files: &TensorFiles,
    layout: &Layout,
    name_of: impl Fn(&str) -> String,
) -> Result<Vec<Vec<f32>>, Error> {
    (layout.parameters.iter())
        .map(|parameter| {
            let columns = parameter.columns;
            // A configuration may ask for any amount of memory: what the files have is set aside.
            for part in &parameter.parts {
                files.expect(&name_of(&part.key), &part.shape(columns))?;
            }
            let mut values = vec![0.0; parameter.n_values()];
            for (part, place) in parameter.parts_in_place() {
                let (name, shape) = (name_of(&part.key), part.shape(columns));
                let out = &mut values[place];
                if part.is_in_order() {
                    files.read(&name, &shape, out)?;
                } else {
                    let mut in_file = vec![0.0; out.len()];
                    files.read(&name, &shape, &mut in_file)?;
                    part.arrange(&in_file, columns, out);
                }
            }
            Ok(values)
        })
        .collect()
}

fn read_moments(files: &TensorFiles, decoder: &Decoder) -> Result<Vec<Moments>, Error> {
    let exp_avg = read_table(files, &decoder.layout, |key| format!("{key}{EXP_AVG}"))?;
    let exp_avg_sq = read_table(files, &decoder.layout, |key| format!("{key}{EXP_AVG_SQ}"))?;
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

#[cfg(test)]
mod tests;
