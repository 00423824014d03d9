//! The layers of a decoder, forward, and what each leaves behind for the way back.
//!
//! A tape is for one forward pass.
//! Where gradients are wanted, every layer pushes a closure that turns the gradient of its output
//! into those of its input and parameters; walking them in reverse is the backward pass.
//! Where they are not, nothing is kept.
//!
//! A tensor library's own differentiation would keep every intermediate of every arithmetic
//! operation; here a layer is the unit, and it says itself what it needs again.
//! Layers without parameters exist twice, as loops for the CPU ([`crate::host`]) and as tensor
//! operations for any device ([`crate::reference`]).
//!
//! Shapes: N tokens, D model features; every value is a matrix with a row for each token.

use std::cell::RefCell;
use std::rc::Rc;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use imprint_core::Precision;

use crate::device::DeviceChoice;
use crate::host::Activation;
use crate::parameters::{Linear, Norm, ParameterIdx};
use crate::{host, reference};

/// What runs the layers that have no parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// Loops over the tensors' own memory.
    Host,
    /// Tensor operations.
    Tensor,
}

impl Kernels {
    /// What suits a device.
    pub(crate) fn of(device: DeviceChoice) -> Self {
        match device {
            DeviceChoice::Cpu => Self::Host,
            DeviceChoice::Cuda(_) => Self::Tensor,
        }
    }
}

/// How layers are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compute {
    pub(crate) kernels: Kernels,
    /// Of matrix products: factors and products are rounded to it. Readings' logits, norms, softmax,
    /// sums and what is kept are float32.
    pub(crate) precision: Precision,
    /// Whether the way back computes a decoder layer's inside again rather than keep it.
    pub(crate) recomputes_layers: bool,
}

impl Compute {
    /// a · b
    pub(crate) fn product<const D: usize>(self, a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
        match self.precision {
            Precision::Float32 => a.matmul(b),
            Precision::Bfloat16 => {
                let [a, b] = [a, b].map(|x| x.cast(DType::BF16));
                a.matmul(b).cast(DType::F32)
            }
        }
    }
}

/// A tensor's own memory, taken out of it and put back without copying while there is no second
/// handle to the tensor.
pub(crate) struct Matrix(TensorData);

impl Matrix {
    pub(crate) fn take(tensor: Tensor<2>) -> Self {
        Self(tensor.into_data())
    }

    pub(crate) fn new(values: Vec<f32>, columns: usize) -> Self {
        let rows = values.len() / columns;
        Self(TensorData::new(values, [rows, columns]))
    }

    pub(crate) fn values(&self) -> &[f32] {
        self.0.as_slice().expect("values are float32")
    }

    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        self.0.as_mut_slice().expect("values are float32")
    }

    pub(crate) fn put(self, device: &Device) -> Tensor<2> {
        Tensor::from_data(self.0, device)
    }
}

/// Token ids, where loops and where tensor operations read them.
#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    pub(crate) ids: Vec<u32>,
    pub(crate) tensor: Tensor<1, Int>,
    /// For each token the position in its sequence where its document begins; `None` where
    /// attention reaches across documents.
    pub(crate) starts: Option<Vec<u32>>,
}

impl Tokens {
    pub(crate) fn new(ids: Vec<u32>, device: &Device) -> Self {
        // In bounds of an i32: ids are checked against the vocabulary.
        let signed: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let n = signed.len();
        let tensor = Tensor::from_data(TensorData::new(signed, [n]), device);
        Self {
            ids,
            tensor,
            starts: None,
        }
    }

    /// The tokens, each confined to its document, which ends with `eos`.
    pub(crate) fn with_documents(mut self, seq_len: usize, eos: u32) -> Self {
        let mut starts = Vec::with_capacity(self.ids.len());
        for sequence in self.ids.chunks_exact(seq_len) {
            let mut start = 0;
            for (t, &id) in (1..).zip(sequence) {
                starts.push(start);
                if id == eos {
                    start = t;
                }
            }
        }
        self.starts = Some(starts);
        self
    }

    /// The ids of a part, without their documents.
    pub(crate) fn narrow(&self, from: usize, n: usize) -> Self {
        Self {
            ids: self.ids[from..from + n].to_vec(),
            tensor: self.tensor.clone().narrow(0, from, n),
            starts: None,
        }
    }
}

/// A value that layers share, and that kernels read in place.
#[derive(Clone)]
struct Value(Rc<RefCell<Option<Tensor<2>>>>);

impl Value {
    fn new(tensor: Tensor<2>) -> Self {
        Self(Rc::new(RefCell::new(Some(tensor))))
    }

    /// A second handle, for operations that only read.
    fn tensor(&self) -> Tensor<2> {
        self.0
            .borrow()
            .clone()
            .expect("put back after every reading")
    }

    fn into_tensor(self) -> Tensor<2> {
        match Rc::try_unwrap(self.0) {
            Ok(only) => only.into_inner().expect("put back after every reading"),
            Err(shared) => Self(shared).tensor(),
        }
    }

    /// Reads the value in place.
    fn read<R>(&self, f: impl FnOnce(&[f32]) -> R) -> R {
        let tensor = self.0.take().expect("put back after every reading");
        let device = tensor.device();
        let matrix = Matrix::take(tensor);
        let result = f(matrix.values());
        self.0.replace(Some(matrix.put(&device)));
        result
    }
}

/// The gradient that a value's consumers add up.
#[derive(Clone, Default)]
struct Gradient(Rc<RefCell<Option<Tensor<2>>>>);

impl Gradient {
    fn add(&self, more: Tensor<2>) {
        let mut sum = self.0.borrow_mut();
        *sum = Some(match sum.take() {
            None => more,
            Some(sum) => sum + more,
        });
    }

    fn take(&self) -> Tensor<2> {
        self.0
            .take()
            .expect("a layer's output is used before its gradient is asked for")
    }
}

/// A layer's output.
pub(crate) struct Var {
    value: Value,
    gradient: Gradient,
}

impl Var {
    fn new(tensor: Tensor<2>) -> Self {
        Self {
            value: Value::new(tensor),
            gradient: Gradient::default(),
        }
    }

    /// A second handle to the value.
    pub(crate) fn tensor(&self) -> Tensor<2> {
        self.value.tensor()
    }

    pub(crate) fn into_tensor(self) -> Tensor<2> {
        self.value.into_tensor()
    }
}

/// The gradient of every parameter, where one was added.
pub(crate) struct ParameterGradients(pub(crate) Vec<Option<Tensor<2>>>);

impl ParameterGradients {
    pub(crate) fn new(n_parameters: usize) -> Self {
        Self((0..n_parameters).map(|_| None).collect())
    }

    pub(crate) fn add(&mut self, idx: ParameterIdx, more: Tensor<2>) {
        let sum = &mut self.0[idx];
        *sum = Some(match sum.take() {
            None => more,
            Some(sum) => sum + more,
        });
    }
}

type BackwardStep<'a> = Box<dyn FnOnce(&mut ParameterGradients) + 'a>;

/// One forward pass over the parameters.
pub(crate) struct Tape<'a> {
    parameters: &'a [Tensor<2>],
    compute: Compute,
    /// `None` where no gradients are wanted.
    steps: Option<RefCell<Vec<BackwardStep<'a>>>>,
}

impl<'a> Tape<'a> {
    /// A pass that can be walked back.
    pub(crate) fn recording(parameters: &'a [Tensor<2>], compute: Compute) -> Self {
        Self {
            parameters,
            compute,
            steps: Some(RefCell::default()),
        }
    }

    /// A pass that keeps nothing.
    pub(crate) fn forward_only(parameters: &'a [Tensor<2>], compute: Compute) -> Self {
        Self {
            parameters,
            compute,
            steps: None,
        }
    }

    fn push(&self, step: impl FnOnce() -> BackwardStep<'a>) {
        if let Some(steps) = &self.steps {
            steps.borrow_mut().push(step());
        }
    }

    /// Walks back from the last output, whose gradient is given.
    pub(crate) fn backward(
        self,
        output: &Var,
        gradient: Tensor<2>,
        gradients: &mut ParameterGradients,
    ) {
        output.gradient.add(gradient);
        let steps = self.steps.expect("the pass was recorded").into_inner();
        for step in steps.into_iter().rev() {
            step(gradients);
        }
    }

    /// Rows of the embedding.
    ///
    /// # Shapes
    /// `tokens`: [N]; returns [N, D].
    pub(crate) fn embed(&self, idx: ParameterIdx, tokens: &'a Tokens) -> Var {
        let table = &self.parameters[idx];
        let out = Var::new(table.clone().select(0, tokens.tensor.clone()));
        self.push(|| {
            let (gradient, kernels) = (out.gradient.clone(), self.compute.kernels);
            Box::new(move |gradients| {
                let [v, d] = table.dims();
                let device = table.device();
                let d_out = gradient.take();
                let slot = &mut gradients.0[idx];
                let sum = slot.take();
                *slot = Some(match kernels {
                    Kernels::Host => {
                        let mut sum = match sum {
                            Some(sum) => Matrix::take(sum),
                            None => Matrix::new(vec![0.0; v * d], d),
                        };
                        let d_out = Matrix::take(d_out);
                        host::embedding_backward(sum.values_mut(), &tokens.ids, d_out.values(), d);
                        sum.put(&device)
                    }
                    Kernels::Tensor => {
                        let sum = sum.unwrap_or_else(|| Tensor::zeros([v, d], &device));
                        let add = burn::tensor::IndexingUpdateOp::Add;
                        sum.select_assign(0, tokens.tensor.clone(), d_out, add)
                    }
                });
            })
        });
        out
    }

    /// Adds the rows of the position table to every sequence.
    ///
    /// # Shapes
    /// `x`: [sequences · `seq_len`, D], the parameter: [positions, D].
    pub(crate) fn add_positions(&self, idx: ParameterIdx, x: Var, seq_len: usize) -> Var {
        let table = &self.parameters[idx];
        let [n, d] = x.value.tensor().dims();
        let d_x = x.gradient.clone();
        let rows = table.clone().narrow(0, 0, seq_len);
        let sum =
            x.into_tensor().reshape([n / seq_len, seq_len, d]) + rows.reshape([1, seq_len, d]);
        let out = Var::new(sum.reshape([n, d]));
        self.push(|| {
            let gradient = out.gradient.clone();
            Box::new(move |gradients| {
                let d_out = gradient.take();
                let rows = d_out.clone().reshape([n / seq_len, seq_len, d]).sum_dim(0);
                let rest = Tensor::zeros([table.dims()[0] - seq_len, d], &table.device());
                gradients.add(idx, Tensor::cat(vec![rows.reshape([seq_len, d]), rest], 0));
                d_x.add(d_out);
            })
        });
        out
    }

    /// x · Wᵀ + b.
    ///
    /// # Shapes
    /// `x`: [N, in], the weight: [out, in], the bias: [out, 1]; returns [N, out].
    pub(crate) fn linear(&self, linear: Linear, x: Var) -> Var {
        let weight = &self.parameters[linear.weight];
        let mut product = (self.compute).product(x.value.tensor(), weight.clone().transpose());
        if let Some(bias) = linear.bias {
            product = self.add_to_rows(product, &self.parameters[bias]);
        }
        let out = Var::new(product);
        self.push(|| {
            let (gradient, compute) = (out.gradient.clone(), self.compute);
            Box::new(move |gradients| {
                let mut d_out = gradient.take();
                if let Some(bias) = linear.bias {
                    let d_bias;
                    (d_out, d_bias) = column_sums(compute.kernels, d_out);
                    gradients.add(bias, d_bias);
                }
                let d_weight = compute.product(d_out.clone().transpose(), x.value.into_tensor());
                gradients.add(linear.weight, d_weight);
                x.gradient.add(compute.product(d_out, weight.clone()));
            })
        });
        out
    }

    /// x plus a row, [D, 1] as parameters are.
    fn add_to_rows(&self, x: Tensor<2>, row: &Tensor<2>) -> Tensor<2> {
        let d = x.dims()[1];
        match self.compute.kernels {
            Kernels::Host => {
                let (device, row) = (x.device(), Matrix::take(row.clone()));
                let mut x = Matrix::take(x);
                host::add_to_rows(x.values_mut(), row.values());
                x.put(&device)
            }
            Kernels::Tensor => x + row.clone().reshape([1, d]),
        }
    }

    /// A norm and, where it has them, its weight and bias.
    ///
    /// # Shapes
    /// [N, D] → [N, D].
    pub(crate) fn norm(&self, x: &Var, norm: Norm) -> Var {
        let d = x.value.tensor().dims()[1];
        let normal = self.normalise(x, vec![d], norm);
        match norm.weight {
            None => normal,
            Some(weight) => self.affine(weight, norm.bias, normal),
        }
    }

    /// Norms of queries and of keys, each over all its heads.
    ///
    /// # Shapes
    /// `[q; k; v]`: [N, (H + 2G)·C]; the weight: [(H + G)·C, 1].
    pub(crate) fn norm_queries_and_keys(&self, qkv: &Var, widths: [usize; 2], norm: Norm) -> Var {
        let weight = norm
            .weight
            .expect("norms of queries and keys have a weight");
        let normal = self.normalise(qkv, widths.to_vec(), norm);
        self.affine(weight, None, normal)
    }

    /// The norm itself, of the segments that each row begins with.
    fn normalise(&self, x: &Var, widths: Vec<usize>, norm: Norm) -> Var {
        let Norm { kind, eps, .. } = norm;
        match self.compute.kernels {
            Kernels::Host => {
                let tensor = x.value.tensor();
                let (row, device) = (tensor.dims()[1], tensor.device());
                // A copy: the residual stream goes on with `x`.
                let mut matrix = Matrix::take(tensor);
                let rstd = host::norm(matrix.values_mut(), row, &widths, kind, eps);
                let out = Var::new(matrix.put(&device));
                self.push(|| {
                    let (y, d_out) = (out.value.clone(), out.gradient.clone());
                    let d_x = x.gradient.clone();
                    Box::new(move |_| {
                        let mut gradient = Matrix::take(d_out.take());
                        let values = gradient.values_mut();
                        y.read(|y| host::norm_backward(y, &rstd, values, row, &widths, kind));
                        d_x.add(gradient.put(&device));
                    })
                });
                out
            }
            Kernels::Tensor => self.by_definition(&x.value, &x.gradient, move |x| {
                reference::norm(x, &widths, kind, eps)
            }),
        }
    }

    /// The first columns of every row times a weight, plus a bias.
    ///
    /// # Shapes
    /// `x`: [N, D]; the weight: [K, 1] with K ≤ D; the bias as the weight.
    fn affine(&self, weight: ParameterIdx, bias: Option<ParameterIdx>, x: Var) -> Var {
        let parameter = |idx: ParameterIdx| self.parameters[idx].clone();
        let tensor = x.value.tensor();
        let (row, device) = (tensor.dims()[1], tensor.device());
        let scaled = match self.compute.kernels {
            Kernels::Host => {
                let mut matrix = Matrix::take(tensor);
                let weight = Matrix::take(parameter(weight));
                let bias = bias.map(|idx| Matrix::take(parameter(idx)));
                let bias = bias.as_ref().map_or(&[][..], Matrix::values);
                host::affine(matrix.values_mut(), row, weight.values(), bias);
                matrix.put(&device)
            }
            Kernels::Tensor => {
                let scaled = tensor * widened(parameter(weight), row, 1.0);
                match bias {
                    None => scaled,
                    Some(bias) => scaled + widened(parameter(bias), row, 0.0),
                }
            }
        };
        let out = Var::new(scaled);
        self.push(|| {
            let (gradient, kernels) = (out.gradient.clone(), self.compute.kernels);
            let values = &self.parameters[weight];
            Box::new(move |gradients| {
                let mut d_out = gradient.take();
                if let Some(bias) = bias {
                    let d_bias;
                    (d_out, d_bias) = column_sums(kernels, d_out);
                    gradients.add(bias, d_bias);
                }
                let k = values.dims()[0];
                match kernels {
                    Kernels::Host => {
                        let mut d_x = Matrix::take(d_out);
                        let weights = Matrix::take(values.clone());
                        let d_weight = x.value.read(|x| {
                            host::affine_backward(x, d_x.values_mut(), row, weights.values())
                        });
                        gradients.add(weight, Matrix::new(d_weight, 1).put(&device));
                        x.gradient.add(d_x.put(&device));
                    }
                    Kernels::Tensor => {
                        let d_weight = (d_out.clone() * x.value.into_tensor()).sum_dim(0);
                        let d_weight = d_weight.narrow(1, 0, k).reshape([k, 1]);
                        gradients.add(weight, d_weight);
                        x.gradient.add(d_out * widened(values.clone(), row, 1.0));
                    }
                }
            })
        });
        out
    }

    /// The activation of every value.
    pub(crate) fn activate(&self, kind: Activation, x: Var) -> Var {
        self.elementwise(
            x,
            move |x| host::activate(kind, x),
            move |x, gradient| host::activate_backward(kind, x, gradient),
            move |x| reference::activate(kind, x),
        )
    }

    /// Every value limited to ±`limit`.
    pub(crate) fn clamp(&self, x: Var, limit: f32) -> Var {
        self.elementwise(
            x,
            move |x| host::clamp(x, limit),
            move |x, gradient| host::clamp_backward(x, gradient, limit),
            move |x| x.clamp(-limit, limit),
        )
    }

    /// A function of each value alone: in place, its gradient in place from its input, and its
    /// definition.
    fn elementwise(
        &self,
        x: Var,
        forward: impl Fn(&mut [f32]),
        backward: impl Fn(&[f32], &mut [f32]) + 'a,
        definition: impl Fn(Tensor<2>) -> Tensor<2> + 'a,
    ) -> Var {
        match self.compute.kernels {
            Kernels::Host => {
                let tensor = x.value.tensor();
                let device = tensor.device();
                let mut matrix = Matrix::take(tensor);
                forward(matrix.values_mut());
                let out = Var::new(matrix.put(&device));
                self.push(|| {
                    let d_out = out.gradient.clone();
                    Box::new(move |_| {
                        let mut gradient = Matrix::take(d_out.take());
                        x.value.read(|x| backward(x, gradient.values_mut()));
                        x.gradient.add(gradient.put(&device));
                    })
                });
                out
            }
            Kernels::Tensor => self.by_definition(&x.value, &x.gradient, definition),
        }
    }

    /// silu(gate) · up of `[gate; up]`.
    ///
    /// # Shapes
    /// [N, 2F] → [N, F].
    pub(crate) fn swiglu(&self, gate_up: Var) -> Var {
        match self.compute.kernels {
            Kernels::Host => {
                let tensor = gate_up.value.tensor();
                let (ff, device) = (tensor.dims()[1] / 2, tensor.device());
                drop(tensor);
                let out = gate_up.value.read(|gate_up| host::swiglu(gate_up, ff));
                let out = Var::new(Matrix::new(out, ff).put(&device));
                self.push(|| {
                    let d_out = out.gradient.clone();
                    Box::new(move |_| {
                        let d_out = Matrix::take(d_out.take());
                        let mut matrix = Matrix::take(gate_up.value.into_tensor());
                        host::swiglu_backward(matrix.values_mut(), d_out.values(), ff);
                        gate_up.gradient.add(matrix.put(&device));
                    })
                });
                out
            }
            Kernels::Tensor => {
                self.by_definition(&gate_up.value, &gate_up.gradient, reference::swiglu)
            }
        }
    }

    /// Causal attention over `[q; k; v]`.
    ///
    /// # Shapes
    /// [N, (H + 2G)·C] → [N, H·C].
    pub(crate) fn attention(&self, qkv: Var, attention: host::Attention<'a>) -> Var {
        let device = qkv.value.tensor().device();
        match self.compute.kernels {
            Kernels::Host => {
                let (out, log_sums) = qkv.value.read(|qkv| attention.forward(qkv));
                let out = Var::new(Matrix::new(out, attention.d()).put(&device));
                self.push(|| {
                    let (value, d_out) = (out.value.clone(), out.gradient.clone());
                    Box::new(move |_| {
                        let d_out = Matrix::take(d_out.take());
                        let d_qkv = qkv.value.read(|qkv| {
                            value
                                .read(|out| attention.backward(qkv, out, &log_sums, d_out.values()))
                        });
                        let d_qkv = Matrix::new(d_qkv, attention.width()).put(&device);
                        qkv.gradient.add(d_qkv);
                    })
                });
                out
            }
            Kernels::Tensor => {
                let attention = reference::Attention::new(attention, self.compute, &device);
                self.by_definition(&qkv.value, &qkv.gradient, move |qkv| {
                    attention.forward(&qkv)
                })
            }
        }
    }

    /// A part of the decoder whose inside the way back may compute again.
    pub(crate) fn recomputable(&self, x: Var, part: impl Fn(&Tape<'a>, Var) -> Var + 'a) -> Var {
        if self.steps.is_none() || !self.compute.recomputes_layers {
            return part(self, x);
        }
        let (parameters, compute) = (self.parameters, self.compute);
        let inside = Self::forward_only(parameters, compute);
        let out = Var::new(part(&inside, Var::new(x.value.tensor())).into_tensor());
        self.push(|| {
            let d_out = out.gradient.clone();
            Box::new(move |gradients| {
                let inside = Self::recording(parameters, compute);
                let again = Var::new(x.value.into_tensor());
                let d_x = again.gradient.clone();
                let out = part(&inside, again);
                inside.backward(&out, d_out.take(), gradients);
                x.gradient.add(d_x.take());
            })
        });
        out
    }

    /// Two handles to one value, whose gradients add up.
    pub(crate) fn fork(&self, x: Var) -> (Var, Var) {
        let second = Var {
            value: x.value.clone(),
            gradient: x.gradient.clone(),
        };
        (x, second)
    }

    /// x + y.
    pub(crate) fn add(&self, x: Var, y: Var) -> Var {
        let (d_x, d_y) = (x.gradient.clone(), y.gradient.clone());
        let out = Var::new(x.into_tensor() + y.into_tensor());
        self.push(|| {
            let d_out = out.gradient.clone();
            Box::new(move |_| {
                let d_out = d_out.take();
                d_y.add(d_out.clone());
                d_x.add(d_out);
            })
        });
        out
    }

    /// A layer given by its definition in tensor operations, which the way back computes again.
    fn by_definition(
        &self,
        x: &Value,
        d_x: &Gradient,
        f: impl Fn(Tensor<2>) -> Tensor<2> + 'a,
    ) -> Var {
        let out = Var::new(f(x.tensor()));
        self.push(|| {
            let (x, d_x, d_out) = (x.clone(), d_x.clone(), out.gradient.clone());
            Box::new(move |_| d_x.add(reference::pull_back(f, x.into_tensor(), d_out.take())))
        });
        out
    }
}

/// Sums of the columns, [D, 1] as parameters are, after the matrix itself.
fn column_sums(kernels: Kernels, x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let d = x.dims()[1];
    match kernels {
        Kernels::Host => {
            let device = x.device();
            let matrix = Matrix::take(x);
            let sums = host::column_sums(matrix.values(), d);
            (matrix.put(&device), Matrix::new(sums, 1).put(&device))
        }
        Kernels::Tensor => {
            let sums = x.clone().sum_dim(0).reshape([d, 1]);
            (x, sums)
        }
    }
}

/// A parameter [K, 1] as a row [1, D], filled up with a value.
fn widened(parameter: Tensor<2>, d: usize, fill: f32) -> Tensor<2> {
    let k = parameter.dims()[0];
    let row = parameter.reshape([1, k]);
    match d - k {
        0 => row,
        n => {
            let rest = Tensor::full([1, n], fill, &row.device());
            Tensor::cat(vec![row, rest], 1)
        }
    }
}
