//! Reading a log of any length: one record is in memory at a time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use imprint_core::{Depth, FactId, Span};
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use sha2::{Digest as _, Sha256};

use super::{Layout, LoggedProbe, key};

/// One step's values, each in the order of [`Layout::probes`].
///
/// # Units
/// Nats, the mean over the span's tokens of the cross-entropy: at least 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Record {
    pub(crate) step: u64,
    pub(crate) first_nats: Vec<f64>,
    pub(crate) target_nats: Vec<f64>,
    pub(crate) full_nats: Vec<f64>,
}

/// What `NaN` means.
///
/// The reference's code writes it where every token of a span has a loss of exactly 0, for it takes
/// the mean over the losses that are not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NanRule {
    Refuse,
    Zero,
}

/// What a whole log holds.
#[derive(Clone, Debug)]
pub(crate) struct Scan {
    pub(crate) sha256: String,
    pub(crate) layout: Layout,
    /// Ascending.
    pub(crate) steps: Vec<u64>,
    /// Values read as 0 by [`NanRule::Zero`].
    pub(crate) n_nan: u64,
    /// Values that are not float32, in which they are stored.
    pub(crate) n_rounded: u64,
    /// Whether no value of the first record is below 1, as in perplexities.
    pub(crate) looks_like_perplexity: bool,
    /// Keys that were not looked at.
    pub(crate) other_keys: BTreeSet<String>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("{}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Where in the file, and where in the JSON.
    #[error("{}: byte {offset}{place}: {problem}", path.display())]
    Invalid {
        path: PathBuf,
        offset: u64,
        place: String,
        problem: String,
    },
}

/// Losses beyond this do not fit the float32 that sums are stored in.
const MAX_LOSS_NATS: f64 = 1e30;

/// Other keys named at most.
const MAX_OTHER_KEYS: usize = 8;

/// Everything about a log but its values, each of which is checked.
///
/// # Errors
/// When the file cannot be read, is not such a log, or holds what cannot be.
pub(crate) fn scan(path: &Path, nan: NanRule) -> Result<Scan, ReadError> {
    let mut steps = Vec::new();
    let mut n_rounded = 0;
    let mut looks_like_perplexity = true;
    let read = read(path, nan, |record| {
        let spans = [&record.first_nats, &record.target_nats, &record.full_nats];
        for &value in spans.into_iter().flatten() {
            n_rounded += u64::from(f64::from(value as f32) != value);
            looks_like_perplexity &= value >= 1.0 || !steps.is_empty();
        }
        steps.push(record.step);
        Ok(())
    })?;
    let Some(layout) = read.layout.filter(|_| steps.len() >= 2) else {
        return Err(ReadError::Invalid {
            path: path.to_owned(),
            offset: read.n_bytes,
            place: String::new(),
            problem: format!(
                "the log has {} records; a run has two at least",
                steps.len()
            ),
        });
    };
    Ok(Scan {
        sha256: read.sha256,
        looks_like_perplexity: looks_like_perplexity && !layout.probes.is_empty(),
        layout,
        steps,
        n_nan: read.n_nan,
        n_rounded,
        other_keys: read.other_keys,
    })
}

/// Hands every record to `each`, which may end the reading with a problem; returns the log's hash.
///
/// # Errors
/// Those of [`scan`], and the problem.
pub(crate) fn records(
    path: &Path,
    nan: NanRule,
    each: impl FnMut(&Record) -> Result<(), String>,
) -> Result<String, ReadError> {
    read(path, nan, each).map(|read| read.sha256)
}

struct WholeLog {
    sha256: String,
    n_bytes: u64,
    layout: Option<Layout>,
    n_nan: u64,
    other_keys: BTreeSet<String>,
}

fn read(
    path: &Path,
    nan: NanRule,
    mut each: impl FnMut(&Record) -> Result<(), String>,
) -> Result<WholeLog, ReadError> {
    let file = File::open(path).map_err(|source| ReadError::Open {
        path: path.to_owned(),
        source,
    })?;
    let place = Place::default();
    let source = Source::new(file, &place, nan);
    let mut json = serde_json::Deserializer::from_reader(source);
    let mut log = Log {
        place: &place,
        raw: Default::default(),
        layout: None,
        record: Record::default(),
        last_step: None,
        other_keys: BTreeSet::new(),
        each: &mut each,
    };
    let parsed = (&mut log).deserialize(&mut json).and_then(|()| {
        place.leave();
        json.end()
    });
    match parsed {
        Ok(()) => Ok(WholeLog {
            sha256: format!("{:x}", place.hash.take().finalize()),
            n_bytes: place.offset.get(),
            layout: log.layout,
            n_nan: place.n_nan.get(),
            other_keys: log.other_keys,
        }),
        Err(error) => Err(ReadError::Invalid {
            path: path.to_owned(),
            offset: place.offset.get(),
            place: place.to_string(),
            problem: match place.met_nan.get() {
                true => "NaN, which the reference's code writes where every token of a span has a \
                         loss of exactly 0; `--nan zero` reads it so"
                    .to_owned(),
                false => error.to_string(),
            },
        }),
    }
}

/// How far the reading is: told in errors.
#[derive(Default)]
struct Place {
    offset: Cell<u64>,
    record: Cell<Option<u64>>,
    key: Cell<Option<&'static str>>,
    fact: Cell<Option<usize>>,
    ordinal: Cell<Option<usize>>,
    hash: RefCell<Sha256>,
    n_nan: Cell<u64>,
    met_nan: Cell<bool>,
}

impl Place {
    fn leave(&self) {
        self.record.set(None);
        self.enter(None);
    }

    fn enter(&self, key: Option<&'static str>) {
        self.key.set(key);
        self.fact.set(None);
        self.ordinal.set(None);
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(record) = self.record.get() else {
            return Ok(());
        };
        write!(f, ", [{record}]")?;
        if let Some(key) = self.key.get() {
            write!(f, ".{key}")?;
        }
        for index in [self.fact.get(), self.ordinal.get()].into_iter().flatten() {
            write!(f, "[{index}]")?;
        }
        Ok(())
    }
}

/// A file that is read byte by byte, counted and hashed, with `NaN`, which JSON does not know, seen.
struct Source<'a> {
    file: File,
    buffer: Vec<u8>,
    filled: usize,
    at: usize,
    place: &'a Place,
    nan: NanRule,
    in_string: bool,
    /// How much of a `NaN` has passed.
    n_letters: usize,
}

impl<'a> Source<'a> {
    fn new(file: File, place: &'a Place, nan: NanRule) -> Self {
        Self {
            file,
            buffer: vec![0; 256 << 10],
            filled: 0,
            at: 0,
            place,
            nan,
            in_string: false,
            n_letters: 0,
        }
    }

    /// The byte, or with [`NanRule::Zero`] that of `0.0` in the place of `NaN`.
    fn pass(&mut self, byte: u8) -> u8 {
        if byte == b'"' {
            // No key of a log holds an escaped quote; another file fails soon enough.
            self.in_string = !self.in_string;
        }
        if self.in_string || b"NaN".get(self.n_letters) != Some(&byte) {
            self.n_letters = 0;
            return byte;
        }
        self.n_letters += 1;
        match self.nan {
            NanRule::Refuse => {
                self.place.met_nan.set(true);
                byte
            }
            NanRule::Zero => {
                if self.n_letters == 3 {
                    self.n_letters = 0;
                    self.place.n_nan.set(self.place.n_nan.get() + 1);
                    return b'0';
                }
                b"0."[self.n_letters - 1]
            }
        }
    }
}

impl Read for Source<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        if self.at == self.filled {
            self.filled = self.file.read(&mut self.buffer)?;
            self.at = 0;
            if self.filled == 0 {
                return Ok(0);
            }
            self.place
                .hash
                .borrow_mut()
                .update(&self.buffer[..self.filled]);
        }
        // The parser asks for one byte at a time.
        let byte = self.buffer[self.at];
        into[0] = self.pass(byte);
        self.at += 1;
        self.place.offset.set(self.place.offset.get() + 1);
        Ok(1)
    }
}

/// One table of a record as it stands: lists of any length, with their nulls.
#[derive(Default)]
struct RawTable {
    /// Where each fact's values end.
    ends: Vec<usize>,
    values: Vec<Option<f64>>,
}

impl RawTable {
    fn clear(&mut self) {
        self.ends.clear();
        self.values.clear();
    }

    fn facts(&self) -> impl Iterator<Item = &[Option<f64>]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(from, &to)| &self.values[from..to])
    }
}

struct Log<'a, F> {
    place: &'a Place,
    /// By depth and span.
    raw: [[RawTable; 3]; 3],
    layout: Option<Layout>,
    record: Record,
    last_step: Option<u64>,
    other_keys: BTreeSet<String>,
    each: F,
}

impl<'de, F: FnMut(&Record) -> Result<(), String>> DeserializeSeed<'de> for &mut Log<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(&Record) -> Result<(), String>> Visitor<'de> for &mut Log<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut records: A) -> Result<(), A::Error> {
        for index in 0.. {
            self.place.leave();
            self.place.record.set(Some(index));
            if records.next_element_seed(OneRecord(&mut *self))?.is_none() {
                break;
            }
            self.take().map_err(A::Error::custom)?;
        }
        self.place.leave();
        Ok(())
    }
}

impl<F: FnMut(&Record) -> Result<(), String>> Log<'_, F> {
    /// Checks the record that was read and hands it on.
    fn take(&mut self) -> Result<(), String> {
        let step = self.record.step;
        self.place.enter(Some("step"));
        if let Some(last) = self.last_step.replace(step)
            && step <= last
        {
            return Err(format!("step {step} after step {last}; steps ascend"));
        }
        if self.layout.is_none() {
            self.layout = Some(self.learn_layout()?);
        }
        if let Some(layout) = self.layout.take() {
            let taken = self.fill(&layout);
            self.layout = Some(layout);
            taken?;
        }
        self.place.enter(None);
        (self.each)(&self.record)
    }

    /// Which probes there are, by the first record.
    fn learn_layout(&self) -> Result<Layout, String> {
        let n_facts = self.raw[0][0].ends.len();
        let mut probes = Vec::new();
        for (depth, tables) in Depth::ALL.into_iter().zip(&self.raw) {
            self.place.enter(Some(key(depth, Span::First)));
            if tables[0].ends.len() != n_facts {
                return Err(format!(
                    "{} facts, but `mem_first` has {n_facts}",
                    tables[0].ends.len()
                ));
            }
            for (fact, values) in tables[0].facts().enumerate() {
                if values.len() > usize::from(u16::MAX) {
                    return Err(format!("{} probes of fact {fact}", values.len()));
                }
                let present = values.iter().zip(0..).filter(|(v, _)| v.is_some());
                probes.extend(present.map(|(_, ordinal)| {
                    Some(LoggedProbe {
                        fact: FactId(fact as u32),
                        depth,
                        ordinal,
                    })
                }));
            }
        }
        if probes.is_empty() {
            self.place.enter(None);
            return Err("there is no probe in the first record".to_owned());
        }
        // In the order of probe sets: each fact's probes together.
        probes.sort_unstable();
        Ok(Layout::of_probes(n_facts, &probes))
    }

    fn fill(&mut self, layout: &Layout) -> Result<(), String> {
        for (s, span) in Span::ALL.into_iter().enumerate() {
            let values = match span {
                Span::First => &mut self.record.first_nats,
                Span::Target => &mut self.record.target_nats,
                Span::Full => &mut self.record.full_nats,
            };
            values.clear();
            values.resize(layout.probes.len(), 0.0);
            for (depth, tables) in Depth::ALL.into_iter().zip(&self.raw) {
                self.place.enter(Some(key(depth, span)));
                let raw = &tables[s];
                if raw.ends.len() != layout.n_facts {
                    return Err(format!(
                        "{} facts, but the log begins with {}",
                        raw.ends.len(),
                        layout.n_facts
                    ));
                }
                for (fact, (found, expected)) in
                    raw.facts().zip(&layout.tables[depth.index()]).enumerate()
                {
                    self.place.fact.set(Some(fact));
                    // What is missing at the end of a list is as good as null.
                    for ordinal in 0..found.len().max(expected.len()) {
                        self.place.ordinal.set(Some(ordinal));
                        let found = found.get(ordinal).copied().flatten();
                        match (found, expected.get(ordinal).copied().flatten()) {
                            (Some(value), Some(position)) => values[position] = value,
                            (None, None) => {}
                            (None, Some(_)) => {
                                return Err("no value, but the log begins with one".to_owned());
                            }
                            (Some(_), None) => {
                                return Err("a value, but the log begins with none".to_owned());
                            }
                        }
                    }
                    self.place.ordinal.set(None);
                }
            }
        }
        Ok(())
    }
}

struct OneRecord<'a, 'b, F>(&'a mut Log<'b, F>);

impl<'de, F> DeserializeSeed<'de> for OneRecord<'_, '_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de, F> Visitor<'de> for OneRecord<'_, '_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record: an object with `step` and lists of losses")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Self(log) = self;
        let mut step = None;
        let mut has = [[false; 3]; 3];
        while let Some(name) = entries.next_key::<String>()? {
            if name == "step" {
                log.place.enter(Some("step"));
                step = Some(entries.next_value_seed(Step)?);
            } else if let Some((depth, span)) = table_of(&name) {
                log.place.enter(Some(key(depth, span)));
                let s = span as usize;
                let table = &mut log.raw[depth.index()][s];
                table.clear();
                has[depth.index()][s] = true;
                let place = log.place;
                entries.next_value_seed(Facts { table, place })?;
            } else {
                log.place.enter((name == "def").then_some("def"));
                entries.next_value::<IgnoredAny>()?;
                if name != "def" && log.other_keys.len() < MAX_OTHER_KEYS {
                    log.other_keys.insert(name);
                }
            }
            log.place.enter(None);
        }
        log.record.step = step.ok_or_else(|| A::Error::custom("`step` is missing"))?;
        for depth in Depth::ALL {
            for span in Span::ALL {
                if !has[depth.index()][span as usize] {
                    let name = key(depth, span);
                    return Err(A::Error::custom(format_args!("`{name}` is missing")));
                }
            }
        }
        Ok(())
    }
}

fn table_of(name: &str) -> Option<(Depth, Span)> {
    let all = Depth::ALL
        .into_iter()
        .flat_map(|d| Span::ALL.map(|s| (d, s)));
    all.into_iter()
        .find(|&(depth, span)| key(depth, span) == name)
}

/// A whole number; also as a text.
struct Step;

impl<'de> DeserializeSeed<'de> for Step {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<u64, D::Error> {
        json.deserialize_any(self)
    }
}

impl Visitor<'_> for Step {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number of steps")
    }

    fn visit_u64<E>(self, step: u64) -> Result<u64, E> {
        Ok(step)
    }

    fn visit_str<E: serde::de::Error>(self, step: &str) -> Result<u64, E> {
        step.parse()
            .map_err(|_| E::invalid_value(serde::de::Unexpected::Str(step), &self))
    }
}

struct Facts<'a> {
    table: &'a mut RawTable,
    place: &'a Place,
}

impl<'de> DeserializeSeed<'de> for Facts<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Facts<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list with a list for each fact")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut facts: A) -> Result<(), A::Error> {
        let Self { table, place } = self;
        loop {
            place.fact.set(Some(table.ends.len()));
            let values = &mut table.values;
            if facts.next_element_seed(Probes { values, place })?.is_none() {
                return Ok(());
            }
            table.ends.push(table.values.len());
            place.ordinal.set(None);
        }
    }
}

struct Probes<'a> {
    values: &'a mut Vec<Option<f64>>,
    place: &'a Place,
}

impl<'de> DeserializeSeed<'de> for Probes<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Probes<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list with a loss for each probe of the fact")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        for ordinal in 0.. {
            self.place.ordinal.set(Some(ordinal));
            let Some(value) = values.next_element::<Option<f64>>()? else {
                break;
            };
            if let Some(loss) = value {
                check(loss).map_err(A::Error::custom)?;
            }
            self.values.push(value);
        }
        Ok(())
    }
}

fn check(loss: f64) -> Result<(), String> {
    if loss < 0.0 {
        return Err(format!(
            "{loss} is below 0; a log holds cross-entropies, not log-probabilities"
        ));
    }
    if loss > MAX_LOSS_NATS {
        return Err(format!("{loss:e} nats are more than can be stored"));
    }
    Ok(())
}
