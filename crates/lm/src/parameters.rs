//! Which parameters a model has, what they are called in a Hugging Face file, and their first
//! values.
//!
//! Matrices that multiply the same input are held as one, stacked by rows, so that one product
//! serves them: `[q; k; v]` and `[gate; up]`.
//! In files they are apart.

use rand_core::RngCore;
use rand_pcg::Pcg64;

use crate::config::ModelConfig;

/// One matrix of a Hugging Face file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    pub(crate) key: String,
    pub(crate) rows: usize,
}

/// One matrix of the model: the parts stacked by rows, `[Σ rows, columns]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parameter {
    pub(crate) parts: Vec<Part>,
    pub(crate) columns: usize,
    /// Whether weight decay applies: to linear weights, not to embeddings.
    pub(crate) decayed: bool,
    init_std: f64,
}

impl Parameter {
    pub(crate) fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows).sum()
    }

    pub(crate) fn n_values(&self) -> usize {
        self.rows() * self.columns
    }

    /// Each part with its place in the parameter's values.
    pub(crate) fn parts_in_place(
        &self,
    ) -> impl Iterator<Item = (&Part, std::ops::Range<usize>)> + '_ {
        let mut from = 0;
        self.parts.iter().map(move |part| {
            let to = from + part.rows * self.columns;
            let place = from..to;
            from = to;
            (part, place)
        })
    }
}

/// Index of a parameter in the model's table.
pub(crate) type ParameterIdx = usize;

/// The matrices of one decoder layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerParameters {
    /// `[q; k; v]`
    pub(crate) qkv: ParameterIdx,
    pub(crate) attention_out: ParameterIdx,
    /// `[gate; up]`
    pub(crate) gate_up: ParameterIdx,
    pub(crate) down: ParameterIdx,
}

/// The table of a model's parameters, and which of them is what.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) embedding: ParameterIdx,
    pub(crate) layers: Vec<LayerParameters>,
    /// The output matrix; the embedding where the two are tied.
    pub(crate) head: ParameterIdx,
}

impl Layout {
    /// The parameters of OLMo v1.
    ///
    /// # Source
    /// arXiv 2406.11813, released code: weights are normal with σ = 1/√d, the two projections
    /// that write into the residual stream also divided by √(2(layer + 1)).
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let (d, ff) = (config.hidden_size, config.intermediate_size);
        let std = 1.0 / (d as f64).sqrt();
        let mut parameters = Vec::new();
        let mut add = |parts: &[(String, usize)], columns, decayed, init_std| {
            parameters.push(Parameter {
                parts: parts
                    .iter()
                    .map(|(key, rows)| Part {
                        key: format!("{key}.weight"),
                        rows: *rows,
                    })
                    .collect(),
                columns,
                decayed,
                init_std,
            });
            parameters.len() - 1
        };
        let embedding = add(
            &[("model.embed_tokens".to_owned(), config.vocab_size)],
            d,
            false,
            std,
        );
        let layers = (0..config.num_hidden_layers)
            .map(|layer| {
                let key = |name: &str| format!("model.layers.{layer}.{name}");
                let out_std = std / (2.0 * (layer + 1) as f64).sqrt();
                LayerParameters {
                    qkv: add(
                        &[
                            (key("self_attn.q_proj"), d),
                            (key("self_attn.k_proj"), d),
                            (key("self_attn.v_proj"), d),
                        ],
                        d,
                        true,
                        std,
                    ),
                    attention_out: add(&[(key("self_attn.o_proj"), d)], d, true, out_std),
                    gate_up: add(
                        &[(key("mlp.gate_proj"), ff), (key("mlp.up_proj"), ff)],
                        d,
                        true,
                        std,
                    ),
                    down: add(&[(key("mlp.down_proj"), d)], ff, true, out_std),
                }
            })
            .collect();
        let head = match config.tie_word_embeddings {
            true => embedding,
            false => add(&[("lm_head".to_owned(), config.vocab_size)], d, true, std),
        };
        Self {
            parameters,
            embedding,
            layers,
            head,
        }
    }

    /// First values of every parameter, which follow from the seed alone.
    ///
    /// # Shapes
    /// Each vector holds `[rows, columns]` in row-major order.
    pub(crate) fn initial_values(&self, seed: u64) -> Vec<Vec<f32>> {
        self.parameters
            .iter()
            .map(|parameter| {
                let mut values = vec![0.0; parameter.n_values()];
                for (part, place) in parameter.parts_in_place() {
                    // A stream for each matrix: none depends on which others the model has.
                    let mut normal = TruncatedNormal::new(seed, &part.key);
                    values[place].fill_with(|| (parameter.init_std * normal.draw()) as f32);
                }
                values
            })
            .collect()
    }
}

/// The widest value drawn, in standard deviations.
const TRUNCATE_AT: f64 = 3.0;

/// Standard normal values, those beyond ±3 drawn again.
struct TruncatedNormal {
    random: Pcg64,
    /// Box and Muller's method makes values by twos.
    spare: Option<f64>,
}

impl TruncatedNormal {
    fn new(seed: u64, key: &str) -> Self {
        // FNV-1a, so that a key names its stream for good.
        let stream = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self {
            random: Pcg64::new(u128::from(seed), u128::from(stream)),
            spare: None,
        }
    }

    fn draw(&mut self) -> f64 {
        loop {
            let value = self.spare.take().unwrap_or_else(|| {
                // In (0, 1], so that its logarithm is finite.
                let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
                let angle = std::f64::consts::TAU * self.uniform();
                self.spare = Some(radius * angle.sin());
                radius * angle.cos()
            });
            if value.abs() <= TRUNCATE_AT {
                return value;
            }
        }
    }

    /// Uniform in [0, 1).
    fn uniform(&mut self) -> f64 {
        (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
