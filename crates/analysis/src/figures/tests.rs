use expect_test::expect;
use resvg::tiny_skia::Pixmap;

use super::*;
use crate::run::{Control, RunData};
use crate::settings::Settings;
use crate::summary::analyse;
use crate::synthetic::{self, noise};

/// A run that looks like one: staggered injections, jumps that fall back, drift and noise.
fn lifelike(arm: &str, batch_size: u32, n_exposures: usize, salt: u64) -> RunData {
    const GROUPS: [&[u32]; 3] = [
        &[0, 20, 40, 60, 80],
        &[6, 26, 46, 66, 86],
        &[12, 32, 52, 72, 92],
    ];
    let exposures: Vec<&'static [u32]> = (0..12)
        .map(|f| &GROUPS[f % 3][..n_exposures])
        .chain([[].as_slice(); 6])
        .collect();
    let last = 80 + 12 + 60;
    let steps = (0..=260).filter(|t| *t <= last || t % 10 == 0);
    let mut run = synthetic::run(&exposures, steps, |at| {
        let size = [2.1, 1.5, 0.4][at.depth.index()] * (1.0 + 4.0 / f64::from(batch_size));
        let share = match at.control {
            Control::Own => 1.0,
            Control::Swap => 0.35,
        };
        let gained: f64 = (0..n_exposures)
            .filter_map(|i| Some((i, at.since(i)?)))
            .filter(|(_, since)| *since > 0)
            .map(|(i, since)| {
                let since = since as f64;
                let rise = 1.0 - (-since / 2.0).exp();
                let kept = 1.0 - 0.3 * (1.0 + since / 3.0).log10();
                size * share / (1.0 + 0.7 * i as f64) * rise * kept
            })
            .sum();
        gained - 8.0 - 0.001 * f64::from(at.step)
            + 0.15 * noise(&at, salt)
            + 0.1 * f64::from(at.fact % 4) * gained
    });
    for fact in &mut run.facts {
        fact.arm = fact.arm.take().map(|_| arm.to_owned());
    }
    run.batch_size = batch_size;
    run
}

fn matrix() -> Vec<RunData> {
    let arms = [("paraphrase", 5), ("duplication", 5), ("once", 1)];
    let of_batch = |batch| {
        arms.into_iter()
            .map(move |(arm, n)| lifelike(arm, batch, n, u64::from(batch) + n as u64))
    };
    [32, 4].into_iter().flat_map(of_batch).collect()
}

/// The picture of an SVG; most of it is paper, and some of it is not.
#[track_caller]
fn check_picture(svg: &str) -> Pixmap {
    let png = to_png(svg, 2.0).expect("a picture");
    let picture = Pixmap::decode_png(&png).expect("a PNG");
    let n_inked = picture.pixels().iter().filter(|p| p.green() < 200).count();
    let share = n_inked as f64 / picture.pixels().len() as f64;
    assert!(
        (0.005..0.3).contains(&share),
        "{share} of the picture is inked"
    );
    picture
}

#[test]
fn training_dynamics_draw() {
    let runs = matrix();
    let panels: Vec<_> = runs
        .iter()
        .map(|r| DynamicsPanel::new(r, r.arms()[0]))
        .collect();
    let svg = training_dynamics(&panels, 3).expect("a figure");
    let picture = check_picture(&svg);
    assert_eq!(picture.width(), 2 * 678);
    assert!(svg.contains("paraphrase, batch 32") && svg.contains("held out (null)"));
    let one = training_dynamics(&panels[..1], 3).expect("a figure");
    assert!(check_picture(&one).width() < 800);
}

#[test]
fn retainability_draws() {
    let runs = matrix();
    let mut panels: Vec<_> = runs
        .iter()
        .map(|r| RetainabilityPanel::new(&analyse(r, &settings()), r.arms()[0]))
        .collect();
    let svg = retainability(&panels, 3).expect("a figure");
    check_picture(&svg);
    // A single panel is larger.
    panels.truncate(1);
    check_picture(&retainability(&panels, 1).expect("a figure"));
}

#[test]
fn the_numbers_drawn_come_as_csv() {
    let run = synthetic::run(&[&[1], &[2], &[]], 0..=4, |at| match at.since(0) {
        Some(since @ 1..) => f64::from(at.fact + 1) + since as f64,
        _ => 0.0,
    });
    let mut panel = DynamicsPanel::new(&run, "arm");
    panel.lines.truncate(3);
    panel.title = "a, \"b\"".to_owned();
    expect![[r#"
        panel,depth,series,step,mean_nats,se_nats
        "a, ""b""",mem,null,0,0.0,
        "a, ""b""",mem,null,1,0.0,
        "a, ""b""",mem,null,2,0.0,
        "a, ""b""",mem,swap,0,0.0,0.0
        "a, ""b""",mem,swap,1,2.5,0.5
        "a, ""b""",mem,swap,2,3.5,0.5
        "a, ""b""",mem,own,0,0.0,0.0
        "a, ""b""",mem,own,1,2.5,0.5
        "a, ""b""",mem,own,2,3.5,0.5
    "#]]
    .assert_eq(&training_dynamics_csv(&[panel]));

    let run = synthetic::run(&[&[0], &[]], 0..=8, |at| match at.since(0) {
        Some(1) => 2.0,
        Some(since @ 2..) => 2.0 / (since - 1) as f64,
        _ => 0.0,
    });
    let mut panel = RetainabilityPanel::new(&analyse(&run, &settings()), "arm");
    panel.lines.truncate(1);
    expect![[r#"
        panel,depth,t_steps,r,fit,fit_r,fit_a,fit_r2
        "arm, batch 8",mem,1.0,1.0,"ratio of means, null-subtracted, log-binned",0.8932176885348357,0.9952468941510207,0.9251006147419554
        "arm, batch 8",mem,2.0,0.5,"ratio of means, null-subtracted, log-binned",0.5936185203039632,0.9952468941510207,0.9251006147419554
        "arm, batch 8",mem,3.0,0.3333333333333333,"ratio of means, null-subtracted, log-binned",0.41836424164165364,0.9952468941510207,0.9251006147419554
        "arm, batch 8",mem,4.0,0.25,"ratio of means, null-subtracted, log-binned",0.2940193520730907,0.9952468941510207,0.9251006147419554
        "arm, batch 8",mem,5.477225575051662,0.18333333333333335,"ratio of means, null-subtracted, log-binned",0.1581675180127342,0.9952468941510207,0.9251006147419554
        "arm, batch 8",mem,7.0,0.14285714285714285,"ratio of means, null-subtracted, log-binned",0.052136488957531646,0.9952468941510207,0.9251006147419554
    "#]].assert_eq(&retainability_csv(&[panel]));
}

#[test]
fn nothing_to_draw_is_an_error() {
    let run = synthetic::run(&[&[0], &[]], 0..=8, |_| -1.0);
    let empty = DynamicsPanel::new(&run, "another arm");
    assert!(matches!(training_dynamics(&[empty], 1), Err(Error::Empty)));
    assert!(matches!(training_dynamics(&[], 1), Err(Error::Empty)));
    // Without any gain nothing is retained.
    let flat = RetainabilityPanel::new(&analyse(&run, &settings()), "arm");
    assert!(matches!(retainability(&[flat], 1), Err(Error::Empty)));
    assert!(matches!(to_png("<svg", 1.0), Err(Error::Svg(_))));
    let svg = r#"<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>"#;
    assert!(matches!(to_png(svg, 0.0), Err(Error::Size { .. })));
}

#[test]
fn titles_are_escaped_and_cut() {
    let run = synthetic::run(&[&[0], &[]], 0..=8, |at| f64::from(at.step));
    let mut panel = DynamicsPanel::new(&run, "arm");
    panel.title = format!("<&{}", "long ".repeat(30));
    let svg = training_dynamics(&[panel], 1).expect("a figure");
    assert!(svg.contains("&lt;&amp;long") && svg.contains("…</text>"));
    check_picture(&svg);
}

fn settings() -> Settings {
    Settings {
        window_steps: 20,
        n_bootstrap: 0,
        ..Settings::default()
    }
}
