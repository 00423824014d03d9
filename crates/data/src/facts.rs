//! Facts files: the JSON form of the reference study's released data, and our optional `subject`.

use std::fs;
use std::path::Path;

use imprint_core::{Depth, Fact, ProbeText};
use serde::Serialize;
use serde_json::Value;

use crate::{Error, Result};

/// The facts of a file, in its order.
///
/// A file is a list of objects with `train_context`, `{mem,gen,hard_gen}_{input,target}` (lists of
/// equal length, any number of probes), `paraphrases` and, if the author likes, `subject`.
/// Other keys are not looked at.
///
/// # Errors
/// With file, index of the fact and field, when a field is missing, has another type, is empty, or
/// when prompts and targets are not of equal number.
pub fn load_facts(path: &Path) -> Result<Vec<Fact>> {
    let text = fs::read_to_string(path).map_err(|err| Error::Read {
        path: path.to_owned(),
        err,
    })?;
    let items: Vec<Value> = serde_json::from_str(&text).map_err(|err| Error::Json {
        path: path.to_owned(),
        err,
    })?;
    if items.is_empty() {
        return Err(Error::FactsFile {
            path: path.to_owned(),
            problem: "holds no fact".to_owned(),
        });
    }
    items
        .iter()
        .enumerate()
        .map(|(index, item)| {
            fact(item).map_err(|Flaw { field, problem }| Error::Fact {
                path: path.to_owned(),
                fact: index,
                field,
                problem,
            })
        })
        .collect()
}

struct Flaw {
    field: String,
    problem: String,
}

fn flaw(field: &str, problem: impl Into<String>) -> Flaw {
    Flaw {
        field: field.to_owned(),
        problem: problem.into(),
    }
}

fn fact(item: &Value) -> Result<Fact, Flaw> {
    if !item.is_object() {
        return Err(flaw("train_context", "the fact is not an object"));
    }
    let passage = text(field(item, "train_context")?, "train_context")?;
    let subject = match item.get("subject") {
        None | Some(Value::Null) => None,
        Some(value) => Some(text(value, "subject")?),
    };
    let mut probes = Vec::new();
    for depth in Depth::ALL {
        let (input, target) = (format!("{depth}_input"), format!("{depth}_target"));
        let prompts = texts(item, &input)?;
        let targets = texts(item, &target)?;
        if prompts.len() != targets.len() {
            let counts = format!("{} targets for {} prompts", targets.len(), prompts.len());
            return Err(flaw(&target, counts));
        }
        if prompts.len() > usize::from(u16::MAX) {
            return Err(flaw(&input, "more than 65,535 probes"));
        }
        probes.extend(prompts.into_iter().zip(targets).enumerate().map(
            |(ordinal, (prompt, target))| ProbeText {
                depth,
                ordinal: ordinal as u16,
                prompt,
                target,
            },
        ));
    }
    Ok(Fact {
        subject,
        passage,
        paraphrases: texts(item, "paraphrases")?,
        probes,
    })
}

fn field<'a>(item: &'a Value, name: &str) -> Result<&'a Value, Flaw> {
    item.get(name).ok_or_else(|| flaw(name, "is missing"))
}

fn text(value: &Value, name: &str) -> Result<String, Flaw> {
    match value.as_str() {
        None => Err(flaw(name, "is not a text")),
        Some(text) if text.trim().is_empty() => Err(flaw(name, "is empty")),
        Some(text) => Ok(text.to_owned()),
    }
}

fn texts(item: &Value, name: &str) -> Result<Vec<String>, Flaw> {
    let list = field(item, name)?
        .as_array()
        .ok_or_else(|| flaw(name, "is not a list"))?;
    list.iter()
        .enumerate()
        .map(|(i, value)| text(value, &format!("{name}[{i}]")))
        .collect()
}

/// One fact as it stands in a file.
#[derive(Serialize)]
struct FileItem<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    train_context: &'a str,
    mem_input: Vec<&'a str>,
    mem_target: Vec<&'a str>,
    gen_input: Vec<&'a str>,
    gen_target: Vec<&'a str>,
    hard_gen_input: Vec<&'a str>,
    hard_gen_target: Vec<&'a str>,
    paraphrases: &'a [String],
}

impl<'a> From<&'a Fact> for FileItem<'a> {
    fn from(fact: &'a Fact) -> Self {
        let of = |depth: Depth| fact.probes.iter().filter(move |p| p.depth == depth);
        let prompts = |depth| of(depth).map(|p| p.prompt.as_str()).collect();
        let targets = |depth| of(depth).map(|p| p.target.as_str()).collect();
        Self {
            subject: fact.subject.as_deref(),
            train_context: &fact.passage,
            mem_input: prompts(Depth::Mem),
            mem_target: targets(Depth::Mem),
            gen_input: prompts(Depth::Gen),
            gen_target: targets(Depth::Gen),
            hard_gen_input: prompts(Depth::HardGen),
            hard_gen_target: targets(Depth::HardGen),
            paraphrases: &fact.paraphrases,
        }
    }
}

/// Writes facts in the form that [`load_facts`] reads.
///
/// # Errors
/// When the file cannot be written.
pub fn write_facts(path: &Path, facts: &[Fact]) -> Result<()> {
    let items: Vec<FileItem> = facts.iter().map(FileItem::from).collect();
    let json = serde_json::to_string_pretty(&items).expect("facts are plain data");
    fs::write(path, json + "\n").map_err(|err| Error::Write {
        path: path.to_owned(),
        err,
    })
}

#[cfg(test)]
mod tests;
