//! AdamW with decoupled weight decay, over all parameters of a model.

use burn::tensor::{Device, Tensor};
use imprint_core::OptimizerSpec;

use crate::Error;
use crate::host::{self, AdamWStep};
use crate::parameters::Parameter;
use crate::tape::{Kernels, Matrix};

/// The optimizer: its constants, how many updates it has made, and its moments.
pub(crate) struct AdamW {
    spec: OptimizerSpec,
    pub(crate) kernels: Kernels,
    pub(crate) n_updates: u64,
    /// One for each parameter; `None` until the first update.
    pub(crate) moments: Option<Vec<Moments>>,
}

/// Running means of a parameter's gradient and of its square.
#[derive(Clone)]
pub(crate) struct Moments {
    pub(crate) exp_avg: Tensor<2>,
    pub(crate) exp_avg_sq: Tensor<2>,
}

impl AdamW {
    /// An optimizer that has not made an update.
    ///
    /// # Errors
    /// When a constant is out of its range.
    pub(crate) fn new(spec: OptimizerSpec, kernels: Kernels) -> Result<Self, Error> {
        check(&spec)?;
        Ok(Self {
            spec,
            kernels,
            n_updates: 0,
            moments: None,
        })
    }

    /// Sets the largest norm of a gradient, for the updates to come.
    ///
    /// # Errors
    /// When it is not greater than 0.
    pub(crate) fn set_clip_norm(&mut self, clip_norm: f64) -> Result<(), Error> {
        let spec = OptimizerSpec {
            clip_norm,
            ..self.spec
        };
        check(&spec)?;
        self.spec = spec;
        Ok(())
    }

    /// The global L2 norm of gradients, summed in float64.
    pub(crate) fn global_norm(&self, gradients: &mut [Tensor<2>], device: &Device) -> f64 {
        let squares: f64 = match self.kernels {
            Kernels::Host => (gradients.iter_mut())
                .map(|gradient| {
                    let taken = std::mem::replace(gradient, Tensor::empty([1, 1], device));
                    let matrix = Matrix::take(taken);
                    let squares = host::sum_of_squares(matrix.values());
                    *gradient = matrix.put(device);
                    squares
                })
                .sum(),
            Kernels::Tensor => sum_in_f64(
                gradients
                    .iter()
                    .map(|gradient| gradient.clone().square().sum()),
            ),
        };
        squares.sqrt()
    }

    /// Makes one update in place; returns the global L2 norm of the parameters' change.
    ///
    /// # Source
    /// PyTorch's `AdamW` and `clip_grad_norm_`: coefficient min(1, clip / (norm + 1e-6)),
    /// decay before the step, ε outside the root.
    pub(crate) fn update(
        &mut self,
        shapes: &[Parameter],
        parameters: &mut Vec<Tensor<2>>,
        gradients: Vec<Tensor<2>>,
        grad_norm: f64,
        learning_rate: f64,
    ) -> f64 {
        self.n_updates += 1;
        let t = self.n_updates as f64;
        let spec = self.spec;
        let step = AdamWStep {
            clip: (spec.clip_norm / (grad_norm + 1e-6)).min(1.0) as f32,
            keep: 1.0,
            beta2: spec.beta2 as f32,
            one_minus_beta1: (1.0 - spec.beta1) as f32,
            one_minus_beta2: (1.0 - spec.beta2) as f32,
            correction2_sqrt: (1.0 - spec.beta2.powf(t)).sqrt() as f32,
            eps: spec.eps as f32,
            step_size: (learning_rate / (1.0 - spec.beta1.powf(t))) as f32,
        };
        let moments = self.moments.take().unwrap_or_else(|| {
            let zero = |p: &Tensor<2>| Tensor::zeros(p.dims(), &p.device());
            (parameters.iter())
                .map(|p| Moments {
                    exp_avg: zero(p),
                    exp_avg_sq: zero(p),
                })
                .collect()
        });
        let mut changes = Changes::default();
        let before = std::mem::take(parameters).into_iter().zip(moments);
        let (after, moments) = (before.zip(gradients).zip(shapes))
            .map(|(((parameter, moments), gradient), shape)| {
                let decay = if shape.decayed {
                    spec.weight_decay
                } else {
                    0.0
                };
                let step = AdamWStep {
                    keep: (1.0 - learning_rate * decay) as f32,
                    ..step
                };
                match self.kernels {
                    Kernels::Host => on_host(step, parameter, moments, gradient, &mut changes),
                    Kernels::Tensor => on_device(step, parameter, moments, gradient, &mut changes),
                }
            })
            .unzip();
        *parameters = after;
        self.moments = Some(moments);
        changes.norm()
    }
}

fn check(spec: &OptimizerSpec) -> Result<(), Error> {
    (spec.check()).map_err(|(key, reason)| Error::Optimizer { key, reason })
}

/// Σ (change)² of the parameters so far.
#[derive(Default)]
struct Changes {
    squares: f64,
    on_device: Vec<Tensor<1>>,
}

impl Changes {
    fn norm(self) -> f64 {
        (self.squares + sum_in_f64(self.on_device.into_iter())).sqrt()
    }
}

/// The sum of single values, read back together.
fn sum_in_f64(values: impl Iterator<Item = Tensor<1>>) -> f64 {
    let values: Vec<_> = values.collect();
    if values.is_empty() {
        return 0.0;
    }
    let values = Tensor::cat(values, 0).into_data();
    values.iter::<f64>().sum()
}

fn on_host(
    step: AdamWStep,
    parameter: Tensor<2>,
    moments: Moments,
    gradient: Tensor<2>,
    changes: &mut Changes,
) -> (Tensor<2>, Moments) {
    let device = parameter.device();
    let mut parameter = Matrix::take(parameter);
    let mut exp_avg = Matrix::take(moments.exp_avg);
    let mut exp_avg_sq = Matrix::take(moments.exp_avg_sq);
    changes.squares += host::adamw(
        step,
        parameter.values_mut(),
        exp_avg.values_mut(),
        exp_avg_sq.values_mut(),
        Matrix::take(gradient).values(),
    );
    let moments = Moments {
        exp_avg: exp_avg.put(&device),
        exp_avg_sq: exp_avg_sq.put(&device),
    };
    (parameter.put(&device), moments)
}

fn on_device(
    step: AdamWStep,
    parameter: Tensor<2>,
    moments: Moments,
    gradient: Tensor<2>,
    changes: &mut Changes,
) -> (Tensor<2>, Moments) {
    let gradient = gradient * step.clip;
    let ahead = gradient.clone() - moments.exp_avg.clone();
    let exp_avg = moments.exp_avg + ahead * step.one_minus_beta1;
    let exp_avg_sq = moments.exp_avg_sq * step.beta2 + gradient.square() * step.one_minus_beta2;
    let denominator = exp_avg_sq.clone().sqrt() / step.correction2_sqrt + step.eps;
    let after = parameter.clone() * step.keep - exp_avg.clone() / denominator * step.step_size;
    changes
        .on_device
        .push((after.clone() - parameter).square().sum());
    let moments = Moments {
        exp_avg,
        exp_avg_sq,
    };
    (after, moments)
}

#[cfg(test)]
mod tests;
