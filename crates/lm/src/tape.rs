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

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::parameters::ParameterIdx;
use crate::{host, reference};

/// What runs the layers that have no parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// Loops over the tensors' own memory.
    Host,
    /// Tensor operations.
    Tensor,
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
}

impl Tokens {
    pub(crate) fn new(ids: Vec<u32>, device: &Device) -> Self {
        // In bounds of an i32: ids are checked against the vocabulary.
        let signed: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let n = signed.len();
        let tensor = Tensor::from_data(TensorData::new(signed, [n]), device);
        Self { ids, tensor }
    }

    pub(crate) fn narrow(&self, from: usize, n: usize) -> Self {
        Self {
            ids: self.ids[from..from + n].to_vec(),
            tensor: self.tensor.clone().narrow(0, from, n),
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
    kernels: Kernels,
    /// `None` where no gradients are wanted.
    steps: Option<RefCell<Vec<BackwardStep<'a>>>>,
}

impl<'a> Tape<'a> {
    /// A pass that can be walked back.
    pub(crate) fn recording(parameters: &'a [Tensor<2>], kernels: Kernels) -> Self {
        Self {
            parameters,
            kernels,
            steps: Some(RefCell::default()),
        }
    }

    /// A pass that keeps nothing.
    pub(crate) fn forward_only(parameters: &'a [Tensor<2>], kernels: Kernels) -> Self {
        Self {
            parameters,
            kernels,
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
            let (gradient, kernels) = (out.gradient.clone(), self.kernels);
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

    /// x · Wᵀ.
    ///
    /// # Shapes
    /// `x`: [N, in], the parameter: [out, in]; returns [N, out].
    pub(crate) fn linear(&self, idx: ParameterIdx, x: Var) -> Var {
        let weight = &self.parameters[idx];
        let out = Var::new(x.value.tensor().matmul(weight.clone().transpose()));
        self.push(|| {
            let gradient = out.gradient.clone();
            Box::new(move |gradients| {
                let d_out = gradient.take();
                gradients.add(idx, d_out.clone().transpose().matmul(x.value.into_tensor()));
                x.gradient.add(d_out.matmul(weight.clone()));
            })
        });
        out
    }

    /// LayerNorm without weight or bias.
    pub(crate) fn layer_norm(&self, x: &Var, eps: f32) -> Var {
        match self.kernels {
            Kernels::Host => {
                let tensor = x.value.tensor();
                let (d, device) = (tensor.dims()[1], tensor.device());
                // A copy: the residual stream goes on with `x`.
                let mut matrix = Matrix::take(tensor);
                let rstd = host::layer_norm(matrix.values_mut(), d, eps);
                let out = Var::new(matrix.put(&device));
                self.push(|| {
                    let (y, d_out) = (out.value.clone(), out.gradient.clone());
                    let d_x = x.gradient.clone();
                    Box::new(move |_| {
                        let mut gradient = Matrix::take(d_out.take());
                        y.read(|y| {
                            host::layer_norm_backward(y, &rstd, gradient.values_mut(), d);
                        });
                        d_x.add(gradient.put(&device));
                    })
                });
                out
            }
            Kernels::Tensor => self.by_definition(&x.value, &x.gradient, move |x| {
                reference::layer_norm(x, eps)
            }),
        }
    }

    /// silu(gate) · up of `[gate; up]`.
    ///
    /// # Shapes
    /// [N, 2F] → [N, F].
    pub(crate) fn swiglu(&self, gate_up: Var) -> Var {
        match self.kernels {
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

    /// Causal attention with rotary positions over `[q; k; v]`.
    ///
    /// # Shapes
    /// [N, 3D] → [N, D].
    pub(crate) fn attention(&self, qkv: Var, attention: host::Attention<'a>) -> Var {
        let tensor = qkv.value.tensor();
        let (d, device) = (tensor.dims()[1] / 3, tensor.device());
        drop(tensor);
        match self.kernels {
            Kernels::Host => {
                let (out, log_sums) = qkv.value.read(|qkv| attention.forward(qkv));
                let out = Var::new(Matrix::new(out, d).put(&device));
                self.push(|| {
                    let (value, d_out) = (out.value.clone(), out.gradient.clone());
                    Box::new(move |_| {
                        let d_out = Matrix::take(d_out.take());
                        let d_qkv = qkv.value.read(|qkv| {
                            value
                                .read(|out| attention.backward(qkv, out, &log_sums, d_out.values()))
                        });
                        qkv.gradient.add(Matrix::new(d_qkv, 3 * d).put(&device));
                    })
                });
                out
            }
            Kernels::Tensor => {
                let attention = reference::Attention::new(attention, &device);
                self.by_definition(&qkv.value, &qkv.gradient, move |qkv| {
                    attention.forward(&qkv)
                })
            }
        }
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
