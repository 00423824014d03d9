use super::*;
use crate::config::ModelConfig;
use crate::parameters::Layout;

const VALUES: [f32; 3] = [0.5, -1.0, 2.0];
const GRADIENTS: [[f32; 3]; 3] = [[3.0, -4.0, 0.0], [0.1, 0.2, -0.3], [-30.0, 1.0, 7.0]];
const RATE: f64 = 0.01;

/// The first linear parameter and the embedding of a tiny model, to borrow what they say of decay.
fn shapes() -> [Parameter; 2] {
    let layout = Layout::new(&ModelConfig::tiny_olmo(2, 2, 2, 1, true));
    [0, 1].map(|idx: usize| layout.parameters[idx].clone())
}

/// What three updates make of [`VALUES`] with decay and without, written out in float64.
fn expected(spec: OptimizerSpec) -> ([[f64; 3]; 2], f64) {
    let mut result = [VALUES.map(f64::from); 2];
    let mut last_change = 0.0;
    let (mut m, mut v) = ([0.0; 3], [0.0; 3]);
    for (t, gradient) in (1..).zip(GRADIENTS) {
        // Both parameters get the same gradient.
        let norm = (2.0 * gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>()).sqrt();
        let clip = (spec.clip_norm / (norm + 1e-6)).min(1.0);
        let before = result;
        for i in 0..3 {
            let g = f64::from(gradient[i]) * clip;
            m[i] = spec.beta1 * m[i] + (1.0 - spec.beta1) * g;
            v[i] = spec.beta2 * v[i] + (1.0 - spec.beta2) * g * g;
            let m_hat = m[i] / (1.0 - spec.beta1.powi(t));
            let v_hat: f64 = v[i] / (1.0 - spec.beta2.powi(t));
            let step = RATE * m_hat / (v_hat.sqrt() + spec.eps);
            result[0][i] -= step;
            result[1][i] = result[1][i] * (1.0 - RATE * spec.weight_decay) - step;
        }
        last_change = (0..2)
            .flat_map(|p| (0..3).map(move |i| (p, i)))
            .map(|(p, i)| (result[p][i] - before[p][i]).powi(2))
            .sum::<f64>()
            .sqrt();
    }
    (result, last_change)
}

#[test]
fn agrees_with_the_formulas() {
    let spec = OptimizerSpec::default();
    let device = Device::flex();
    let shapes = shapes();
    let (expected, expected_change) = expected(spec);
    for kernels in [Kernels::Host, Kernels::Tensor] {
        let matrix = |values: [f32; 3]| Matrix::new(values.to_vec(), 3).put(&device);
        let mut optimizer = AdamW::new(spec, kernels).expect("in range");
        let mut parameters = vec![matrix(VALUES), matrix(VALUES)];
        let mut change = 0.0;
        for gradient in GRADIENTS {
            let mut gradients = vec![matrix(gradient), matrix(gradient)];
            let norm = optimizer.global_norm(&mut gradients, &device);
            change = optimizer.update(&shapes, &mut parameters, gradients, norm, RATE);
        }
        assert_eq!(optimizer.n_updates, 3);
        assert!(
            (change - expected_change).abs() < 1e-6,
            "{kernels:?}: {change}"
        );
        for (parameter, expected) in parameters.into_iter().zip(expected) {
            for (value, expected) in Matrix::take(parameter).values().iter().zip(expected) {
                let far = (f64::from(*value) - expected).abs();
                assert!(far < 1e-6, "{kernels:?}: {value} against {expected}");
            }
        }
    }
}

#[test]
fn refuses_constants_out_of_range() {
    let good = OptimizerSpec::default();
    for (key, spec) in [
        ("beta1", OptimizerSpec { beta1: 1.0, ..good }),
        (
            "beta2",
            OptimizerSpec {
                beta2: -0.1,
                ..good
            },
        ),
        ("eps", OptimizerSpec { eps: 0.0, ..good }),
        (
            "weight_decay",
            OptimizerSpec {
                weight_decay: f64::NAN,
                ..good
            },
        ),
        (
            "clip_norm",
            OptimizerSpec {
                clip_norm: 0.0,
                ..good
            },
        ),
    ] {
        let err = match AdamW::new(spec, Kernels::Host) {
            Ok(_) => panic!("`{key}` was taken"),
            Err(err) => err.to_string(),
        };
        assert!(err.contains(&format!("`{key}`")), "{err}");
    }
}
