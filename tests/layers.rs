//! Holds the arrows between crates: they only point down, and roles never import each other.

use std::collections::BTreeSet;

/// What each crate may use of the workspace in its normal dependencies.
const MAY_USE: &[(&str, &[&str])] = &[
    ("imprint-core", &[]),
    ("imprint-proto", &["core"]),
    ("imprint-spool", &["proto", "telemetry"]),
    ("imprint-store", &["core"]),
    ("imprint-data", &["core"]),
    ("imprint-lm", &["core"]),
    ("imprint-analysis", &["core"]),
    ("imprint-world", &["core", "data"]),
    ("imprint-telemetry", &[]),
    ("imprint-access", &["proto", "store"]),
    (
        "imprint-metrics",
        &["access", "core", "proto", "store", "telemetry"],
    ),
    (
        "imprint-orchestrator",
        &["access", "core", "data", "proto", "store", "telemetry"],
    ),
    (
        "imprint-trainer",
        &["core", "data", "lm", "proto", "spool", "telemetry"],
    ),
    (
        "imprint-cli",
        &[
            "access",
            "core",
            "data",
            "proto",
            "spool",
            "store",
            "analysis",
            "world",
            "telemetry",
            "metrics",
            "orchestrator",
        ],
    ),
    ("imprint-testkit", &["core", "store"]),
    // The end-to-end tests look from outside: through the protocol, the database and the programs;
    // the simulated trainer is one more program.
    (
        "imprint-e2e",
        &["core", "proto", "spool", "testkit", "world"],
    ),
    ("xtask", &[]),
];

/// Crates that only some may know: (dependency, the crates that may).
const ONLY_IN: &[(&str, &[&str])] = &[
    ("burn", &["imprint-lm"]),
    ("sqlx", &["imprint-store", "imprint-testkit", "imprint-e2e"]),
    ("rustls", &["imprint-access"]),
    ("ring", &["imprint-access"]),
    ("tokenizers", &["imprint-data"]),
    ("plotters", &["imprint-analysis"]),
    ("tracing-subscriber", &["imprint-telemetry", "imprint-e2e"]),
    (
        "prometheus-client",
        &[
            "imprint-telemetry",
            "imprint-metrics",
            "imprint-orchestrator",
        ],
    ),
];

fn workspace() -> cargo_metadata::Metadata {
    cargo_metadata::MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .expect("cargo metadata of the workspace")
}

fn normal_dependencies(package: &cargo_metadata::Package) -> BTreeSet<&str> {
    package
        .dependencies
        .iter()
        .filter(|d| d.kind == cargo_metadata::DependencyKind::Normal)
        .map(|d| d.name.as_str())
        .collect()
}

#[test]
fn arrows_point_down() {
    let metadata = workspace();
    let known: BTreeSet<&str> = MAY_USE.iter().map(|(name, _)| *name).collect();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let (_, allowed) = MAY_USE
            .iter()
            .find(|(n, _)| *n == name)
            .unwrap_or_else(|| panic!("{name} has no layer: give it one in tests/layers.rs"));
        let allowed: BTreeSet<String> = allowed.iter().map(|n| format!("imprint-{n}")).collect();
        for dependency in normal_dependencies(package) {
            assert!(
                !known.contains(dependency) || allowed.contains(dependency),
                "{name} must not use {dependency}"
            );
        }
    }
}

#[test]
fn heavy_dependencies_have_one_home() {
    for package in workspace().workspace_packages() {
        for dependency in normal_dependencies(package) {
            let home = ONLY_IN.iter().find(|(n, _)| *n == dependency);
            assert!(
                home.is_none_or(|(_, may)| may.contains(&package.name.as_str())),
                "{} must not use {dependency}",
                package.name
            );
        }
    }
}
