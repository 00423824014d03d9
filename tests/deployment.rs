//! What is handed out for running the programs is what the programs take: the compose file with its
//! accounts, the systemd units with the settings of docs/deploy.md, site and experiment files, and
//! every command that a document shows.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use imprint_core::ExperimentSpec;
use imprint_e2e::{
    ANSWER_WITHIN, STOP_WITHIN, TINY, experiment, log, succeeds, training, write_world,
};
use imprint_testkit::{
    Authority, ChildGuard, Home, TestDb, bin, free_port, http_get, output, wait_until,
};

const LIMIT: Duration = Duration::from_secs(60);

/// A file of the repository.
#[track_caller]
fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The documents for users, by their paths.
fn documents() -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let names = fs::read_dir(dir).expect("list the documents");
    let names = names.map(|entry| entry.expect("list the documents").file_name());
    let names = names.map(|name| format!("docs/{}", name.display()));
    let documents = names.filter(|name| name.ends_with(".md"));
    let documents = documents.chain(["README.md".to_owned()]);
    documents
        .map(|name| (text(&name), name))
        .map(|(t, n)| (n, t))
        .collect()
}

/// The code of one language in a document, block by block.
fn blocks<'a>(document: &'a str, language: &str) -> impl Iterator<Item = &'a str> {
    let fence = format!("```{language}\n");
    let rest = document.split(&fence).skip(1).collect::<Vec<_>>();
    rest.into_iter()
        .map(|rest| rest.split("```").next().unwrap_or_default())
}

/// The files that a document has its reader write with `cat`, by how their names end.
fn written<'a>(document: &'a str, name: &str) -> Vec<&'a str> {
    let opened = format!("{name} <<EOF\n");
    let rest = document.split(&opened).skip(1);
    rest.map(|rest| rest.split("EOF\n").next().unwrap_or_default())
        .collect()
}

/// The lines that belong to a key of a YAML text, which are indented deeper than it.
#[track_caller]
fn below<'a>(yaml: &'a str, key: &str) -> Vec<&'a str> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    // A service's name also stands below those that depend on it.
    let lines: Vec<&str> = yaml.lines().collect();
    let heads = (0..lines.len()).filter(|&n| lines[n].trim_start().starts_with(&format!("{key}:")));
    let head = heads.min_by_key(|&n| indent(lines[n]));
    let head = head.unwrap_or_else(|| panic!("there is no `{key}`"));
    let (head, lines) = (lines[head], lines[head + 1..].iter().copied());
    lines
        .take_while(|line| line.is_empty() || indent(line) > indent(head))
        .map(str::trim)
        .collect()
}

/// The items of a service's `command`.
#[track_caller]
fn command_of(service: &[&str]) -> Vec<String> {
    let items = service.iter().skip_while(|line| **line != "command:");
    let items = items.skip(1).map_while(|line| line.strip_prefix("- "));
    let items: Vec<String> = items.map(str::to_owned).collect();
    assert!(!items.is_empty(), "no command: {service:?}");
    items
}

/// A command line with the addresses of this machine's free ports, and those of `/healthz` and of
/// the service.
#[track_caller]
fn on_free_ports(line: &str) -> (String, SocketAddr, u16) {
    let mut ports = Vec::new();
    let mut told = line.to_owned();
    for option in ["--prometheus-listen", "--listen"] {
        let at = told
            .find(option)
            .unwrap_or_else(|| panic!("{option}: {line}"));
        let from = at + option.len() + 1;
        let to = told[from..].find(' ').map_or(told.len(), |n| from + n);
        ports.push(free_port());
        told.replace_range(from..to, &format!("127.0.0.1:{}", ports[ports.len() - 1]));
    }
    (told, ([127, 0, 0, 1], ports[0]).into(), ports[1])
}

/// The program, in an environment of its own.
fn imprint(home: &Home) -> Command {
    let mut command = Command::new(bin("imprint"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home.path())
        .env("IMPRINT_DATA_DIR", home.data_dir())
        .current_dir(home.path());
    command
}

/// A service, which shows what it said where a test fails.
struct Service {
    _process: ChildGuard,
    log: PathBuf,
}

impl Service {
    /// One that is healthy.
    async fn start(
        home: &Home,
        arguments: &str,
        env: &[(&str, String)],
        vitals: SocketAddr,
    ) -> Self {
        let path = home.path().join(format!("{}.log", vitals.port()));
        let said = log(&path);
        let service = Self {
            _process: ChildGuard::spawn_patiently(
                imprint(home)
                    .args(arguments.split(' '))
                    .envs(env.iter().map(|(name, value)| (name, value)))
                    .stdin(Stdio::null())
                    .stdout(said.try_clone().expect("share the log"))
                    .stderr(said),
                STOP_WITHIN,
            ),
            log: path,
        };
        let what = format!("`{arguments}` is healthy");
        wait_until(LIMIT, &what, || async {
            let healthy = http_get(vitals, "/healthz").await;
            healthy.is_ok_and(|(status, _)| status == 200)
        })
        .await;
        service
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_compose_file_is_a_laboratory() {
    let yaml = text("docker-compose.yml");
    assert!(text("Dockerfile").contains("ENTRYPOINT [\"imprint\"]"));
    let home = Home::new();
    let data = home.path().join("data-of-experiments");
    fs::create_dir(&data).expect("make a directory");
    write_world(&data);
    let db = TestDb::start().await;
    for sql in [
        "alter role imprint_writer rename to another_writer",
        "alter role imprint_reader rename to another_reader",
        "create database compose",
    ] {
        sqlx::query(sql).execute(db.store.pool()).await.expect(sql);
    }
    let owner = db.url_of("compose");
    let (_, rest) = owner.split_once("imprint:").expect("a URL with its owner");
    let (owner_password, server) = rest.split_once('@').expect("a URL with a password");

    // As the image of Postgres does.
    let accounts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/compose/accounts.sql");
    succeeds(
        Command::new("psql")
            .args(["-X", "-v", "ON_ERROR_STOP=1", "-f"])
            .args([accounts.as_os_str(), owner.as_ref()])
            .env("IMPRINT_SERVICE_PASSWORD", "of-services"),
    );

    let service = below(&yaml, "x-orchestrator");
    let url = |lines: &[&str]| {
        let url = lines.iter().find_map(|l| l.strip_prefix("DATABASE_URL: "));
        let url = url.expect("a DATABASE_URL");
        let (scheme, rest) = url.split_once("${").expect("a password of `.env`");
        let (name, place) = rest.split_once('}').expect("the variable's end");
        let password = match name.split_once(":?").expect("it has to be set").0 {
            "IMPRINT_OWNER_PASSWORD" => owner_password,
            "IMPRINT_SERVICE_PASSWORD" => "of-services",
            other => panic!("who is {other}?"),
        };
        assert_eq!(place, "@postgres:5432/imprint");
        format!("{scheme}{password}@{server}")
    };
    let migrate = below(&yaml, "migrate");
    succeeds(
        imprint(&home)
            .args(command_of(&migrate))
            .env("DATABASE_URL", url(&migrate)),
    );

    let url = url(&below(&yaml, "x-database-url"));
    let site = home.path().join("site.toml");
    let cpu = text("deploy/compose/cpu.toml").replace("\"/data\"", &format!("{data:?}"));
    fs::write(&site, cpu).expect("write the site file");
    let metrics = command_of(&below(&yaml, "metrics")).join(" ");
    let (metrics, metrics_vitals, metrics_port) = on_free_ports(&metrics);
    let orchestrator = command_of(&service).join(" ");
    let orchestrator = orchestrator.replace("/etc/imprint/site.toml", &site.to_string_lossy());
    let (orchestrator, vitals, port) = on_free_ports(&orchestrator);
    assert!(service.contains(&"IMPRINT_METRICS: http://metrics:7431"));
    let env = [
        ("DATABASE_URL", url),
        (
            "IMPRINT_METRICS",
            format!("http://127.0.0.1:{metrics_port}"),
        ),
        ("IMPRINT_ORCHESTRATOR", format!("http://127.0.0.1:{port}")),
    ];
    let _metrics = Service::start(&home, &metrics, &env, metrics_vitals).await;
    let _orchestrator = Service::start(&home, &orchestrator, &env, vitals).await;

    // As on the host: the file lies elsewhere and names what the services see.
    let head = "scenarios = ['once']\nbatch_sizes = [8]";
    let rest = training(12)
        + "[injection]\nstart = 1\nevery = 5\ncount = 1\nstagger = { groups = 10, every = 1 }";
    let mine = experiment("mine", head, TINY, &rest)
        .replace("\"facts.json\"", "\"data:facts.json\"")
        .replace("\"tokenizer.json\"", "\"data:tokenizer.json\"")
        .replace("\"corpus.u16\"", "\"data:corpus.u16\"");
    fs::write(home.path().join("mine.toml"), mine).expect("write the experiment");
    let says = |arguments: &[&str]| {
        let mut command = imprint(&home);
        command.args(arguments);
        command.envs(env.iter().map(|(name, value)| (name, value)));
        output(&mut command, ANSWER_WITHIN)
    };
    for arguments in [
        &["submit", "mine.toml", "--wait"][..],
        &["verify", "mine"],
        &["results", "mine"],
        &["sql", "-c", "select * from imprint.run_summary"],
    ] {
        let out = says(arguments);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{arguments:?}: {said}");
    }
    let out = says(&["sql", "--write", "-c", "drop view imprint.run_summary"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("must be owner"), "{said}");
}

#[test]
fn no_password_comes_with_the_repository() {
    assert!(text(".gitignore").lines().any(|line| line == "/.env"));
    assert!(!text(".env.example").contains("PASSWORD="));
    let yaml = text("docker-compose.yml");
    let settings = yaml.lines().filter(|line| line.contains("PASSWORD"));
    let open = settings.filter(|line| !line.contains("_PASSWORD:?"));
    assert_eq!(open.collect::<Vec<_>>(), [""; 0]);

    // Where it is installed, what it thinks of the file.
    let dir = tempfile::tempdir().expect("make a directory");
    let env = dir.path().join("env");
    let config = |text: &str| {
        fs::write(&env, text).expect("write an environment");
        let mut compose = Command::new("docker-compose");
        compose
            .arg("--env-file")
            .arg(&env)
            .args(["config", "--quiet"]);
        compose.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        compose.env_clear();
        compose.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        compose
    };
    let example = text(".env.example");
    if config(&example).arg("--help").output().is_err() {
        eprintln!("docker-compose is not installed: the compose file was not given to it");
        return;
    }
    let refused = output(&mut config(&example), LIMIT);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("make .env first"),
        "{said}"
    );
    let made = "\nIMPRINT_OWNER_PASSWORD=1a\nIMPRINT_SERVICE_PASSWORD=2b\n";
    succeeds(&mut config(&(example + made)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_units_start_with_the_documented_settings() {
    let deploy = text("docs/deploy.md");
    let home = Home::new();
    let authority = Authority::new(home.path(), "authority");
    let certificate = authority.issue("server");
    let db = TestDb::start().await;
    let site = home.path().join("site.toml");
    let sites = written(&deploy, "/etc/imprint/site.toml");
    let [of_server] = sites[..] else {
        panic!("{} site files of the server", sites.len())
    };
    let here = of_server.replace("\"/srv/imprint\"", &format!("{:?}", home.path()));
    fs::write(&site, here).expect("write the site file");

    let command = |role: &str| {
        let unit = text(&format!("deploy/systemd/imprint-{role}.service"));
        let line = unit
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart="));
        let line = line.and_then(|line| line.strip_prefix("/usr/local/bin/imprint "));
        on_free_ports(line.expect("the program that is started"))
    };
    let (orchestrator, vitals, port) = command("orchestrator");
    let (metrics, metrics_vitals, metrics_port) = command("metrics");
    let own = |path: &Path| path.display().to_string();
    let settings = |name: &str| -> Vec<(String, String)> {
        let lines = written(&deploy, name).concat();
        assert!(!lines.is_empty(), "{name} is not documented");
        let set = lines.lines().map(|line| {
            let (name, value) = line.split_once('=').expect("a setting");
            let value = value
                .replace(
                    "postgres://imprint@localhost/imprint?host=/run/postgresql",
                    &db.url,
                )
                .replace("/etc/imprint/lab.key", &own(&certificate.key))
                .replace("/etc/imprint/site.toml", &own(&site))
                .replace("$(hostname -f):7432", &format!("localhost:{port}"))
                .replace("$(hostname -f):7431", &format!("localhost:{metrics_port}"));
            let file = match name {
                "IMPRINT_CA" => &authority.path,
                _ => &certificate.path,
            };
            (
                name.to_owned(),
                value.replace("/etc/imprint/lab.pem", &own(file)),
            )
        });
        set.collect()
    };
    let of_metrics = settings("/etc/imprint/metrics.env");
    // What it begins as a copy of.
    let of_orchestrator = [
        of_metrics.clone(),
        settings("/etc/imprint/orchestrator.env"),
    ]
    .concat();
    let env = |settings: &[(String, String)]| -> Vec<(&'static str, String)> {
        let known = [
            "DATABASE_URL",
            "IMPRINT_TLS_CERT",
            "IMPRINT_TLS_KEY",
            "IMPRINT_ADVERTISE",
            "IMPRINT_METRICS",
            "IMPRINT_CA",
            "IMPRINT_SITE",
        ];
        settings
            .iter()
            .map(|(name, value)| {
                let name = known.into_iter().find(|known| known == name);
                (name.expect("a setting of a service"), value.clone())
            })
            .collect()
    };

    // The orchestrator makes the key without which the other ends; units start it again then.
    let _orchestrator = Service::start(&home, &orchestrator, &env(&of_orchestrator), vitals).await;
    let _metrics = Service::start(&home, &metrics, &env(&of_metrics), metrics_vitals).await;
    for role in ["metrics", "orchestrator"] {
        let unit = text(&format!("deploy/systemd/imprint-{role}.service"));
        assert!(unit.contains("\nRestart=on-failure\n"), "{role}");
        assert!(!unit.contains("RestartPreventExitStatus"), "{role}");
    }

    let mut token = imprint(&home);
    token.args(["token", "create", "anna", "--out", "anna.token"]);
    succeeds(token.env("DATABASE_URL", &db.url));
    let mut list = imprint(&home);
    list.arg("list")
        .env("IMPRINT_ORCHESTRATOR", format!("https://localhost:{port}"))
        .env("IMPRINT_CA", &authority.path)
        .env("IMPRINT_TOKEN_FILE", home.path().join("anna.token"));
    succeeds(&mut list);
}

/// The site file is looked at before the database, and there is none.
#[track_caller]
fn is_a_site_file(text: &str, of: &str) {
    let home = Home::new();
    let site = home.path().join("site.toml");
    let here = text.replace("\"/data\"", &format!("{:?}", home.path()));
    let here = here.replace("\"/srv/imprint\"", &format!("{:?}", home.path()));
    fs::write(&site, here).expect("write the site file");
    let out = output(
        imprint(&home)
            .args(["serve", "orchestrator", "--site", "site.toml"])
            .env("IMPRINT_ADVERTISE", "https://lab.example:7432")
            .env("IMPRINT_METRICS", "https://lab.example:7431")
            .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none"),
        LIMIT,
    );
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "{of}: {said}\n{text}");
}

#[track_caller]
fn is_an_experiment(text: &str, of: &str) {
    let place = |path: &Path| Ok(path.to_owned());
    if let Err(err) = ExperimentSpec::parse_with(text, Path::new(of), place) {
        panic!("{err}\n{text}");
    }
}

#[test]
fn files_to_begin_with_are_valid() {
    for file in ["deploy/compose/cpu.toml", "deploy/compose/gpu.toml"] {
        is_a_site_file(&text(file), file);
    }
    let deploy = text("docs/deploy.md");
    let sites = written(&deploy, "site.toml");
    assert_eq!(sites.len(), 2, "of the login node and of the server");
    for site in sites {
        is_a_site_file(site, "docs/deploy.md");
    }

    let readme = text("README.md");
    let whole = blocks(&readme, "toml").next().expect("an experiment file");
    is_an_experiment(whole, "README.md");
    let mut n_parts = 0;
    for part in blocks(&deploy, "toml") {
        is_an_experiment(&format!("{whole}\n{part}"), "docs/deploy.md");
        n_parts += 1;
    }
    assert!(n_parts > 0);
}

/// A program for the documents' commands: `text` is its script.
fn stand_in(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("write a script");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("let it be run");
}

#[test]
fn every_documented_command_is_one() {
    let home = Home::new();
    let programs = home.path().join("programs");
    let built = home.path().join("target/release");
    let [wrong, right] = ["wrong", "right"].map(|name| home.path().join(name));
    for dir in [&programs, &built] {
        fs::create_dir_all(dir).expect("make a directory");
    }
    for name in ["imprint", "imprint-trainer"] {
        // Help comes where all that precedes it is known; nothing is done.
        let script = format!(
            "said=$({} \"$@\" --help 2>&1) && echo {name} \"$@\" >> {} || echo \"{name} $*: $said\" >> {}",
            bin(name).display(),
            right.display(),
            wrong.display()
        );
        stand_in(&programs.join(name), &script);
        stand_in(&built.join(name), &script);
    }
    let find = "while [ $# -gt 0 ]; do case $1 in imprint|imprint-trainer) exec \"$@\";; \
                psql|curl) exit 0;; -u) shift;; esac; shift; done";
    stand_in(
        &programs.join("docker"),
        &format!("[ \"$2\" = exec ] || exit 0; {find}"),
    );
    stand_in(&programs.join("runuser"), find);

    let mut shown = BTreeSet::new();
    for (name, document) in documents() {
        for block in blocks(&document, "sh") {
            let block = block.replace("\\\n", " ");
            let is_ours = |word: &str| {
                let word = word.strip_prefix("target/release/").unwrap_or(word);
                word == "imprint" || word == "imprint-trainer"
            };
            for line in block.lines() {
                if !line.starts_with('#') && line.split_whitespace().any(is_ours) {
                    shown.insert((name.clone(), line.trim().to_owned()));
                }
            }
        }
    }
    for (name, line) in &shown {
        // There are no other programs on this path, so nothing else happens.
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", line]).env_clear().env("PATH", &programs);
        shell
            .env("USER", "me")
            .env("IMPRINT_TOKEN_FILE", "me.token");
        output(shell.current_dir(home.path()).stdin(Stdio::null()), LIMIT);
        let said = fs::read_to_string(&wrong).unwrap_or_default();
        assert_eq!(said, "", "{name}: {line}");
    }
    let n_right = fs::read_to_string(&right)
        .unwrap_or_default()
        .lines()
        .count();
    assert!(n_right >= 60, "{n_right} commands in {} lines", shown.len());
}
