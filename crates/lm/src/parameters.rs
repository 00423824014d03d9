//! Which parameters a model has, what they are called in a Hugging Face file, and their first
//! values.
//!
//! Matrices that multiply the same input are held as one, stacked by rows, so that one product
//! serves them: `[q; k; v]` and `[gate; up]`.
//! In files they are apart.

use std::ops::Range;

use rand_core::RngCore;
use rand_pcg::Pcg64;

use crate::config::{Mlp, ModelConfig, Positions};
use crate::family::{Names, QkvNames};
use crate::host::NormKind;

/// One tensor of a Hugging Face file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    pub(crate) key: String,
    /// Rows of the parameter that it fills.
    pub(crate) rows: usize,
    pub(crate) form: Form,
}

/// How a tensor lies in a file, if not as the rows that it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Same,
    /// One dimension in the file, one column here.
    Vector,
    /// [columns, rows]
    Transposed,
    /// Rows by head, for each `[q; k; v]`; here by `[q; k; v]`, for each all heads.
    ByHead {
        n_heads: usize,
        is_vector: bool,
    },
}

impl Part {
    /// Its shape in the file.
    pub(crate) fn shape(&self, columns: usize) -> Vec<usize> {
        match self.form {
            Form::Vector
            | Form::ByHead {
                is_vector: true, ..
            } => vec![self.rows],
            Form::Transposed => vec![columns, self.rows],
            Form::Same
            | Form::ByHead {
                is_vector: false, ..
            } => vec![self.rows, columns],
        }
    }

    /// Whether the file holds the values in the parameter's order.
    pub(crate) fn is_in_order(&self) -> bool {
        matches!(self.form, Form::Same | Form::Vector)
    }

    /// From the file's order to the parameter's.
    pub(crate) fn arrange(&self, in_file: &[f32], columns: usize, out: &mut [f32]) {
        self.pairs(columns, |place, at| {
            out[place].copy_from_slice(&in_file[at]);
        });
        if self.form == Form::Transposed {
            transpose(in_file, self.rows, out);
        }
    }

    /// From the parameter's order to the file's.
    pub(crate) fn arrange_back(&self, values: &[f32], columns: usize, in_file: &mut [f32]) {
        self.pairs(columns, |place, at| {
            in_file[at].copy_from_slice(&values[place]);
        });
        if self.form == Form::Transposed {
            transpose(values, columns, in_file);
        }
    }

    /// Ranges of equal values: in the parameter, and in the file.
    fn pairs(&self, columns: usize, mut each: impl FnMut(Range<usize>, Range<usize>)) {
        match self.form {
            Form::Same | Form::Vector => {
                let all = 0..self.rows * columns;
                each(all.clone(), all);
            }
            Form::Transposed => {}
            Form::ByHead { n_heads, .. } => {
                let block = self.rows / (3 * n_heads) * columns;
                for head in 0..n_heads {
                    for part in 0..3 {
                        let (here, there) = (part * n_heads + head, head * 3 + part);
                        each(
                            here * block..(here + 1) * block,
                            there * block..(there + 1) * block,
                        );
                    }
                }
            }
        }
    }
}

/// `out[c, r] = x[r, c]`, `columns` being the columns of `x`.
fn transpose(x: &[f32], columns: usize, out: &mut [f32]) {
    let rows = x.len() / columns;
    for (r, x) in x.chunks_exact(columns).enumerate() {
        for (c, x) in x.iter().enumerate() {
            out[c * rows + r] = *x;
        }
    }
}

/// What a parameter begins with in a model from scratch.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Init {
    /// Normal, truncated, with this standard deviation.
    Normal(f64),
    Constant(f32),
}

/// One matrix of the model: the parts stacked by rows, `[Σ rows, columns]`; a vector has one
/// column.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parameter {
    pub(crate) parts: Vec<Part>,
    pub(crate) columns: usize,
    /// Whether weight decay applies: to linear weights, not to embeddings, norms and biases.
    pub(crate) decayed: bool,
    init: Init,
}

impl Parameter {
    pub(crate) fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows).sum()
    }

    pub(crate) fn n_values(&self) -> usize {
        self.rows() * self.columns
    }

    /// Each part with its place in the parameter's values.
    pub(crate) fn parts_in_place(&self) -> impl Iterator<Item = (&Part, Range<usize>)> + '_ {
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

/// The parameters of a linear layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: ParameterIdx,
    pub(crate) bias: Option<ParameterIdx>,
}

/// A norm with its parameters, where it has them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    pub(crate) kind: NormKind,
    pub(crate) eps: f32,
    pub(crate) weight: Option<ParameterIdx>,
    pub(crate) bias: Option<ParameterIdx>,
}

/// The parameters of one decoder layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerParameters {
    pub(crate) attention_norm: Norm,
    /// `[q; k; v]`
    pub(crate) qkv: Linear,
    /// `[q; k]`
    pub(crate) qk_norm: Option<Norm>,
    pub(crate) attention_out: Linear,
    pub(crate) mlp_norm: Norm,
    /// `[gate; up]`, or up alone.
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// The table of a model's parameters, and which of them is what.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) embedding: ParameterIdx,
    pub(crate) positions: Option<ParameterIdx>,
    pub(crate) layers: Vec<LayerParameters>,
    pub(crate) final_norm: Norm,
    /// The output matrix; the embedding where the two are tied.
    pub(crate) head: ParameterIdx,
}

/// Fills a layout's table.
struct Table<'a> {
    config: &'a ModelConfig,
    names: &'static Names,
    parameters: Vec<Parameter>,
}

impl Table<'_> {
    fn add(&mut self, parameter: Parameter) -> ParameterIdx {
        self.parameters.push(parameter);
        self.parameters.len() - 1
    }

    /// An embedding, or an output matrix, which alone is decayed.
    fn table(&mut self, key: &str, rows: usize, decayed: bool) -> ParameterIdx {
        self.add(Parameter {
            parts: vec![Part {
                key: format!("{key}.weight"),
                rows,
                form: Form::Same,
            }],
            columns: self.config.hidden_size,
            decayed,
            init: Init::Normal(self.std()),
        })
    }

    /// σ of the first weights.
    ///
    /// # Source
    /// arXiv 2406.11813, released code: weights are normal with σ = 1/√d, the two projections
    /// that write into the residual stream also divided by √(2(layer + 1)).
    fn std(&self) -> f64 {
        1.0 / (self.config.hidden_size as f64).sqrt()
    }

    fn vector(&mut self, parts: Vec<Part>, value: f32) -> ParameterIdx {
        self.add(Parameter {
            parts,
            columns: 1,
            decayed: false,
            init: Init::Constant(value),
        })
    }

    fn linear(
        &mut self,
        parts: &[(String, usize)],
        columns: usize,
        has_bias: bool,
        std: f64,
    ) -> Linear {
        let form = match self.names.is_transposed {
            true => Form::Transposed,
            false => Form::Same,
        };
        self.linear_of_forms(parts, columns, has_bias, std, [form, Form::Vector])
    }

    fn linear_of_forms(
        &mut self,
        parts: &[(String, usize)],
        columns: usize,
        has_bias: bool,
        std: f64,
        [weight, bias]: [Form; 2],
    ) -> Linear {
        let parts_of = |end: &str, form| {
            let part = |(key, rows): &(String, usize)| Part {
                key: format!("{key}.{end}"),
                rows: *rows,
                form,
            };
            parts.iter().map(part).collect()
        };
        Linear {
            weight: self.add(Parameter {
                parts: parts_of("weight", weight),
                columns,
                decayed: true,
                init: Init::Normal(std),
            }),
            bias: has_bias.then(|| self.vector(parts_of("bias", bias), 0.0)),
        }
    }

    fn norm(&mut self, key: &str) -> Norm {
        let norm = self.config.norm;
        let rows = self.config.hidden_size;
        let mut part = |end: &str, value| {
            let key = format!("{key}.{end}");
            let form = Form::Vector;
            self.vector(vec![Part { key, rows, form }], value)
        };
        Norm {
            kind: norm.kind,
            eps: norm.eps,
            weight: norm.has_weight.then(|| part("weight", 1.0)),
            bias: norm.has_bias.then(|| part("bias", 0.0)),
        }
    }

    fn layer(&mut self, layer: usize) -> LayerParameters {
        let (config, names) = (self.config, self.names);
        let prefix = names.layer.replace("{}", &layer.to_string());
        let key = |name: &str| format!("{prefix}{name}");
        let (d, ff) = (config.hidden_size, config.intermediate_size);
        let [q, kv] = config.attention_widths();
        let std = self.std();
        let out_std = std / (2.0 * (layer + 1) as f64).sqrt();
        let biases = config.biases;
        let attention_norm = self.norm(&key(names.attention_norm));
        let qkv = match names.qkv {
            QkvNames::Apart([q_name, k_name, v_name]) => {
                let parts = [(key(q_name), q), (key(k_name), kv), (key(v_name), kv)];
                self.linear(&parts, d, biases.qkv, std)
            }
            QkvNames::Together(name) => self.linear(&[(key(name), q + 2 * kv)], d, biases.qkv, std),
            QkvNames::ByHead(name) => {
                let n_heads = config.num_attention_heads;
                let forms = [false, true].map(|is_vector| Form::ByHead { n_heads, is_vector });
                let parts = [(key(name), q + 2 * kv)];
                self.linear_of_forms(&parts, d, biases.qkv, std, forms)
            }
        };
        let qk_norm = config.has_qk_norm.then(|| {
            let part = |name: &str, rows| Part {
                key: key(name) + ".weight",
                rows,
                form: Form::Vector,
            };
            let parts = vec![part(names.q_norm, q), part(names.k_norm, kv)];
            Norm {
                kind: NormKind::Rms,
                eps: config.norm.eps,
                weight: Some(self.vector(parts, 1.0)),
                bias: None,
            }
        });
        let out = [(key(names.attention_out), d)];
        let attention_out = self.linear(&out, q, biases.attention_out, out_std);
        let mlp_norm = self.norm(&key(names.mlp_norm));
        let mut ups = vec![(key(names.up), ff)];
        if config.mlp == Mlp::Gated {
            ups.insert(0, (key(names.gate), ff));
        }
        LayerParameters {
            attention_norm,
            qkv,
            qk_norm,
            attention_out,
            mlp_norm,
            up: self.linear(&ups, d, biases.mlp, std),
            down: self.linear(&[(key(names.down), d)], ff, biases.mlp, out_std),
        }
    }
}

impl Layout {
    /// The parameters of a decoder.
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let names = config.family.names();
        let mut table = Table {
            config,
            names,
            parameters: Vec::new(),
        };
        let embedding = table.table(names.embedding, config.vocab_size, false);
        let positions = match config.positions {
            Positions::Learned => {
                Some(table.table(names.positions, config.max_position_embeddings, false))
            }
            Positions::Rotary(_) => None,
        };
        let layers = (0..config.num_hidden_layers)
            .map(|layer| table.layer(layer))
            .collect();
        let final_norm = table.norm(names.final_norm);
        let head = match config.tie_word_embeddings {
            true => embedding,
            false => table.table(names.head, config.vocab_size, true),
        };
        Self {
            parameters: table.parameters,
            embedding,
            positions,
            layers,
            final_norm,
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
                    match parameter.init {
                        Init::Constant(value) => values[place].fill(value),
                        Init::Normal(std) => {
                            // A stream for each matrix: none depends on which others there are.
                            let mut normal = TruncatedNormal::new(seed, &part.key);
                            values[place].fill_with(|| (std * normal.draw()) as f32);
                        }
                    }
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
