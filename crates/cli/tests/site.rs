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
                imprint: site.toml: `executor.a`: unknown field `partion`, expected one of `partition`, `account`, `qos`, `gres`, `constraint`, `time_limit`, `arguments`, `setup`, `template`, `requeue`, `requeue_exit`, `signal_seconds`, `max_jobs`, `name`, `poll_seconds`
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
