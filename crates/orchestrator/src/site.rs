//! The site file: what a place offers to experiments, and what it allows them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::num::NonZeroU32;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use imprint_core::below_root;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::slurm::check_template;

/// What experiments find at a place; they name it and cannot change it.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    pub roots: Roots,
    /// Where runs are executed, by the names that experiments use; never empty.
    pub executors: BTreeMap<String, ExecutorConfig>,
    /// What executors' nodes copy, by the names of those that do.
    pub stages: BTreeMap<String, Stage>,
    /// The executor of experiments that name none; where absent, they must name one.
    pub default: Option<String>,
    pub limits: SiteLimits,
}

/// Directories that experiments name by a word: `data:part-0.npy` is a file of the root `data`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    pub directories: BTreeMap<String, PathBuf>,
    /// Whether experiments may name files below roots only.
    pub only: bool,
}

/// Where and how the trainers of runs are started.
#[derive(Clone, Debug, PartialEq)]
pub enum ExecutorConfig {
    Local(LocalConfig),
    Slurm(Box<SlurmConfig>),
}

/// A directory of each node, to which trainers copy once what they read again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    pub dir: PathBuf,
    /// What the copies may take, GiB.
    pub gib: f64,
}

/// Processes of the orchestrator's machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalConfig {
    /// Trainers at the same time.
    pub slots: usize,
    /// The GPU of each slot; empty where slots have none of their own.
    pub gpus: Vec<u32>,
}

/// Jobs of a Slurm cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlurmConfig {
    pub partition: Option<String>,
    pub account: Option<String>,
    pub qos: Option<String>,
    pub gres: Option<String>,
    pub constraint: Option<String>,
    /// How long a job may run; the partition's limit where absent.
    #[serde(deserialize_with = "time_limit")]
    pub time_limit: Option<Duration>,
    /// Further arguments of `sbatch`.
    pub arguments: Vec<String>,
    /// Lines of the job script before the trainer.
    pub setup: Vec<String>,
    /// The whole job script instead; in the file its path, here its text.
    pub template: Option<String>,
    /// Whether Slurm itself requeues a job that was preempted or whose trainer asks for it.
    pub requeue: bool,
    /// The exit code by which a trainer asks for it (`RequeueExit` of `slurm.conf`).
    pub requeue_exit: u8,
    /// How long before the end of its time a job is told to save.
    pub signal_seconds: u32,
    /// Jobs in the queue at the same time, waiting ones included; the other runs wait here.
    pub max_jobs: u32,
    /// The beginning of every job's name.
    pub name: String,
    /// How often the queue is asked.
    pub poll_seconds: u32,
    /// Whether all nodes are this machine, so that loopback addresses lead trainers to the services.
    pub loopback: bool,
}

impl Default for SlurmConfig {
    fn default() -> Self {
        Self {
            partition: None,
            account: None,
            qos: None,
            gres: None,
            constraint: None,
            time_limit: None,
            arguments: Vec::new(),
            setup: Vec::new(),
            template: None,
            requeue: true,
            requeue_exit: 85,
            signal_seconds: 120,
            max_jobs: 64,
            name: "imprint".to_owned(),
            poll_seconds: 5,
            loopback: false,
        }
    }
}

/// What one user of a place may take of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SiteLimits {
    /// Jobs of one experiment at the same time; as many as there is room for where absent.
    pub runs_per_experiment: Option<NonZeroU32>,
}

/// The name of the only executor of a place without a site file.
const LOCAL: &str = "local";

/// What is wrong with training on the CPU where there is a GPU.
const UNUSED_GPU: &str = "gives each trainer a GPU, and this one would train on the CPU: write \
    \"cuda:0\", or name an executor without GPUs";

/// The key of `[roots]` that is no root.
const ONLY_ROOTS: &str = "only_roots";

/// What is wrong with a site file.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    #[error("read the site file {path}")]
    Read {
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("{path}: {message}")]
    Syntax { path: PathBuf, message: String },
    #[error("{path}: `{key}`: {problem}")]
    Key {
        path: PathBuf,
        key: String,
        problem: String,
    },
}

/// A key and what is wrong with it.
type Problem = (String, String);

fn problem<T>(key: impl Into<String>, problem: impl Into<String>) -> Result<T, Problem> {
    Err((key.into(), problem.into()))
}

impl Site {
    /// A place without a site file: any file may be named, and so many trainers run on this machine.
    pub fn local(slots: usize) -> Self {
        let gpus = Vec::new();
        let local = ExecutorConfig::Local(LocalConfig { slots, gpus });
        Self {
            roots: Roots::default(),
            executors: BTreeMap::from([(LOCAL.to_owned(), local)]),
            stages: BTreeMap::new(),
            default: Some(LOCAL.to_owned()),
            limits: SiteLimits::default(),
        }
    }

    /// Reads a site file; one without executors has the one of [`Self::local`], with so many slots.
    ///
    /// # Errors
    /// With the line or the key where the file is not what it should be, and when a root is no
    /// directory.
    pub fn read(path: &Path, slots: usize) -> Result<Self, SiteError> {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|err| SiteError::Read {
                path: path.to_owned(),
                err,
            })
        };
        let text = read(path)?;
        let document: Document = toml::from_str(&text).map_err(|err| SiteError::Syntax {
            path: path.to_owned(),
            message: err.to_string().trim_end().to_owned(),
        })?;
        let base = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let base = base.parent().unwrap_or(Path::new("/"));
        document
            .site(base, slots)
            .map_err(|(key, problem)| SiteError::Key {
                path: path.to_owned(),
                key,
                problem,
            })
    }

    /// An executor whose trainers run on other machines, where loopback addresses lead nowhere.
    pub fn beyond_this_machine(&self) -> Option<&str> {
        let mut executors = self.executors.iter();
        executors.find_map(|(name, config)| match config {
            ExecutorConfig::Slurm(slurm) if !slurm.loopback => Some(name.as_str()),
            ExecutorConfig::Slurm(_) | ExecutorConfig::Local(_) => None,
        })
    }

    /// The executor that an experiment names, or that of experiments which name none.
    ///
    /// # Errors
    /// In words that list those that exist.
    pub fn executor(&self, name: Option<&str>) -> Result<(&str, &ExecutorConfig), String> {
        let names: Vec<&str> = self.executors.keys().map(String::as_str).collect();
        let names = names.join(", ");
        let Some(name) = name.or(self.default.as_deref()) else {
            return Err(format!(
                "this site has several executors and no default: name one of {names}"
            ));
        };
        let found = self.executors.get_key_value(name);
        found
            .map(|(name, config)| (name.as_str(), config))
            .ok_or_else(|| {
                format!("there is no executor `{name}` at this site; there are: {names}")
            })
    }
}

impl ExecutorConfig {
    /// Fails, in words that follow the executor's name, where its trainers cannot have a device or
    /// would leave unused what they are given.
    pub(crate) fn check_device(&self, device: &str) -> Result<(), &'static str> {
        match (self, device) {
            (Self::Local(local), "cpu") if !local.gpus.is_empty() => Err(UNUSED_GPU),
            (Self::Slurm(slurm), "cpu") if slurm.asks_for_gpus() => Err(UNUSED_GPU),
            (_, "cpu") | (Self::Slurm(_), _) => Ok(()),
            (Self::Local(local), "cuda:0") if !local.gpus.is_empty() => Ok(()),
            (Self::Local(local), _) if !local.gpus.is_empty() => Err(
                "shows each trainer its own GPU and no other, whichever it is: write \"cuda:0\"",
            ),
            // Those of one slot follow each other, and with none a run is taken elsewhere.
            (Self::Local(local), _) if local.slots <= 1 => Ok(()),
            (Self::Local(_), _) => Err(
                "has several slots and no GPUs of its own, so its trainers would share one: write \
                 `gpus = [0]` in the place of `slots` into the site file, or start it with \
                 `--slots 1`",
            ),
        }
    }
}

impl fmt::Display for ExecutorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(local) if local.gpus.is_empty() => write!(f, "{} at a time", local.slots),
            Self::Local(local) => {
                let gpus: Vec<String> = local.gpus.iter().map(u32::to_string).collect();
                write!(f, "one on each of the GPUs {}", gpus.join(", "))
            }
            Self::Slurm(slurm) => {
                write!(f, "Slurm")?;
                if let Some(partition) = &slurm.partition {
                    write!(f, ", partition {partition}")?;
                }
                write!(f, ", {} jobs at a time", slurm.max_jobs)
            }
        }
    }
}

impl Roots {
    /// The file that an experiment in the directory `base` names.
    ///
    /// `root:path` is below a root; everything else is taken from `base`. A file whose own name has
    /// a colon is written `./a:b`.
    ///
    /// # Errors
    /// When there is no such root, when `..` would leave it, and, where only files below roots may
    /// be named, when it is not there or is, behind all symbolic links, not below a root.
    pub fn place(&self, base: &Path, path: &Path) -> Result<PathBuf, String> {
        let placed = match below_root(path) {
            Some((root, below)) => {
                let directory = self
                    .directories
                    .get(root)
                    .ok_or_else(|| self.no_root(root))?;
                if !stays_below(below) {
                    return Err(format!(
                        "`{}` leaves the root `{root}`; write a path below it, without a leading `/`",
                        path.display()
                    ));
                }
                directory.join(below)
            }
            None => base.join(path),
        };
        self.check(&placed)?;
        Ok(placed)
    }

    /// Fails unless a file may be read for an experiment.
    ///
    /// # Errors
    /// Where only files below roots may be named: when it is, behind all symbolic links, not below
    /// a root, or cannot be found.
    pub fn check(&self, path: &Path) -> Result<(), String> {
        if !self.only {
            return Ok(());
        }
        let real = fs::canonicalize(path).map_err(|err| format!("{}: {err}", path.display()))?;
        let mut roots = self.directories.values();
        let is_below = roots.any(|root| {
            let root = fs::canonicalize(root);
            root.is_ok_and(|root| real.starts_with(root))
        });
        if is_below {
            return Ok(());
        }
        let leads = match real == path {
            true => String::new(),
            false => format!(" (which is {})", real.display()),
        };
        Err(format!(
            "{}{leads} is below no root of this site, and only files below roots may be named; {}",
            path.display(),
            self.list()
        ))
    }

    fn no_root(&self, root: &str) -> String {
        let hint = "a file whose name has a colon is written `./…`";
        format!(
            "there is no root `{root}` at this site; {} ({hint})",
            self.list()
        )
    }

    fn list(&self) -> String {
        if self.directories.is_empty() {
            return "there are none".to_owned();
        }
        let names: Vec<&str> = self.directories.keys().map(String::as_str).collect();
        format!("there are: {}", names.join(", "))
    }
}

/// Whether a path leads from a directory to what is in it, symbolic links aside.
fn stays_below(path: &Path) -> bool {
    let mut depth = 0_i32;
    path.components().all(|component| {
        match component {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth -= 1,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return false,
        }
        depth >= 0
    })
}

fn is_root_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    default: Option<String>,
    #[serde(default)]
    roots: toml::Table,
    /// Read by their kind.
    #[serde(default)]
    executor: BTreeMap<String, toml::Table>,
    #[serde(default)]
    limits: SiteLimits,
}

impl Document {
    fn site(self, base: &Path, slots: usize) -> Result<Site, Problem> {
        let (mut executors, mut stages) = (BTreeMap::new(), BTreeMap::new());
        for (name, mut table) in self.executor {
            let key = format!("executor.{name}");
            if !is_name(&name) {
                return problem(
                    key,
                    "use letters, digits, `-`, `_` and `.` only in its name",
                );
            }
            let under = |(inner, problem)| (format!("{key}{inner}"), problem);
            if let Some(stage) = stage(&mut table).map_err(under)? {
                stages.insert(name.clone(), stage);
            }
            let config = executor(table, base).map_err(under)?;
            executors.insert(name, config);
        }
        check_gpus(&executors)?;
        let site = Site::local(slots);
        let executors = match executors.is_empty() {
            true => site.executors,
            false => executors,
        };
        let default = match self.default {
            Some(name) => Some(name),
            None if executors.len() == 1 => executors.keys().next().cloned(),
            None => executors.contains_key(LOCAL).then(|| LOCAL.to_owned()),
        };
        let site = Site {
            roots: roots(self.roots)?,
            executors,
            stages,
            default,
            limits: self.limits,
        };
        if site.default.is_some() {
            site.executor(None)
                .map_err(|problem| ("default".to_owned(), problem))?;
        }
        Ok(site)
    }
}

fn roots(table: toml::Table) -> Result<Roots, Problem> {
    let mut roots = Roots::default();
    for (name, value) in table {
        let key = format!("roots.{name}");
        if name == ONLY_ROOTS {
            match value {
                toml::Value::Boolean(only) => roots.only = only,
                other => return problem(key, format!("is true or false, not {other}")),
            }
            continue;
        }
        if !is_root_name(&name) {
            return problem(key, "use letters, digits, `-` and `_` only in its name");
        }
        let directory = match value {
            toml::Value::String(directory) => PathBuf::from(directory),
            other => return problem(key, format!("is a directory in quotes, not {other}")),
        };
        if !directory.is_absolute() {
            return problem(
                key,
                format!("`{}` is no absolute path", directory.display()),
            );
        }
        if !directory.is_dir() {
            return problem(key, format!("{} is no directory", directory.display()));
        }
        roots.directories.insert(name, directory);
    }
    if roots.only && roots.directories.is_empty() {
        let key = format!("roots.{ONLY_ROOTS}");
        return problem(key, "no file may be named: give roots, or leave this out");
    }
    Ok(roots)
}

/// Where an executor of any kind has copies, taken out of its table; a problem's key is what follows
/// `executor.<name>`.
fn stage(table: &mut toml::Table) -> Result<Option<Stage>, Problem> {
    let dir = match table.remove("stage_dir") {
        Some(toml::Value::String(dir)) => Some(PathBuf::from(dir)),
        Some(other) => {
            return problem(
                ".stage_dir",
                format!("is a directory in quotes, not {other}"),
            );
        }
        None => None,
    };
    let gib = match table.remove("stage_gib") {
        Some(toml::Value::Integer(gib)) => Some(gib as f64),
        Some(toml::Value::Float(gib)) => Some(gib),
        Some(other) => return problem(".stage_gib", format!("is a number, not {other}")),
        None => None,
    };
    match (dir, gib) {
        (None, None) => Ok(None),
        (Some(dir), Some(gib)) => {
            if !dir.is_absolute() {
                let no_path = format!("`{}` is no absolute path", dir.display());
                return problem(".stage_dir", no_path);
            }
            if !(gib.is_finite() && gib > 0.0) {
                return problem(".stage_gib", "must be greater than 0");
            }
            Ok(Some(Stage { dir, gib }))
        }
        (Some(_), None) => problem(
            "",
            "has a `stage_dir`: say how much it may take, as `stage_gib = 200`",
        ),
        (None, Some(_)) => problem(
            "",
            "has a `stage_gib`: say where, as `stage_dir = \"/scratch/imprint\"`",
        ),
    }
}

/// An executor of its kind; a problem's key is what follows `executor.<name>`.
fn executor(mut table: toml::Table, base: &Path) -> Result<ExecutorConfig, Problem> {
    let kinds = "\"local\" or \"slurm\"";
    match table.remove("kind") {
        Some(toml::Value::String(kind)) if kind == "local" => {
            let local: LocalForm = of_table(table)?;
            Ok(ExecutorConfig::Local(local.config()?))
        }
        Some(toml::Value::String(kind)) if kind == "slurm" => {
            let slurm: SlurmConfig = of_table(table)?;
            Ok(ExecutorConfig::Slurm(Box::new(slurm.checked(base)?)))
        }
        Some(other) => problem(
            ".kind",
            format!("{other} is no kind of executor: {kinds} is"),
        ),
        None => problem("", format!("`kind` is missing: {kinds}")),
    }
}

fn of_table<T: DeserializeOwned>(table: toml::Table) -> Result<T, Problem> {
    let read = T::deserialize(toml::Value::Table(table));
    read.map_err(|err| {
        // The message, then where in the table.
        let text = err.to_string();
        (String::new(), text.trim().replace('\n', " "))
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LocalForm {
    #[serde(default)]
    slots: Option<u16>,
    #[serde(default)]
    gpus: Option<Vec<u32>>,
}

impl LocalForm {
    fn config(self) -> Result<LocalConfig, Problem> {
        match (self.slots, self.gpus) {
            (Some(slots), None) => Ok(LocalConfig {
                slots: slots.into(),
                gpus: Vec::new(),
            }),
            (None, Some(gpus)) if !gpus.is_empty() => Ok(LocalConfig {
                slots: gpus.len(),
                gpus,
            }),
            (None, Some(_)) => problem(".gpus", "names no GPU; give `slots` for the CPU"),
            (Some(_), Some(_)) => problem(".slots", "each of `gpus` is a slot: leave this out"),
            (None, None) => problem(
                "",
                "say how many trainers run at the same time: `slots = 2`, or `gpus = [0, 1]`, one \
                 on each",
            ),
        }
    }
}

/// A GPU has one slot.
fn check_gpus(executors: &BTreeMap<String, ExecutorConfig>) -> Result<(), Problem> {
    let mut taken = BTreeSet::new();
    for (name, config) in executors {
        if let ExecutorConfig::Local(local) = config
            && let Some(gpu) = local.gpus.iter().find(|&&gpu| !taken.insert(gpu))
        {
            return problem(
                format!("executor.{name}.gpus"),
                format!("GPU {gpu} is named twice; it has one slot"),
            );
        }
    }
    Ok(())
}

/// Options of `sbatch` that are ours to give: with others a job would be another one, could not be
/// found again, or would have no log.
const OUR_OPTIONS: [&str; 20] = [
    "array",
    "chdir",
    "clusters",
    "comment",
    "dependency",
    "error",
    "help",
    "job-name",
    "no-requeue",
    "open-mode",
    "output",
    "parsable",
    "requeue",
    "signal",
    "test-only",
    "uid",
    "usage",
    "version",
    "wait",
    "wrap",
];

/// Fails, in words that follow it, where a site may not give an argument to `sbatch`.
fn check_argument(argument: &str) -> Result<(), &'static str> {
    // A letter may be followed by others, and by what they are set to.
    let Some(option) = argument.strip_prefix("--") else {
        return Err("is no option in its long form; write it as \"--option=value\"");
    };
    let name = option.split_once('=').map_or(option, |(name, _)| name);
    // `sbatch` takes any beginning that no other option has.
    match OUR_OPTIONS.iter().any(|ours| ours.starts_with(name)) {
        true => Err("is set for each job by what else is in this file"),
        false => Ok(()),
    }
}

/// The longest beginning of a job's name: of the whole, `squeue` is asked for 128.
const NAME_CHARS: usize = 64;

impl SlurmConfig {
    /// Whether a job is given GPUs, as far as this file says.
    fn asks_for_gpus(&self) -> bool {
        let by_argument = |argument: &String| {
            let generic = argument.starts_with("--gres=") && argument.contains("gpu");
            generic || argument.starts_with("--gpus")
        };
        self.gres.as_ref().is_some_and(|gres| gres.contains("gpu"))
            || self.arguments.iter().any(by_argument)
    }

    /// With its template read; the path is taken from the site file's directory `base`.
    fn checked(mut self, base: &Path) -> Result<Self, Problem> {
        for (key, text) in [
            (".partition", &self.partition),
            (".account", &self.account),
            (".qos", &self.qos),
            (".gres", &self.gres),
            (".constraint", &self.constraint),
        ] {
            if text.as_ref().is_some_and(|text| text.is_empty()) {
                return problem(key, "is empty: leave it out");
            }
        }
        let of_lines = [(".arguments", &self.arguments), (".setup", &self.setup)];
        for (key, texts) in of_lines {
            if let Some(text) = texts.iter().find(|t| t.contains(['\n', '\0'])) {
                return problem(key, format!("{text:?} is not one line; give one a value"));
            }
        }
        for argument in &self.arguments {
            if let Err(why) = check_argument(argument) {
                return problem(".arguments", format!("`{argument}` {why}"));
            }
        }
        if !is_name(&self.name) || self.name.len() > NAME_CHARS {
            let want = format!("use letters, digits, `-`, `_` and `.` only, {NAME_CHARS} at most");
            return problem(".name", want);
        }
        for (key, zero) in [
            (".max_jobs", self.max_jobs == 0),
            (".poll_seconds", self.poll_seconds == 0),
            (".requeue_exit", self.requeue_exit == 0),
        ] {
            if zero {
                return problem(key, "must be 1 at least");
            }
        }
        let notice = Duration::from_secs(self.signal_seconds.into());
        if self.time_limit.is_some_and(|limit| limit <= notice) {
            let all = "is all of `time_limit`: nothing would be trained";
            return problem(".signal_seconds", format!("{} {all}", self.signal_seconds));
        }
        if let Some(path) = self.template.take() {
            let path = base.join(path);
            if !self.setup.is_empty() {
                return problem(
                    ".setup",
                    "goes into the `template`, which is the whole script",
                );
            }
            let script = fs::read_to_string(&path)
                .map_err(|err| (".template".to_owned(), format!("{}: {err}", path.display())))?;
            if !script.starts_with("#!") {
                let no_script = "is no script: its first line must name the shell, as #!/bin/sh";
                return problem(".template", format!("{} {no_script}", path.display()));
            }
            if let Err(why) = check_template(&script) {
                return problem(".template", format!("{} {why}", path.display()));
            }
            self.template = Some(script);
        }
        Ok(self)
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// Minutes, or text in one of Slurm's forms.
fn time_limit<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    const WANT: &str = "write minutes, or \"HOURS:MINUTES:SECONDS\" (after \"DAYS-\", if you like), more than nothing";
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Minutes(u32),
        Text(String),
    }
    let seconds = match Form::deserialize(from) {
        Ok(Form::Minutes(minutes)) => Some(u64::from(minutes) * 60),
        Ok(Form::Text(text)) => seconds(&text),
        Err(_) => None,
    };
    match seconds {
        Some(seconds) if seconds > 0 => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(serde::de::Error::custom(WANT)),
    }
}

/// The seconds of a time as Slurm writes it: `minutes`, `minutes:seconds`, `hours:minutes:seconds`,
/// `days-hours`, `days-hours:minutes` or `days-hours:minutes:seconds`.
fn seconds(text: &str) -> Option<u64> {
    let number = |part: &str| {
        let is_number = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| part.parse::<u32>().ok().map(u64::from))?
    };
    let (days, rest) = match text.split_once('-') {
        Some((days, rest)) => (Some(number(days)?), rest),
        None => (None, text),
    };
    let parts: Vec<u64> = rest.split(':').map(number).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = match (days, parts.as_slice()) {
        (None, &[minutes]) => [0, minutes, 0],
        (None, &[minutes, seconds]) => [0, minutes, seconds],
        (Some(_), &[hours]) => [hours, 0, 0],
        (Some(_), &[hours, minutes]) => [hours, minutes, 0],
        (_, &[hours, minutes, seconds]) => [hours, minutes, seconds],
        _ => return None,
    };
    Some(((days.unwrap_or(0) * 24 + hours) * 60 + minutes) * 60 + seconds)
}

#[cfg(test)]
mod tests;
