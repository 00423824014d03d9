use proptest::prelude::*;

use super::*;

#[track_caller]
fn check(differences: &[f64], w_plus: f64, p_value: f64) {
    let found = signed_rank_greater(differences);
    assert_eq!(found.w_plus, w_plus);
    assert!((found.p_value - p_value).abs() < 1e-12, "{found:?}");
    assert!(found.exact);
}

#[test]
fn small_samples_have_their_tabled_probabilities() {
    check(&[1.0, 2.0, 3.0, 4.0, 5.0], 15.0, 1.0 / 32.0);
    check(&[-1.0, -2.0, -3.0], 0.0, 1.0);
    // n = 10, W− = 10: the 5 % point of the tables, p = 43/1024.
    let mut tabled: Vec<f64> = (1..=10).map(f64::from).collect();
    tabled[9] = -10.0;
    check(&tabled, 45.0, 43.0 / 1024.0);
    // Hollander and Wolfe's depression scores of nine patients, in hundredths: V = 40, p = 10/512.
    let before = [183.0, 50.0, 162.0, 248.0, 168.0, 188.0, 155.0, 306.0, 130.0];
    let after = [87.8, 64.7, 59.8, 205.0, 106.0, 129.0, 106.0, 314.0, 129.0];
    let differences: Vec<f64> = std::iter::zip(before, after).map(|(b, a)| b - a).collect();
    check(&differences, 40.0, 10.0 / 512.0);
}

#[test]
fn ties_share_ranks_and_zeros_do_not_count() {
    // Ranks 1.5 and 1.5: of four signings three reach 1.5.
    check(&[1.0, -1.0], 1.5, 0.75);
    check(&[0.0, 1.0, 1.0, f64::NAN], 3.0, 0.25);
    check(&[], 0.0, 1.0);
    check(&[0.0], 0.0, 1.0);
    // n = 20 of one sign: far below the 0.001 that tests ask for.
    check(&[2.0; 20], 210.0, 1.0 / f64::from(1 << 20));
}

#[test]
fn large_samples_are_approximated_well() {
    let differences: Vec<f64> = (1..=MAX_EXACT as i32)
        .map(|i| f64::from(if i % 5 < 2 { -i } else { i }))
        .collect();
    let ranks: Vec<usize> = (1..=MAX_EXACT).map(|i| 2 * i).collect();
    let w: usize = std::iter::zip(&differences, &ranks)
        .filter(|(d, _)| **d > 0.0)
        .map(|(_, r)| r)
        .sum();
    let (exact, normal) = (exact_tail(&ranks, w), normal_tail(&ranks, w));
    assert!((exact - normal).abs() < 0.05 * exact, "{exact} {normal}");
    let more = [differences.as_slice(), &[1000.0]].concat();
    assert!(!signed_rank_greater(&more).exact);
}

#[test]
fn the_complementary_error_function_is_as_tabled() {
    for (x, expected) in [
        (0.0, 1.0),
        (0.5, 0.479_500_122_186_953_5),
        (1.0, 0.157_299_207_050_285_1),
        (1.999_999, 0.004_677_755_647),
        (2.0, 0.004_677_734_981_047_3),
        (3.0, 2.209_049_699_858_544e-5),
        (-1.0, 1.842_700_792_949_715),
    ] {
        let found = erfc(x);
        assert!(
            (found - expected).abs() <= 1e-9 * expected,
            "erfc({x}) = {found}"
        );
    }
}

proptest! {
    #[test]
    fn the_tail_is_the_share_of_all_signings(values in prop::collection::vec(-4..=4_i8, 0..10)) {
        let differences: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
        let found = signed_rank_greater(&differences);
        let n = found.n as u32;
        let sizes: Vec<f64> =
            differences.iter().filter(|d| **d != 0.0).map(|d| d.abs()).collect();
        let as_extreme = (0..1_u32 << n)
            .filter(|signs| {
                let signed: Vec<f64> = sizes
                    .iter()
                    .enumerate()
                    .map(|(i, v)| if signs >> i & 1 == 1 { *v } else { -v })
                    .collect();
                signed_rank_greater(&signed).w_plus >= found.w_plus
            })
            .count();
        let share = as_extreme as f64 / f64::from(1_u32 << n);
        prop_assert!((found.p_value - share).abs() < 1e-12);
    }
}
