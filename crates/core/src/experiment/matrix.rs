//! The matrix of an experiment file: its axes, its cells, and what is different in each.
//!
//! Fields are set in the parsed file before it is read as an experiment, so that every value is
//! held to what its field may be, and an error shows the line of the matrix that it comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::Deserialize;
use serde::de::IntoDeserializer as _;
use sha2::{Digest as _, Sha256};
use toml::de::{DeArray, DeInteger, DeTable, DeValue};
use toml::{Spanned, Value};

/// Cells of one file at most: what is known of each run still fits one answer (16 MiB).
pub(super) const MAX_CELLS: usize = 50_000;

/// The longest value that stands in a label as it is; of a longer one it has the beginning and a
/// hash.
const MAX_VALUE_CHARS: usize = 40;

/// A value with its place in the file.
type Raw<'i> = Spanned<DeValue<'i>>;

/// What is wrong, under which key, and where in the text.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) key: String,
    pub(super) problem: String,
    pub(super) span: Range<usize>,
}

fn refuse<T>(
    key: impl Into<String>,
    span: Range<usize>,
    problem: impl Into<String>,
) -> Result<T, Problem> {
    Err(Problem {
        key: key.into(),
        problem: problem.into(),
        span,
    })
}

/// What differs between cells: one of the four lists that every file has, or a field by its path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Checkpoint,
    Scenario,
    BatchSize,
    Seed,
    Field(Vec<String>),
}

/// The axes that every file has, with the keys of their lists.
const SHORT: [(Key, &str, &str); 4] = [
    (Key::Checkpoint, "checkpoint", "[[checkpoint]]"),
    (Key::Scenario, "scenario", "scenarios"),
    (Key::BatchSize, "batch_size", "batch_sizes"),
    (Key::Seed, "seed", "seeds"),
];

impl Key {
    fn of(path: Vec<String>) -> Self {
        let short = SHORT.iter().find(|(_, name, _)| path == [*name]);
        short.map_or(Self::Field(path), |(key, _, _)| key.clone())
    }

    fn text(&self) -> String {
        match self {
            Self::Field(path) => path.join("."),
            short => {
                let found = SHORT.iter().find(|(key, _, _)| key == short);
                found.map_or("", |(_, name, _)| name).to_owned()
            }
        }
    }

    /// Why a field cannot differ between the runs of an experiment.
    fn obstacle(&self) -> Option<&'static str> {
        let Self::Field(path) = self else {
            return None;
        };
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        match path.as_slice() {
            ["name"] => Some("is the experiment's; runs get labels of their own"),
            ["matrix", ..] => Some("is what this is"),
            ["checkpoint", ..] => Some(
                "is an axis already: give another [[checkpoint]], which may have the same `path`",
            ),
            ["scenarios" | "batch_sizes" | "seeds", ..] => {
                Some("is an axis already: a list at the top of the file, or one value in a zip")
            }
            ["data"]
            | ["data", "corpus"]
            | [
                "data",
                "facts" | "tokenizer" | "facts_sha256" | "tokenizer_sha256",
                ..,
            ]
            | [
                "data",
                "corpus",
                "files" | "files_sha256" | "format" | "text_field" | "order_sha256",
                ..,
            ]
            | ["data", "corpus", "order", "path"] => Some(
                "is the same for all runs of an experiment, which read one corpus and one facts \
                 file; make another experiment file",
            ),
            _ => None,
        }
    }
}

/// A value of an axis: what it is, and as it stands in the file.
#[derive(Debug)]
struct Entry<'i> {
    value: Value,
    raw: Raw<'i>,
}

/// All values of something that differs between cells.
#[derive(Debug)]
struct Axis<'i> {
    key: Key,
    key_span: Range<usize>,
    entries: Vec<Entry<'i>>,
    /// Where in `entries` a value is.
    positions: BTreeMap<String, usize>,
}

impl<'i> Axis<'i> {
    fn new(key: Key, key_span: Range<usize>) -> Self {
        Self {
            key,
            key_span,
            entries: Vec::new(),
            positions: BTreeMap::new(),
        }
    }

    fn find(&self, value: &Value) -> Option<usize> {
        self.positions.get(&canonical(value)).copied()
    }

    /// The position of a value, which is added where it is new.
    fn intern(&mut self, raw: &Raw<'i>) -> usize {
        let value = plain(raw);
        let n = self.entries.len();
        let at = *self.positions.entry(canonical(&value)).or_insert(n);
        if at == n {
            let raw = raw.clone();
            self.entries.push(Entry { value, raw });
        }
        at
    }

    fn values(&self) -> String {
        const MANY: usize = 12;
        let values = self.entries.iter().take(MANY).map(|e| e.value.to_string());
        let more = match self.entries.len() > MANY {
            true => ", …",
            false => "",
        };
        format!("{}{more}", values.collect::<Vec<_>>().join(", "))
    }
}

/// Axes whose values go together one by one; an axis of a product is alone.
struct Group<'i> {
    columns: Vec<(Key, Range<usize>, Vec<Raw<'i>>)>,
}

/// For each axis the position of a cell's value.
type Cell = Vec<usize>;

/// The axes of a file and its cells.
#[derive(Debug)]
pub(super) struct Matrix<'i> {
    /// In the order of their keys, on which nothing in the file has an influence.
    axes: Vec<Axis<'i>>,
    cells: Vec<Cell>,
}

/// Cells in which the fields have the same values.
#[derive(Debug)]
pub(super) struct Variant<'i> {
    /// The file with those values.
    pub(super) document: Raw<'i>,
    /// What the labels of its runs end in.
    pub(super) suffix: String,
    /// Those values, in words; empty where there are none.
    pub(super) words: String,
    /// Positions in its lists of checkpoints, scenarios, batch sizes and seeds.
    pub(super) cells: Vec<[usize; 4]>,
}

impl<'i> Matrix<'i> {
    /// Takes the table `matrix` out of a file; `None` where there is none.
    pub(super) fn take(document: &mut DeTable<'i>) -> Result<Option<Self>, Problem> {
        let Some(raw) = document.remove("matrix") else {
            return Ok(None);
        };
        let span = raw.span();
        let DeValue::Table(mut form) = raw.into_inner() else {
            return refuse(
                "matrix",
                span,
                "is a table: `[matrix.product]`, `[[matrix.zip]]`",
            );
        };
        let product = match form.remove("product") {
            None => DeTable::new(),
            Some(raw) => {
                let span = raw.span();
                match raw.into_inner() {
                    DeValue::Table(table) => table,
                    _ => return refuse("matrix.product", span, "is a table: `[matrix.product]`"),
                }
            }
        };
        let zips = tables(&mut form, "zip")?;
        let excludes = tables(&mut form, "exclude")?;
        let includes = tables(&mut form, "include")?;
        if let Some(key) = form.keys().next() {
            let names = "there are `product`, `zip`, `exclude` and `include`";
            let key_text = format!("matrix.{}", key.get_ref());
            let dotted = "; fields of the runs go into `[matrix.product]`";
            return refuse(key_text, key.span(), format!("is unknown; {names}{dotted}"));
        }
        let groups = groups(document, &product, &zips)?;
        let mut matrix = Self::of_groups(document, &groups)?;
        for (span, table) in &excludes {
            matrix.exclude(span, table)?;
        }
        let several: Vec<bool> = matrix.axes.iter().map(|a| a.entries.len() > 1).collect();
        for (span, table) in &includes {
            matrix.include(span, table, &several)?;
        }
        if matrix.cells.is_empty() {
            return refuse("matrix.exclude", span, "leaves no cell");
        }
        matrix.check_checkpoints()?;
        Ok(Some(matrix))
    }

    /// Fails where a checkpoint of the file has no cell: nobody would see that it is not run.
    fn check_checkpoints(&self) -> Result<(), Problem> {
        for (axis, of) in self.axes.iter().enumerate() {
            if of.key != Key::Checkpoint {
                continue;
            }
            let used: BTreeSet<usize> = self.cells.iter().map(|cell| cell[axis]).collect();
            let unused = of.entries.iter().enumerate();
            if let Some((_, Entry { value, raw })) =
                unused.into_iter().find(|(at, _)| !used.contains(at))
            {
                let problem = format!(
                    "no cell of the matrix has {value}, so it would not be run: name it in \
                     `matrix.zip` or `matrix.include`, leave out less, or remove its table"
                );
                return refuse("checkpoint.name", raw.span(), problem);
            }
        }
        Ok(())
    }

    fn of_groups(document: &DeTable<'i>, groups: &[Group<'i>]) -> Result<Self, Problem> {
        // Checkpoints are known by their position in the file, whatever the order in a zip.
        let mut checkpoints = Axis::new(Key::Checkpoint, 0..0);
        for name in checkpoint_names(document) {
            checkpoints.intern(&name);
        }
        let mut axes = vec![checkpoints];
        for (key, key_span, _) in groups.iter().flat_map(|g| &g.columns) {
            if axes.iter().all(|axis| axis.key != *key) {
                axes.push(Axis::new(key.clone(), key_span.clone()));
            }
        }
        axes.sort_by(|a, b| a.key.cmp(&b.key));
        let mut n_cells = Some(1_usize);
        let mut rows_of_groups = Vec::with_capacity(groups.len());
        for group in groups {
            let rows = rows(group, &mut axes)?;
            n_cells = n_cells.and_then(|n| n.checked_mul(rows.len()));
            rows_of_groups.push(rows);
        }
        check_size(n_cells).map_err(|problem| Problem {
            key: "matrix".to_owned(),
            problem,
            span: groups
                .last()
                .and_then(|g| g.columns.first())
                .map_or(0..0, |(_, span, _)| span.clone()),
        })?;
        let mut cells = vec![vec![0; axes.len()]];
        for rows in rows_of_groups {
            cells = cells
                .iter()
                .flat_map(|cell| {
                    rows.iter().map(|row| {
                        let mut cell = cell.clone();
                        row.iter().for_each(|&(axis, at)| cell[axis] = at);
                        cell
                    })
                })
                .collect();
        }
        Ok(Self { axes, cells })
    }

    /// What a table of `exclude` or `include` says, by axis.
    fn said(
        &self,
        name: &str,
        table: &DeTable<'i>,
    ) -> Result<BTreeMap<usize, (Range<usize>, Raw<'i>)>, Problem> {
        let keys: Vec<&Key> = self.axes.iter().map(|axis| &axis.key).collect();
        let is_axis = |path: &[String]| keys.iter().any(|k| **k == Key::of(path.to_vec()));
        let mut said = BTreeMap::new();
        for (path, span, raw) in flatten(table, &|path, _| is_axis(path))? {
            let key = Key::of(path);
            let Some(axis) = keys.iter().position(|k| **k == key) else {
                let axes: Vec<String> = keys.iter().map(|key| key.text()).collect();
                let problem = format!(
                    "is no axis of this file, which has {}; make it one in `[matrix.product]`, if \
                     need be of one value",
                    axes.join(", ")
                );
                return refuse(format!("{name}.{}", key.text()), span, problem);
            };
            if said.insert(axis, (span.clone(), raw)).is_some() {
                return refuse(format!("{name}.{}", key.text()), span, "stands there twice");
            }
        }
        Ok(said)
    }

    fn exclude(&mut self, span: &Range<usize>, table: &DeTable<'i>) -> Result<(), Problem> {
        const NAME: &str = "matrix.exclude";
        let said = self.said(NAME, table)?;
        if said.is_empty() {
            return refuse(NAME, span.clone(), "says nothing, and would leave no cell");
        }
        let mut wanted = Vec::with_capacity(said.len());
        for (axis, (span, raw)) in said {
            let (value, axis_of) = (plain(&raw), &self.axes[axis]);
            let Some(at) = axis_of.find(&value) else {
                let (key, values) = (axis_of.key.text(), axis_of.values());
                let problem = format!("no cell has {value}; its values are {values}");
                return refuse(format!("{NAME}.{key}"), span, problem);
            };
            wanted.push((axis, at));
        }
        let before = self.cells.len();
        self.cells
            .retain(|cell| !wanted.iter().all(|&(axis, at)| cell[axis] == at));
        if self.cells.len() == before {
            let problem = "matches no cell, or only what another one leaves out: remove it";
            return refuse(NAME, span.clone(), problem);
        }
        Ok(())
    }

    fn include(
        &mut self,
        span: &Range<usize>,
        table: &DeTable<'i>,
        several: &[bool],
    ) -> Result<(), Problem> {
        const NAME: &str = "matrix.include";
        let said = self.said(NAME, table)?;
        let mut cell = vec![0; self.axes.len()];
        let mut unsaid = Vec::new();
        for (axis, axis_of) in self.axes.iter_mut().enumerate() {
            let Some((value_span, raw)) = said.get(&axis) else {
                if several[axis] {
                    let (key, values) = (axis_of.key.text(), axis_of.values());
                    unsaid.push(format!("`{key}` (such as {values})"));
                }
                continue;
            };
            if axis_of.key == Key::Checkpoint && axis_of.find(&plain(raw)).is_none() {
                let problem = no_checkpoint(&plain(raw), axis_of);
                return refuse(format!("{NAME}.checkpoint"), value_span.clone(), problem);
            }
            cell[axis] = axis_of.intern(raw);
        }
        if !unsaid.is_empty() {
            let problem = format!("say {} too: an axis with several values", unsaid.join(", "));
            return refuse(NAME, span.clone(), problem);
        }
        if self.cells.contains(&cell) {
            return refuse(NAME, span.clone(), "is a cell already: remove it");
        }
        self.cells.push(cell);
        check_size(Some(self.cells.len())).map_err(|problem| Problem {
            key: NAME.to_owned(),
            problem,
            span: span.clone(),
        })
    }

    /// The file once for each combination of values of fields, in the order of the cells.
    pub(super) fn variants(
        &self,
        document: &Raw<'i>,
    ) -> impl Iterator<Item = Result<Variant<'i>, Problem>> {
        let fields: Vec<usize> = (0..self.axes.len())
            .filter(|&axis| matches!(self.axes[axis].key, Key::Field(_)))
            .collect();
        let mut seen: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
        let mut alike: Vec<Vec<&Cell>> = Vec::new();
        for cell in &self.cells {
            let values: Vec<usize> = fields.iter().map(|&axis| cell[axis]).collect();
            let n = alike.len();
            let at = *seen.entry(values).or_insert(n);
            if at == n {
                alike.push(Vec::new());
            }
            alike[at].push(cell);
        }
        let names = tails(&self.axes);
        alike
            .into_iter()
            .map(move |cells| self.variant(document.clone(), &fields, &names, &cells))
    }

    /// Cells that have the values of fields in common.
    fn variant(
        &self,
        mut document: Raw<'i>,
        fields: &[usize],
        names: &BTreeMap<&Key, String>,
        cells: &[&Cell],
    ) -> Result<Variant<'i>, Problem> {
        let (mut suffix, mut words) = (String::new(), Vec::new());
        for &axis in fields {
            let Axis {
                key,
                key_span,
                entries,
                ..
            } = &self.axes[axis];
            let Entry { value, raw } = &entries[cells[0][axis]];
            let Key::Field(path) = key else {
                continue;
            };
            set(&mut document, path, key_span, raw)?;
            // A repeat is the last of a label, and only where there is one: it renames no other run.
            if *path != ["repeat"] {
                suffix += &format!("-{}", with_value(&names[key], value));
            }
            words.push(format!("`{}` = {value}", key.text()));
        }
        let mut at = vec![[0; 4]; cells.len()];
        for (short, (key, _, list)) in SHORT.iter().enumerate() {
            // Where the file's own list is none, that is for the reader of the whole file to refuse.
            let Some(axis) = self.axes.iter().position(|axis| axis.key == *key) else {
                continue;
            };
            let of_cells = cells.iter().map(|cell| cell[axis]);
            if *key == Key::Checkpoint {
                at.iter_mut()
                    .zip(of_cells)
                    .for_each(|(at, c)| at[short] = c);
                continue;
            }
            let Axis {
                key_span, entries, ..
            } = &self.axes[axis];
            let mut positions = BTreeMap::new();
            let mut values = DeArray::new();
            for (at, value) in at.iter_mut().zip(of_cells) {
                let n = positions.len();
                at[short] = *positions.entry(value).or_insert(n);
                if at[short] == n {
                    values.push(entries[value].raw.clone());
                }
            }
            let span = values[0].span();
            let values = Spanned::new(span, DeValue::Array(values));
            set(&mut document, &[(*list).to_owned()], key_span, &values)?;
        }
        Ok(Variant {
            document,
            suffix,
            words: words.join(" and "),
            cells: at,
        })
    }
}

/// Fails where there are more cells than one file may have.
pub(super) fn check_size(n_cells: Option<usize>) -> Result<(), String> {
    match n_cells {
        Some(n) if n <= MAX_CELLS => Ok(()),
        n => {
            let n = n.map_or("too many".to_owned(), |n| n.to_string());
            Err(format!(
                "the matrix has {n} cells, and one file has {MAX_CELLS} at most; make several \
                 experiments, which share what they have in common"
            ))
        }
    }
}

/// The tables of `[[matrix.<name>]]`, each with its place.
fn tables<'i>(
    form: &mut DeTable<'i>,
    name: &str,
) -> Result<Vec<(Range<usize>, DeTable<'i>)>, Problem> {
    let Some(raw) = form.remove(name) else {
        return Ok(Vec::new());
    };
    let key = format!("matrix.{name}");
    let form = format!("is a list of tables: write `[[{key}]]`");
    let span = raw.span();
    let DeValue::Array(items) = raw.into_inner() else {
        return refuse(key, span, form);
    };
    let table = |item: &Raw<'i>| match item.get_ref() {
        DeValue::Table(table) => Ok((item.span(), table.clone())),
        _ => refuse(key.clone(), item.span(), form.clone()),
    };
    items.iter().map(table).collect()
}

/// The names of the file's checkpoints; those that are none are for the reader of the whole file to
/// refuse.
fn checkpoint_names<'i>(document: &DeTable<'i>) -> Vec<Raw<'i>> {
    let Some(DeValue::Array(tables)) = document.get("checkpoint").map(Spanned::get_ref) else {
        return Vec::new();
    };
    let names = tables.iter().filter_map(|table| match table.get_ref() {
        DeValue::Table(table) => table.get("name").cloned(),
        _ => None,
    });
    names.collect()
}

fn groups<'i>(
    document: &DeTable<'i>,
    product: &DeTable<'i>,
    zips: &[(Range<usize>, DeTable<'i>)],
) -> Result<Vec<Group<'i>>, Problem> {
    let mut of_zips = Vec::with_capacity(zips.len());
    for (span, zip) in zips {
        let columns = columns("matrix.zip", zip)?;
        let Some((first, _, values)) = columns.first() else {
            return refuse("matrix.zip", span.clone(), "names no field");
        };
        if let Some((other, span, others)) = columns.iter().find(|c| c.2.len() != values.len()) {
            let (n, n_others) = (values.len(), others.len());
            return refuse(
                format!("matrix.zip.{}", other.text()),
                span.clone(),
                format!(
                    "has {n_others} values and `{}` has {n}; those of one zip go together one by one",
                    first.text()
                ),
            );
        }
        of_zips.push(Group { columns });
    }
    let of_product = columns("matrix.product", product)?;
    let zipped = of_zips.iter().flat_map(|group| &group.columns);
    check_paths(of_product.iter().chain(zipped).map(|c| (&c.0, &c.1)))?;
    let mut groups = Vec::new();
    for (key, name, list) in &SHORT {
        if let Some((short, span, _)) = of_product.iter().find(|c| c.0 == *key) {
            let problem = format!("is an axis already: `{list}` at the top of the file");
            let key = format!("matrix.product.{}", short.text());
            return refuse(key, span.clone(), problem);
        }
        let zipped = of_zips.iter().flat_map(|group| &group.columns);
        let zipped = zipped.into_iter().find(|column| column.0 == *key);
        let own = match key {
            Key::Checkpoint => Some((0..0, checkpoint_names(document))),
            _ => list_of(document, list),
        };
        match (own, zipped) {
            (Some((span, _)), Some(_)) if *key != Key::Checkpoint => {
                let problem =
                    format!("is given by `matrix.zip.{name}` too; leave one of the two out");
                return refuse(*list, span, problem);
            }
            (_, Some(_)) => {}
            (Some((span, values)), None) if values.is_empty() => {
                return refuse(*list, span, "give at least one");
            }
            (Some((span, values)), None) => groups.push(Group {
                columns: vec![(key.clone(), span, values)],
            }),
            (None, None) if *key == Key::Seed && !document.contains_key(*list) => {
                let zero = Spanned::new(0..0, DeValue::Integer(DeInteger::default()));
                groups.push(Group {
                    columns: vec![(key.clone(), 0..0, vec![zero])],
                });
            }
            // For the reader of the whole file to refuse.
            (None, None) => {}
        }
    }
    let mut of_product = of_product;
    of_product.sort_by(|a, b| a.0.cmp(&b.0));
    groups.extend(of_product.into_iter().map(|column| Group {
        columns: vec![column],
    }));
    groups.extend(of_zips);
    Ok(groups)
}

/// A list at the top of the file.
fn list_of<'i>(document: &DeTable<'i>, list: &str) -> Option<(Range<usize>, Vec<Raw<'i>>)> {
    let raw = document.get(list)?;
    match raw.get_ref() {
        DeValue::Array(values) => Some((raw.span(), values.to_vec())),
        _ => None,
    }
}

type Column<'i> = (Key, Range<usize>, Vec<Raw<'i>>);

/// The fields of a product or a zip, each with its list of values.
fn columns<'i>(name: &str, table: &DeTable<'i>) -> Result<Vec<Column<'i>>, Problem> {
    let mut columns: Vec<Column> = Vec::new();
    for (path, span, raw) in flatten(table, &|_, _| false)? {
        let key = Key::of(path);
        let named = format!("{name}.{}", key.text());
        if let Some(obstacle) = key.obstacle() {
            return refuse(named, span, obstacle);
        }
        let DeValue::Array(values) = raw.get_ref() else {
            return refuse(named, span, "is a list of values, as in `[1, 2]`");
        };
        if values.is_empty() {
            return refuse(named, span, "give at least one");
        }
        columns.push((key, span, values.to_vec()));
    }
    Ok(columns)
}

/// Fails where two axes set the same field, or one sets what the other is in.
fn check_paths<'k>(keys: impl Iterator<Item = (&'k Key, &'k Range<usize>)>) -> Result<(), Problem> {
    let mut keys: Vec<_> = keys.collect();
    keys.sort_by(|a, b| a.0.cmp(b.0));
    for pair in keys.windows(2) {
        let [(first, _), (second, span)] = *pair else {
            continue;
        };
        let (text, span) = (second.text(), span.clone());
        if first == second {
            return refuse(format!("matrix: {text}"), span, "is an axis twice");
        }
        if let (Key::Field(first), Key::Field(path)) = (first, second)
            && path.starts_with(first)
        {
            let problem = format!("is in `{}`, which is an axis too", first.join("."));
            return refuse(format!("matrix: {text}"), span, problem);
        }
    }
    Ok(())
}

/// For each row of a group its axes with the positions of their values.
fn rows<'i>(group: &Group<'i>, axes: &mut [Axis<'i>]) -> Result<Vec<Vec<(usize, usize)>>, Problem> {
    let n_rows = group.columns.first().map_or(0, |c| c.2.len());
    let mut rows = vec![Vec::with_capacity(group.columns.len()); n_rows];
    for (key, _, values) in &group.columns {
        let Some(axis) = axes.iter().position(|axis| axis.key == *key) else {
            continue;
        };
        for (row, raw) in rows.iter_mut().zip(values) {
            let axis_of = &mut axes[axis];
            if *key == Key::Checkpoint && axis_of.find(&plain(raw)).is_none() {
                let problem = no_checkpoint(&plain(raw), axis_of);
                return refuse("matrix.zip.checkpoint", raw.span(), problem);
            }
            row.push((axis, axis_of.intern(raw)));
        }
    }
    let mut seen = BTreeSet::new();
    if let Some(at) = rows.iter().position(|row| !seen.insert(row)) {
        let (key, _, values) = &group.columns[0];
        let key = match (key, group.columns.len()) {
            (Key::Field(_), 1) => format!("matrix.product.{}", key.text()),
            (_, 1) => {
                let list = SHORT.iter().find(|(short, _, _)| short == key);
                list.map_or("checkpoint", |(_, _, list)| list).to_owned()
            }
            _ => "matrix.zip".to_owned(),
        };
        let problem = "the same value stands there twice";
        return refuse(key, values[at].span(), problem);
    }
    Ok(rows)
}

fn no_checkpoint(value: &Value, axis: &Axis) -> String {
    format!(
        "there is no [[checkpoint]] named {value}; there are {}",
        axis.values()
    )
}

/// The leaves of a table by their paths, with the places of their keys; dots in keys count as
/// tables, and a table that is a leaf is not looked into.
type Leaf<'i> = (Vec<String>, Range<usize>, Raw<'i>);

fn flatten<'i>(
    table: &DeTable<'i>,
    is_leaf: &dyn Fn(&[String], &Raw<'i>) -> bool,
) -> Result<Vec<Leaf<'i>>, Problem> {
    fn walk<'i>(
        table: &DeTable<'i>,
        before: &[String],
        is_leaf: &dyn Fn(&[String], &Raw<'i>) -> bool,
        leaves: &mut Vec<Leaf<'i>>,
    ) -> Result<(), Problem> {
        for (key, raw) in table {
            let mut path = before.to_vec();
            path.extend(key.get_ref().split('.').map(str::to_owned));
            if path.iter().any(String::is_empty) {
                let problem = "is no path of a field, such as \"training.steps\"";
                return refuse(path.join("."), key.span(), problem);
            }
            match raw.get_ref() {
                DeValue::Table(inner) if !inner.is_empty() && !is_leaf(&path, raw) => {
                    walk(inner, &path, is_leaf, leaves)?;
                }
                _ => leaves.push((path, key.span(), raw.clone())),
            }
        }
        Ok(())
    }
    let mut leaves = Vec::new();
    walk(table, &[], is_leaf, &mut leaves)?;
    Ok(leaves)
}

/// Sets a field of a file; tables that it is in are made where they are not there.
fn set<'i>(
    document: &mut Raw<'i>,
    path: &[String],
    key_span: &Range<usize>,
    raw: &Raw<'i>,
) -> Result<(), Problem> {
    let mut inner = document;
    for (depth, segment) in path.iter().enumerate() {
        let last = depth + 1 == path.len();
        let so_far = path[..depth].join(".");
        let key = || format!("matrix: {}", path.join("."));
        inner = match inner.get_mut() {
            DeValue::Table(table) => {
                if last || !table.contains_key(segment.as_str()) {
                    let name = Spanned::new(key_span.clone(), segment.clone().into());
                    let value = match last {
                        true => raw.clone(),
                        false => Spanned::new(key_span.clone(), DeValue::Table(DeTable::new())),
                    };
                    table.insert(name, value);
                }
                let Some(value) = table.get_mut(segment.as_str()) else {
                    return Ok(());
                };
                value
            }
            DeValue::Array(items) => {
                let n = items.len();
                let at = segment.parse::<usize>().ok();
                let Some(value) = at.and_then(|at| items.get_mut(at)) else {
                    let problem = format!("`{so_far}` is a list of {n}, numbered from 0");
                    return refuse(key(), key_span.clone(), problem);
                };
                if last {
                    *value = raw.clone();
                }
                value
            }
            _ => {
                let problem = format!("`{so_far}` has no fields");
                return refuse(key(), key_span.clone(), problem);
            }
        };
    }
    Ok(())
}

/// A value without its place.
fn plain(raw: &Raw) -> Value {
    // A number that fits no type is refused with its place where the field is read.
    let read = Value::deserialize(raw.clone().into_deserializer());
    read.unwrap_or_else(|_| Value::String(format!("{:?}", raw.get_ref())))
}

/// A text that equal values have, and no others; 1.0 is 1, as it is to a field.
fn canonical(value: &Value) -> String {
    /// Below it every whole number has a float of its own.
    const WHOLE: f64 = 9e15;
    match value {
        Value::Float(f) if f.fract() == 0.0 && f.abs() < WHOLE => (*f as i64).to_string(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        Value::Table(table) => {
            let entries = table.iter();
            let entries = entries.map(|(key, value)| format!("{key:?}={}", canonical(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
        }
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

/// For each field the shortest end of its path that no other axis' has, for labels.
fn tails<'a>(axes: &'a [Axis]) -> BTreeMap<&'a Key, String> {
    let paths = axes.iter().filter_map(|axis| match &axis.key {
        Key::Field(path) => Some((&axis.key, path)),
        _ => None,
    });
    let paths: Vec<(&Key, &Vec<String>)> = paths.collect();
    let tail = |path: &[String], n: usize| path[path.len() - n.min(path.len())..].join(".");
    let shortest = |path: &[String]| {
        let others = |n| {
            paths
                .iter()
                .filter(move |(_, p)| tail(p, n) == tail(path, n))
        };
        let n = (1..path.len()).find(|&n| others(n).count() == 1);
        tail(path, n.unwrap_or(path.len()))
    };
    paths
        .iter()
        .map(|(key, path)| (*key, shortest(path)))
        .collect()
}

/// A field's name with its value, as labels have it: `peak4e-4`, `precision-bfloat16`.
fn with_value(name: &str, value: &Value) -> String {
    let (mut text, mut exact) = (String::new(), true);
    write_value(value, &mut text, &mut exact);
    if !exact || text.is_empty() || text.len() > MAX_VALUE_CHARS {
        let hash = format!("{:x}", Sha256::digest(value.to_string()));
        let start: String = text.chars().take(MAX_VALUE_CHARS / 2).collect();
        text = format!("{}-{}", start.trim_matches('-'), &hash[..8]);
        text = text.trim_start_matches('-').to_owned();
    }
    joined(name, &text)
}

fn joined(name: &str, value: &str) -> String {
    let is_number = value.starts_with(|c: char| c.is_ascii_digit());
    match is_number && name.ends_with(|c: char| c.is_ascii_alphabetic()) {
        true => format!("{name}{value}"),
        false => format!("{name}-{value}"),
    }
}

/// Appends a value in the characters that labels have; `exact` turns false where some are lost.
fn write_value(value: &Value, text: &mut String, exact: &mut bool) {
    let items: Vec<String> = match value {
        Value::Integer(number) => return *text += &number.to_string(),
        Value::Boolean(flag) => return *text += &flag.to_string(),
        Value::Float(number) => {
            let (plain, exponent) = (number.to_string(), format!("{number:e}"));
            *text += match exponent.len() < plain.len() {
                true => &exponent,
                false => &plain,
            };
            return;
        }
        Value::String(_) | Value::Datetime(_) => {
            let said = match value {
                Value::String(said) => said.clone(),
                other => other.to_string(),
            };
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            *exact &= said.chars().all(fits) && !said.is_empty();
            text.extend(said.chars().map(|c| if fits(c) { c } else { '-' }));
            return;
        }
        Value::Array(items) => {
            let item = |item| {
                let mut text = String::new();
                write_value(item, &mut text, exact);
                text
            };
            items.iter().map(item).collect()
        }
        Value::Table(table) => {
            let entry = |(key, value): (&String, &Value)| {
                let mut text = String::new();
                write_value(value, &mut text, exact);
                joined(key, &text)
            };
            table.iter().map(entry).collect()
        }
    };
    *text += &items.join("_");
}

#[cfg(test)]
mod tests;
