use std::os::unix::fs::symlink;

use expect_test::{Expect, expect};
use tempfile::TempDir;

use imprint_telemetry::one_line;

use super::*;

/// A site with the roots `data` and `models` in a directory.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for root in ["data", "models"] {
            fs::create_dir(dir.path().join(root)).unwrap();
        }
        fs::write(dir.path().join("data/part.npy"), "tokens").unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The site that a file says; `DIR` in it is this place's directory.
    fn site(&self, text: &str) -> Result<Site, SiteError> {
        let file = self.path("site.toml");
        fs::write(&file, self.with_dir(text)).unwrap();
        Site::read(&file, 4)
    }

    fn with_dir(&self, text: &str) -> String {
        text.replace("DIR", &self.0.path().display().to_string())
    }

    fn without_dir(&self, text: &str) -> String {
        text.replace(&self.0.path().display().to_string(), "DIR")
    }

    fn roots(&self, only: bool) -> Roots {
        let roots =
            format!("[roots]\ndata = 'DIR/data'\nmodels = 'DIR/models'\nonly_roots = {only}");
        self.site(&roots).unwrap().roots
    }
}

/// The site file that `docs/site.md` shows.
fn documented() -> Vec<String> {
    let text = include_str!("../../../../docs/site.md");
    let blocks = text.split("```toml\n").skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn the_documented_files_are_site_files() {
    let place = Place::new();
    fs::write(place.path("job.sh"), "#!/bin/sh\n{{trainer}}\n").unwrap();
    let blocks = documented();
    assert!(blocks.len() >= 3, "{}", blocks.len());
    for block in &blocks {
        let here = block
            .replace("/shared/data", "DIR/data")
            .replace("/shared/models", "DIR/models");
        if let Err(err) = place.site(&here) {
            panic!("{err}\n{block}");
        }
    }
}

#[test]
fn every_key_is_read() {
    let place = Place::new();
    fs::write(place.path("job.sh"), "#!/bin/sh\n{{trainer}}\n").unwrap();
    let site = place
        .site(
            r#"
            default = "a100"
            [roots]
            data = "DIR/data"
            only_roots = true
            [executor.cpu]
            kind = "local"
            slots = 2
            [executor.gpus]
            kind = "local"
            gpus = [0, 3]
            [executor.a100]
            kind = "slurm"
            stage_dir = "/local/scratch/imprint"
            stage_gib = 200
            partition = "gpu"
            account = "lab"
            qos = "low"
            gres = "gpu:a100:1"
            constraint = "nvlink"
            time_limit = "1-02:03:04"
            arguments = ["--mem=64G"]
            template = "job.sh"
            requeue = false
            requeue_exit = 99
            signal_seconds = 300
            max_jobs = 8
            name = "lab-imprint"
            poll_seconds = 30
            loopback = true
            [executor.plain]
            kind = "slurm"
            time_limit = 90
            setup = ["module load cuda/12"]
            [limits]
            runs_per_experiment = 32
            "#,
        )
        .unwrap();
    assert!(site.roots.only);
    assert_eq!(site.roots.directories["data"], place.path("data"));
    assert_eq!(
        site.executors["gpus"],
        ExecutorConfig::Local(LocalConfig {
            slots: 2,
            gpus: vec![0, 3]
        })
    );
    let stage = Stage {
        dir: "/local/scratch/imprint".into(),
        gib: 200.0,
    };
    assert_eq!(site.stages, BTreeMap::from([("a100".to_owned(), stage)]));
    let ExecutorConfig::Slurm(a100) = &site.executors["a100"] else {
        panic!("{site:?}");
    };
    let a_day = Duration::from_secs(24 * 3600);
    let rest = Duration::from_secs(2 * 3600 + 3 * 60 + 4);
    assert_eq!(
        **a100,
        SlurmConfig {
            partition: Some("gpu".into()),
            account: Some("lab".into()),
            qos: Some("low".into()),
            gres: Some("gpu:a100:1".into()),
            constraint: Some("nvlink".into()),
            time_limit: Some(a_day + rest),
            arguments: vec!["--mem=64G".into()],
            setup: Vec::new(),
            template: Some("#!/bin/sh\n{{trainer}}\n".into()),
            requeue: false,
            requeue_exit: 99,
            signal_seconds: 300,
            max_jobs: 8,
            name: "lab-imprint".into(),
            poll_seconds: 30,
            loopback: true,
        }
    );
    let ExecutorConfig::Slurm(plain) = &site.executors["plain"] else {
        panic!("{site:?}");
    };
    assert_eq!(
        **plain,
        SlurmConfig {
            time_limit: Some(Duration::from_secs(90 * 60)),
            setup: vec!["module load cuda/12".into()],
            ..SlurmConfig::default()
        }
    );
    assert_eq!(site.limits.runs_per_experiment, NonZeroU32::new(32));
    assert_eq!(site.beyond_this_machine(), Some("plain"));
    assert_eq!(site.executor(None).unwrap().0, "a100");
    assert_eq!(site.executor(Some("cpu")).unwrap().0, "cpu");
    expect!["there is no executor `h100` at this site; there are: a100, cpu, gpus, plain"]
        .assert_eq(&site.executor(Some("h100")).unwrap_err());
}

#[test]
fn the_default_is_what_is_named_or_the_only_one_or_local() {
    let place = Place::new();
    let local = "[executor.local]\nkind = 'local'\nslots = 1\n";
    let other = "[executor.other]\nkind = 'local'\nslots = 2\n";
    let third = "[executor.third]\nkind = 'local'\nslots = 0\n";
    let default = |text: &str| place.site(text).unwrap().default;
    assert_eq!(default(""), Some("local".into()));
    assert_eq!(default(other), Some("other".into()));
    assert_eq!(default(&[local, other].concat()), Some("local".into()));
    let third_of_two = ["default = 'third'\n", other, third].concat();
    assert_eq!(default(&third_of_two), Some("third".into()));
    let undecided = place.site(&[other, third].concat()).unwrap();
    expect!["this site has several executors and no default: name one of other, third"]
        .assert_eq(&undecided.executor(None).unwrap_err());
    assert_eq!(place.site("").unwrap(), Site::local(4));
}

#[test]
fn impossible_site_files_say_what_to_do() {
    let place = Place::new();
    fs::write(place.path("no-script"), "srun x").unwrap();
    let refuses = |text: &str, want: Expect| {
        let said = one_line(&place.site(text).unwrap_err());
        want.assert_eq(&place.without_dir(&said));
    };
    let slurm = |lines: &str| format!("[executor.a]\nkind = \"slurm\"\n{lines}");
    refuses(
        "[rots]\n",
        expect![[r#"
        DIR/site.toml: TOML parse error at line 1, column 2
          |
        1 | [rots]
          |  ^^^^
        unknown field `rots`, expected one of `default`, `roots`, `executor`, `limits`"#]],
    );
    refuses(
        "[roots]\ndata = 'data'",
        expect!["DIR/site.toml: `roots.data`: `data` is no absolute path"],
    );
    refuses(
        "[roots]\ndata = 'DIR/nothing'",
        expect!["DIR/site.toml: `roots.data`: DIR/nothing is no directory"],
    );
    refuses(
        "[roots]\ndata = 3",
        expect!["DIR/site.toml: `roots.data`: is a directory in quotes, not 3"],
    );
    refuses(
        "[roots]\n\"a:b\" = 'DIR/data'",
        expect!["DIR/site.toml: `roots.a:b`: use letters, digits, `-` and `_` only in its name"],
    );
    refuses(
        "[roots]\nonly_roots = 1",
        expect!["DIR/site.toml: `roots.only_roots`: is true or false, not 1"],
    );
    refuses(
        "[roots]\nonly_roots = true",
        expect![
            "DIR/site.toml: `roots.only_roots`: no file may be named: give roots, or leave this out"
        ],
    );
    refuses(
        "default = 'moon'",
        expect![
            "DIR/site.toml: `default`: there is no executor `moon` at this site; there are: local"
        ],
    );
    refuses(
        "[executor.a]\nslots = 1",
        expect![[r#"DIR/site.toml: `executor.a`: `kind` is missing: "local" or "slurm""#]],
    );
    refuses(
        "[executor.a]\nkind = 'ssh'",
        expect![[
            r#"DIR/site.toml: `executor.a.kind`: "ssh" is no kind of executor: "local" or "slurm" is"#
        ]],
    );
    refuses(
        "[executor.'a b']\nkind = 'local'",
        expect![
            "DIR/site.toml: `executor.a b`: use letters, digits, `-`, `_` and `.` only in its name"
        ],
    );
    refuses(
        "[executor.a]\nkind = 'local'",
        expect![
            "DIR/site.toml: `executor.a`: say how many trainers run at the same time: `slots = 2`, or `gpus = [0, 1]`, one on each"
        ],
    );
    let staged = |keys: &str| format!("[executor.a]\nkind = 'local'\nslots = 1\n{keys}");
    refuses(
        &staged("stage_dir = '/scratch'"),
        expect![
            "DIR/site.toml: `executor.a`: has a `stage_dir`: say how much it may take, as `stage_gib = 200`"
        ],
    );
    refuses(
        &staged("stage_gib = 1"),
        expect![[
            r#"DIR/site.toml: `executor.a`: has a `stage_gib`: say where, as `stage_dir = "/scratch/imprint"`"#
        ]],
    );
    refuses(
        &staged("stage_dir = 'scratch'\nstage_gib = 1"),
        expect!["DIR/site.toml: `executor.a.stage_dir`: `scratch` is no absolute path"],
    );
    refuses(
        &staged("stage_dir = '/scratch'\nstage_gib = 0.0"),
        expect!["DIR/site.toml: `executor.a.stage_gib`: must be greater than 0"],
    );
    refuses(
        "[executor.a]\nkind = 'local'\nslots = 1\ngpus = [0]",
        expect!["DIR/site.toml: `executor.a.slots`: each of `gpus` is a slot: leave this out"],
    );
    refuses(
        "[executor.a]\nkind = 'local'\ngpus = []",
        expect!["DIR/site.toml: `executor.a.gpus`: names no GPU; give `slots` for the CPU"],
    );
    refuses(
        "[executor.a]\nkind = 'local'\nslots = -1",
        expect![
            "DIR/site.toml: `executor.a`: invalid value: integer `-1`, expected u16 in `slots`"
        ],
    );
    refuses(
        "[executor.a]\nkind = 'local'\ngpus = [0]\n[executor.b]\nkind = 'local'\ngpus = [1, 0]",
        expect!["DIR/site.toml: `executor.b.gpus`: GPU 0 is named twice; it has one slot"],
    );
    refuses(
        &slurm("partion = 'gpu'"),
        expect![
            "DIR/site.toml: `executor.a`: unknown field `partion`, expected one of `partition`, `account`, `qos`, `gres`, `constraint`, `time_limit`, `arguments`, `setup`, `template`, `requeue`, `requeue_exit`, `signal_seconds`, `max_jobs`, `name`, `poll_seconds`, `loopback`"
        ],
    );
    refuses(
        &slurm("partition = ''"),
        expect!["DIR/site.toml: `executor.a.partition`: is empty: leave it out"],
    );
    refuses(
        &slurm("time_limit = 'tomorrow'"),
        expect![[
            r#"DIR/site.toml: `executor.a`: write minutes, or "HOURS:MINUTES:SECONDS" (after "DAYS-", if you like), more than nothing in `time_limit`"#
        ]],
    );
    refuses(
        &slurm("time_limit = '0'"),
        expect![[
            r#"DIR/site.toml: `executor.a`: write minutes, or "HOURS:MINUTES:SECONDS" (after "DAYS-", if you like), more than nothing in `time_limit`"#
        ]],
    );
    refuses(
        &slurm("time_limit = 2.5"),
        expect![[
            r#"DIR/site.toml: `executor.a`: write minutes, or "HOURS:MINUTES:SECONDS" (after "DAYS-", if you like), more than nothing in `time_limit`"#
        ]],
    );
    refuses(
        &slurm("time_limit = 2"),
        expect![
            "DIR/site.toml: `executor.a.signal_seconds`: 120 is all of `time_limit`: nothing would be trained"
        ],
    );
    refuses(
        &slurm("arguments = ['--job-name=x']"),
        expect![
            "DIR/site.toml: `executor.a.arguments`: `--job-name=x` is set for each job by what else is in this file"
        ],
    );
    refuses(
        &slurm("arguments = ['-Jx']"),
        expect![[
            r#"DIR/site.toml: `executor.a.arguments`: `-Jx` is no option in its long form; write it as "--option=value""#
        ]],
    );
    refuses(
        &slurm("setup = [\"a\\nb\"]"),
        expect![[r#"DIR/site.toml: `executor.a.setup`: "a\nb" is not one line; give one a value"#]],
    );
    refuses(
        &slurm("requeue_exit = 0"),
        expect!["DIR/site.toml: `executor.a.requeue_exit`: must be 1 at least"],
    );
    refuses(
        &slurm("requeue_exit = 256"),
        expect![
            "DIR/site.toml: `executor.a`: invalid value: integer `256`, expected u8 in `requeue_exit`"
        ],
    );
    refuses(
        &slurm("name = 'a b'"),
        expect![
            "DIR/site.toml: `executor.a.name`: use letters, digits, `-`, `_` and `.` only, 64 at most"
        ],
    );
    refuses(
        &slurm("template = 'no-such'"),
        expect![
            "DIR/site.toml: `executor.a.template`: DIR/no-such: No such file or directory (os error 2)"
        ],
    );
    refuses(
        &slurm("template = 'no-script'"),
        expect![
            "DIR/site.toml: `executor.a.template`: DIR/no-script is no script: its first line must name the shell, as #!/bin/sh"
        ],
    );
    refuses(
        &slurm("template = 'no-script'\nsetup = ['x']"),
        expect![
            "DIR/site.toml: `executor.a.setup`: goes into the `template`, which is the whole script"
        ],
    );
    refuses(
        "[limits]\nruns_per_experiment = 0",
        expect![[r#"
        DIR/site.toml: TOML parse error at line 2, column 23
          |
        2 | runs_per_experiment = 0
          |                       ^
        invalid value: integer `0`, expected a nonzero u32"#]],
    );
    let missing = Site::read(&place.path("missing.toml"), 1).unwrap_err();
    expect!["read the site file DIR/missing.toml: No such file or directory (os error 2)"]
        .assert_eq(&place.without_dir(&one_line(&missing)));
}

/// However `sbatch` would take it: with its value beside it, cut short, or as a letter.
#[test]
fn no_argument_is_one_of_our_own_options() {
    for argument in [
        "--job-name=x",
        "--job-n=x",
        "--job-name",
        "--j",
        "--clusters=other",
        "--clus=other",
        "--test-only",
        "--wait",
        "--no-r",
        "--requeue",
        "--array=1-3",
        "--wrap=true",
        "--",
        "--=x",
        "-J",
        "-Jx",
        "-J=x",
        "-HJx",
        "-Mother",
        "-W",
        "-p",
        "64G",
        "",
    ] {
        assert!(check_argument(argument).is_err(), "{argument}");
    }
    for argument in [
        "--mem=64G",
        "--exclusive",
        "--exclude=node[1-3]",
        "--reservation=lab",
        "--wait-all-nodes=1",
        "--wckey=lab",
        "--nodes=1",
        "--no-kill",
        "--export=NONE",
        "--comma=x",
    ] {
        assert_eq!(check_argument(argument), Ok(()), "{argument}");
    }
}

#[test]
fn a_device_is_one_that_the_executor_has() {
    let place = Place::new();
    let check = |executor: &str, device: &str, want: Result<(), &str>| {
        let site = place.site(&format!("[executor.a]\n{executor}")).unwrap();
        let checked = site.executors["a"].check_device(device);
        match (checked, want) {
            (Err(why), Err(want)) => assert!(why.contains(want), "{executor}: {why}"),
            (checked, want) => assert_eq!(checked, want, "{executor}: {device}"),
        }
    };
    let (gpus, cpus) = ("kind = 'local'\ngpus = [0, 1]", "kind = 'local'\nslots = 4");
    check(gpus, "cuda:0", Ok(()));
    check(gpus, "cuda:1", Err("write \"cuda:0\""));
    check(gpus, "cpu", Err("would train on the CPU"));
    check(cpus, "cpu", Ok(()));
    check(cpus, "cuda:0", Err("`gpus = [0]`"));
    check("kind = 'local'\nslots = 1", "cuda:1", Ok(()));
    check("kind = 'local'\nslots = 0", "cuda:0", Ok(()));
    for asked in [
        "gres = 'gpu:a100:1'",
        "arguments = ['--gpus=1']",
        "arguments = ['--gpus-per-node=1']",
        "arguments = ['--mem=64G', '--gres=gpu']",
    ] {
        let slurm = format!("kind = 'slurm'\n{asked}");
        check(&slurm, "cpu", Err("would train on the CPU"));
        check(&slurm, "cuda:0", Ok(()));
    }
    // What a partition's nodes have, this file does not say.
    for asked in [
        "partition = 'gpu'",
        "gres = 'nvme:1'",
        "arguments = ['--mem=64G']",
    ] {
        let slurm = format!("kind = 'slurm'\n{asked}");
        check(&slurm, "cpu", Ok(()));
        check(&slurm, "cuda:0", Ok(()));
    }
}

#[test]
fn times_are_written_as_slurm_has_them() {
    for (text, want) in [
        ("90", Some(90 * 60)),
        ("90:30", Some(90 * 60 + 30)),
        ("24:00:00", Some(24 * 3600)),
        ("2-12", Some(60 * 3600)),
        ("2-12:30", Some(60 * 3600 + 30 * 60)),
        ("2-12:30:15", Some(60 * 3600 + 30 * 60 + 15)),
        ("", None),
        ("-", None),
        ("1-", None),
        ("a", None),
        ("1:2:3:4", None),
        ("1-2:3:4:5", None),
        ("+5", None),
        ("99999999999999999999", None),
    ] {
        assert_eq!(seconds(text), want, "{text}");
    }
}

#[test]
fn a_path_below_a_root_stays_below_it() {
    let place = Place::new();
    let base = place.path("experiments");
    let roots = place.roots(false);
    let placed = |path: &str| roots.place(&base, Path::new(path));
    assert_eq!(
        placed("data:part.npy").unwrap(),
        place.path("data/part.npy")
    );
    assert_eq!(placed("data:").unwrap(), place.path("data"));
    let within = placed("data:a/../part.npy").unwrap();
    assert_eq!(within, place.path("data/a/../part.npy"));
    assert_eq!(placed("part.npy").unwrap(), base.join("part.npy"));
    assert_eq!(placed("../x").unwrap(), base.join("../x"));
    assert_eq!(placed("/etc/hosts").unwrap(), Path::new("/etc/hosts"));
    assert_eq!(placed("./data:x").unwrap(), base.join("data:x"));
    assert_eq!(placed("a/b:x").unwrap(), base.join("a/b:x"));
    for path in ["data:../secret", "data:a/../../secret", "data:/etc/passwd"] {
        let said = placed(path).unwrap_err();
        assert!(said.contains("leaves the root `data`"), "{said}");
    }
    expect![
        "there is no root `date` at this site; there are: data, models (a file whose name has a \
         colon is written `./…`)"
    ]
    .assert_eq(&placed("date:part.npy").unwrap_err());
    let none = Roots::default().place(&base, Path::new("data:x"));
    assert!(none.unwrap_err().contains("there are none"));
}

#[test]
fn where_only_roots_are_open_no_way_leads_out() {
    let place = Place::new();
    symlink(place.path("secret"), place.path("data/link")).unwrap();
    symlink(place.path("models"), place.path("data/models")).unwrap();
    symlink(place.path("data"), place.path("alias")).unwrap();
    fs::write(place.path("models/weights"), "w").unwrap();
    let roots = place.roots(true);
    let base = place.path("data");
    let placed = |path: &str| roots.place(&base, Path::new(&place.with_dir(path)));
    // However it is written, what is below a root may be named; a root may lead into another.
    for path in [
        "data:part.npy",
        "part.npy",
        "DIR/data/part.npy",
        "DIR/alias/part.npy",
        "data:models/weights",
    ] {
        assert!(placed(path).is_ok(), "{path}: {:?}", placed(path));
    }
    for path in [
        "DIR/secret",
        "../secret",
        "data:link",
        "link",
        "data:models/../secret",
        "/etc/hosts",
    ] {
        let said = placed(path).unwrap_err();
        assert!(said.contains("is below no root of this site"), "{said}");
    }
    let said = placed("data:nothing").unwrap_err();
    assert!(said.contains("No such file"), "{said}");
    // A root that is itself a link.
    let linked = Roots {
        directories: [("d".to_owned(), place.path("alias"))].into(),
        only: true,
    };
    assert!(linked.place(&base, Path::new("d:part.npy")).is_ok());
}
