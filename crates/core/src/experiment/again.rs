//! From a run back to an experiment file: the inverse of [`ExperimentSpec::expand`].

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{CheckpointSpec, CorpusOrder, CorpusSpec, DataSpec, ExperimentSpec, InjectionDefaults};
use crate::run::{CheckpointIdentity, CheckpointSource, OrderIdentity, RunSpec};

impl RunSpec {
    /// The text of an experiment file whose only run is this one, in an experiment of this name.
    ///
    /// Whatever the run's own file left to defaults or to files stands there in full, and of every
    /// file which content it has to have, so that the run has the same identity or is refused. A run
    /// that it starts from is named by its hash.
    pub fn experiment_file(&self, name: &str) -> String {
        let experiment = serde_json::to_value(self.experiment(name));
        let mut top = table(experiment.expect("an experiment is plain data"));
        let mut take = |key: &str| top.remove(key).unwrap_or_default();
        // Built-in scenarios are spelled out, so nothing follows from these.
        take("injection");
        let mut data = table(take("data"));
        let corpus = table(data.remove("corpus").unwrap_or_default());
        let mut sections = vec![
            ("[data]".to_owned(), data),
            ("[data.corpus]".to_owned(), corpus),
        ];
        for checkpoint in array(take("checkpoint")) {
            sections.push(("[[checkpoint]]".to_owned(), table(checkpoint)));
        }
        for key in ["training", "probing", "saving", "resources"] {
            sections.push((format!("[{key}]"), table(take(key))));
        }
        for (name, scenario) in table(take("scenario")) {
            let name = toml_key(&name);
            let arms = array(table(scenario).remove("arm").unwrap_or_default());
            if arms.is_empty() {
                sections.push((format!("[scenario.{name}]"), Map::new()));
            }
            for arm in arms {
                sections.push((format!("[[scenario.{name}.arm]]"), table(arm)));
            }
        }
        let mut text = String::new();
        write_entries(&mut text, &top);
        for (header, entries) in sections {
            text += &format!("\n{header}\n");
            write_entries(&mut text, &entries);
        }
        text
    }

    fn experiment(&self, name: &str) -> ExperimentSpec {
        let (identity, files) = (&self.identity, &self.files);
        let corpus = &identity.corpus;
        let (order, order_sha256) = match (&corpus.order, &files.order) {
            (OrderIdentity::Shuffled, _) => (CorpusOrder::Shuffled, None),
            (OrderIdentity::Sequential, _) => (CorpusOrder::Sequential, None),
            (OrderIdentity::Pcg64(order), _) => (CorpusOrder::Pcg64(*order), None),
            (OrderIdentity::File { sha256 }, path) => {
                let path = path.clone().unwrap_or_default();
                (CorpusOrder::File { path }, Some(sha256.clone()))
            }
        };
        ExperimentSpec {
            name: name.to_owned(),
            data: DataSpec {
                facts: files.facts.clone(),
                facts_sha256: Some(identity.facts_sha256.clone()),
                tokenizer: files.tokenizer.clone(),
                tokenizer_sha256: Some(identity.tokenizer_sha256.clone()),
                corpus: CorpusSpec {
                    files: files.corpus.clone(),
                    files_sha256: Some(corpus.files_sha256.clone()),
                    format: corpus.format,
                    text_field: corpus.text_field.clone(),
                    order,
                    order_sha256,
                    max_epochs: corpus.max_epochs,
                    start_instance: corpus.start_instance,
                },
                seq_len: identity.seq_len,
                eos: identity.eos.clone(),
                document_mask: identity.document_mask,
            },
            checkpoint: vec![self.checkpoint()],
            scenarios: vec![identity.scenario_name.clone()],
            batch_sizes: vec![identity.batch_size],
            seeds: vec![identity.seed],
            repeat: identity.repeat,
            training: identity.training.clone(),
            injection: InjectionDefaults::default(),
            probing: identity.probing,
            saving: self.saving.clone(),
            resources: self.resources.clone(),
            scenario: BTreeMap::from([(identity.scenario_name.clone(), identity.scenario.clone())]),
            variants: Vec::new(),
        }
    }

    fn checkpoint(&self) -> CheckpointSpec {
        let mut spec = CheckpointSpec {
            name: self.checkpoint_name().to_owned(),
            path: None,
            sha256: None,
            trainer_state_sha256: None,
            run: None,
            step: None,
            init: None,
            global_step: None,
            tokens_seen: None,
            optimizer: None,
        };
        match &self.identity.checkpoint {
            CheckpointIdentity::Directory {
                sha256,
                trainer_state_sha256,
                global_step,
                tokens_seen,
                optimizer,
            } => {
                if let CheckpointSource::Directory { path } = &self.files.checkpoint {
                    spec.path = Some(path.clone());
                }
                spec.sha256 = Some(sha256.clone());
                spec.trainer_state_sha256.clone_from(trainer_state_sha256);
                (spec.global_step, spec.tokens_seen) = (*global_step, *tokens_seen);
                spec.optimizer = Some(*optimizer);
            }
            CheckpointIdentity::Run {
                run,
                step,
                tokens_seen,
                optimizer,
            } => {
                (spec.run, spec.step) = (Some(run.0.clone()), Some(*step));
                spec.tokens_seen = *tokens_seen;
                spec.optimizer = Some(*optimizer);
            }
            CheckpointIdentity::Scratch { model } => spec.init = Some(model.clone()),
        }
        spec
    }

    /// What the run's label has before scenario, batch size and seed.
    fn checkpoint_name(&self) -> &str {
        let identity = &self.identity;
        let rest = format!(
            "-{}-b{}-s{}",
            identity.scenario_name, identity.batch_size, identity.seed
        );
        let cell = self.label.split_once('/').map(|(_, cell)| cell);
        let name = cell.and_then(|cell| cell.split_once(&rest));
        name.map_or("checkpoint", |(name, _)| name)
    }
}

fn table(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

/// Writes a line for each entry, the name first.
fn write_entries(text: &mut String, entries: &Map<String, Value>) {
    let (name, others): (Vec<_>, Vec<_>) = entries.iter().partition(|(key, _)| *key == "name");
    for (key, value) in name.into_iter().chain(others) {
        *text += &format!("{} = {}\n", toml_key(key), toml_value(value));
    }
}

fn toml_key(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    match !key.is_empty() && key.chars().all(is_bare) {
        true => key.to_owned(),
        false => toml_string(key),
    }
}

/// A value in one line. A number beyond TOML's own integers is written all the same: the reader of
/// experiment files takes it.
fn toml_value(value: &Value) -> String {
    match value {
        Value::String(said) => toml_string(said),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(toml_value).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(entries) => {
            let entries = entries.iter();
            let entries = entries.map(|(key, v)| format!("{} = {}", toml_key(key), toml_value(v)));
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// JSON escapes are TOML's, too; only DEL is to be escaped in TOML alone.
fn toml_string(said: &str) -> String {
    Value::from(said).to_string().replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests;
