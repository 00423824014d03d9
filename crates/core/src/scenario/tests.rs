use super::*;

fn facts(n: usize, with_paraphrases: usize) -> Vec<Fact> {
    (0..n)
        .map(|i| Fact {
            subject: None,
            passage: format!("passage {i}"),
            paraphrases: vec![String::new(); if i < with_paraphrases { 9 } else { 0 }],
            probes: Vec::new(),
        })
        .collect()
}

fn built_in(name: &str, facts: &[Fact]) -> Result<Schedule, ScenarioError> {
    Scenario::built_in(name, facts, &InjectionDefaults::default())
        .expect("built in")
        .and_then(|s| s.schedule(facts))
}

#[test]
fn the_paper_layout() {
    let schedule = built_in("paper", &facts(130, 40)).unwrap();
    assert_eq!(schedule.injections().len(), 40 * 10 + 40 * 10 + 40);
    assert_eq!(schedule.at(0).len(), 120);
    let at_300 = schedule.at(300);
    assert_eq!(at_300.len(), 80);
    assert_eq!(at_300[0].text, InjectionText::Paraphrase(2));
    assert_eq!(at_300[0].exposure, 3);
    assert_eq!(at_300[79].text, InjectionText::Original);
    assert_eq!(schedule.last_step(), Some(900));
    assert_eq!(schedule.arm_of(FactId(125)), None);
    assert_eq!(schedule.arm_of(FactId(85)), Some("once"));
}

#[test]
fn single_scenarios_show_the_same_facts() {
    let facts = facts(12, 8);
    for name in ["duplication", "paraphrase", "once"] {
        let shown = built_in(name, &facts).unwrap().injected_facts();
        assert_eq!(shown, (0..8).map(FactId).collect(), "{name}");
    }
    assert!(built_in("none", &facts).unwrap().injections().is_empty());
}

#[test]
fn stagger_deals_facts_to_groups() {
    let scenario = Scenario {
        arm: vec![Arm {
            name: "a".into(),
            facts: "0..5".parse().unwrap(),
            text: ArmText::Original,
            steps: ArmSteps::every(10, 20, 2),
            stagger: Stagger {
                groups: 2,
                every: 7,
            },
            placement: Placement::RowHead,
        }],
    };
    let steps: Vec<(u32, u32)> = scenario
        .schedule(&facts(5, 0))
        .unwrap()
        .injections()
        .iter()
        .map(|i| (i.step, i.fact.0))
        .collect();
    assert_eq!(
        steps,
        [
            (10, 0),
            (10, 2),
            (10, 4),
            (17, 1),
            (17, 3),
            (30, 0),
            (30, 2),
            (30, 4),
            (37, 1),
            (37, 3)
        ]
    );
}

#[track_caller]
fn refuses(toml: &str, n_facts: usize, want: &str) {
    let scenario: Scenario = toml::from_str(toml).unwrap();
    let got = scenario
        .schedule(&facts(n_facts, 2))
        .unwrap_err()
        .to_string();
    assert!(got.contains(want), "{got}");
}

#[test]
fn impossible_scenarios_are_refused_by_name() {
    let arm = |name: &str, range: &str, text: &str, steps: &str| {
        format!("[[arm]]\nname='{name}'\nfacts='{range}'\ntext='{text}'\nsteps={steps}\n")
    };
    refuses(
        &arm("a", "0..9", "original", "[0]"),
        4,
        "arm `a` names facts 0..9, but the facts file has 4",
    );
    let overlap = arm("a", "0..2", "original", "[0]") + &arm("b", "1..3", "original", "[0]");
    refuses(&overlap, 4, "fact 1 is in the arms `a` and `b`");
    let eleven = "{start=0, every=1, count=11}";
    refuses(
        &arm("a", "0..1", "paraphrases", eleven),
        4,
        "which needs 10 paraphrases; it has 9",
    );
    refuses(&arm("a", "0..1", "original", "[5, 5]"), 4, "must ascend");
    assert!(matches!(
        built_in("paper", &facts(12, 8)),
        Err(ScenarioError::NotThePaperLayout { n_facts: 12 })
    ));
}
