//! What the program says of a site file before anything is started.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use expect_test::{Expect, expect};
use imprint_testkit::output;

const LIMIT: Duration = Duration::from_secs(60);

#[track_caller]
#[expect(
    clippy::needless_pass_by_value,
    reason = "an expectation reads best where it stands"
)]
fn refuses(dir: &Path, arguments: &[&str], want: Expect) {
    let output = output(
        Command::new(env!("CARGO_BIN_EXE_imprint"))
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("IMPRINT_DATA_DIR", dir.join("data"))
            // A file that is there will do: it is not started.
            .env("IMPRINT_TRAINER", env!("CARGO_BIN_EXE_imprint"))
            .current_dir(dir),
        LIMIT,
    );
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    want.assert_eq(&stderr);
    assert!(!dir.join("data").exists(), "nothing was started");
}

#[test]
fn a_bad_site_file_is_bad_input() {
    let dir = tempfile::tempdir().unwrap();
    let write = |text: &str| fs::write(dir.path().join("site.toml"), text).unwrap();
    for up in [&["up"][..], &["serve", "orchestrator"]] {
        let with = |more: &[&'static str]| [up, more].concat();
        refuses(
            dir.path(),
            &with(&["--site", "no-such.toml"]),
            expect![[r#"
                imprint: read the site file no-such.toml: No such file or directory (os error 2)
            "#]],
        );
        write("[executor.a]\nkind = 'slurm'\npartion = 'gpu'");
        refuses(
            dir.path(),
            &with(&["--site", "site.toml"]),
            expect![[r#"
                imprint: site.toml: `executor.a`: unknown field `partion`, expected one of `partition`, `account`, `qos`, `gres`, `constraint`, `time_limit`, `arguments`, `setup`, `template`, `requeue`, `requeue_exit`, `signal_seconds`, `max_jobs`, `name`, `poll_seconds`, `loopback`
            "#]],
        );
        write("[executor.a]\nkind = 'local'\nslots = 1");
        refuses(
            dir.path(),
            &with(&["--site", "site.toml", "--slots", "3"]),
            expect![[r#"
                imprint: --slots: site.toml has executors, and says their slots; leave --slots out
            "#]],
        );
    }
}

/// Trainers on other machines would otherwise look for the services on their own.
#[test]
fn a_cluster_is_given_no_loopback_address() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("site.toml"), "[executor.a]\nkind = 'slurm'").unwrap();
    let serve = ["serve", "orchestrator", "--site", "site.toml"];
    let with = |more: &[&'static str]| [&serve, more].concat();
    refuses(
        dir.path(),
        &["up", "--site", "site.toml"],
        expect![[r#"
            imprint: `imprint up` serves this machine only, and trainers of the executor `a` run on others: start the services with `imprint serve` (docs/deploy.md), or say `loopback = true` in its table of the site file if all its nodes are this machine
        "#]],
    );
    refuses(
        dir.path(),
        &serve,
        expect![[r#"
            imprint: --advertise (or IMPRINT_ADVERTISE): trainers of the executor `a` run on other machines, and http://127.0.0.1:7432 leads them to themselves: name the address at which they reach this one, such as https://lab.example:7432 (docs/deploy.md), or say `loopback = true` in the executor's table of the site file if all its nodes are this machine
        "#]],
    );
    // It listens everywhere, and has no name.
    refuses(
        dir.path(),
        &with(&["--listen", "0.0.0.0:7432"]),
        expect![[r#"
            imprint: --advertise (or IMPRINT_ADVERTISE): trainers of the executor `a` run on other machines, and http://0.0.0.0:7432 leads them to themselves: name the address at which they reach this one, such as https://lab.example:7432 (docs/deploy.md), or say `loopback = true` in the executor's table of the site file if all its nodes are this machine
        "#]],
    );
    refuses(
        dir.path(),
        &with(&[
            "--advertise",
            "https://lab.example:7432",
            "--metrics",
            "https://localhost:7431",
        ]),
        expect![[r#"
            imprint: --metrics (or IMPRINT_METRICS): trainers of the executor `a` run on other machines, and https://localhost:7431 leads them to themselves: name the address at which they reach this one, such as https://lab.example:7431 (docs/deploy.md), or say `loopback = true` in the executor's table of the site file if all its nodes are this machine
        "#]],
    );
}
