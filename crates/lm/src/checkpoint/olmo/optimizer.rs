//! The state of OLMo's AdamW, in each of the layouts that its trainer has written.

use std::collections::BTreeMap;

use super::state::State;
use crate::checkpoint::pickle::Plain;
use crate::checkpoint::tensor::Tensor;
use crate::error::Error;

/// The moments, by native names, and how many updates they are the means of.
pub(super) struct Found {
    pub(super) exp_avg: Vec<(String, Tensor)>,
    pub(super) exp_avg_sq: Vec<(String, Tensor)>,
    pub(super) n_updates: u64,
}

/// Reads `state` and `param_groups`.
///
/// The state is keyed by parameter names, or by numbers which the groups' `param_names` translate,
/// or, in the oldest files, by numbers alone: then the order of the optimizer's groups gives the
/// names, and the shapes must agree.
/// Which groups there are is not taken over: a run says itself what is decayed.
///
/// # Errors
/// When it is not the state of AdamW, or its parameters cannot be told apart.
pub(super) fn read(state: &State, n_layers: usize) -> Result<Found, Error> {
    let Some(Plain::Dict(entries)) = state.root.get("state") else {
        return Err(state.refuse("has no `state`: it is not an optimizer's"));
    };
    let names = names_of_numbers(state, n_layers)?;
    let mut found = Found {
        exp_avg: Vec::new(),
        exp_avg_sq: Vec::new(),
        n_updates: 0,
    };
    let mut first = None;
    for (key, moments) in entries {
        let name = match key {
            Plain::Str(name) => name.clone(),
            key => {
                let number = key.as_count();
                let name = number.and_then(|number| names.get(&number)).cloned();
                name.ok_or_else(|| state.refuse("numbers a parameter that none of its groups has"))?
            }
        };
        let tensor = |key: &str| match moments.get(key) {
            Some(Plain::Tensor(tensor)) => Ok((name.clone(), tensor.as_ref().clone())),
            _ => Err(state.refuse(format!(
                "has no `{key}` of `{name}`; only the state of AdamW is read"
            ))),
        };
        found.exp_avg.push(tensor("exp_avg")?);
        found.exp_avg_sq.push(tensor("exp_avg_sq")?);
        let step = match moments.get("step") {
            Some(step) => state.count(step)?,
            None => None,
        };
        let step =
            step.ok_or_else(|| state.refuse(format!("has no whole number of steps for `{name}`")))?;
        // Adam corrects every moment by one count.
        let (first_name, first_step) = first.get_or_insert_with(|| (name.clone(), step));
        if *first_step != step {
            return Err(state.refuse(format!(
                "has made {first_step} steps for `{first_name}` but {step} for `{name}`"
            )));
        }
        found.n_updates = step;
    }
    if found.n_updates == 0 {
        return Err(state.refuse("holds no moments: no update had been made"));
    }
    Ok(found)
}

/// What the numbers of parameters stand for.
fn names_of_numbers(state: &State, n_layers: usize) -> Result<BTreeMap<u64, String>, Error> {
    let groups = (state.root.get("param_groups")).and_then(Plain::as_list);
    let groups = groups.ok_or_else(|| state.refuse("has no `param_groups`"))?;
    let mut names = BTreeMap::new();
    let mut unnamed = Vec::new();
    for group in groups {
        let params = (group.get("params")).and_then(Plain::as_list);
        let params = params.ok_or_else(|| state.refuse("has a group without `params`"))?;
        let numbers: Option<Vec<u64>> = params.iter().map(Plain::as_count).collect();
        let Some(numbers) = numbers else {
            // Keyed by names: nothing to translate.
            continue;
        };
        match group.get("param_names").and_then(Plain::as_list) {
            Some(found) if found.len() == numbers.len() => {
                for (number, name) in numbers.into_iter().zip(found) {
                    let name = name.as_str().ok_or_else(|| {
                        state.refuse("has a name in `param_names` that is no string")
                    })?;
                    names.insert(number, name.to_owned());
                }
            }
            Some(_) => return Err(state.refuse("has other `param_names` than `params`")),
            None => unnamed.push(numbers),
        }
    }
    if !unnamed.is_empty() {
        let total = unnamed.iter().map(Vec::len).sum();
        let order = order_without_names(unnamed.len(), total, n_layers);
        let order = order.ok_or_else(|| {
            state.refuse(format!(
                "has {total} parameters without names in {} groups, which do not tell which is \
                 which",
                unnamed.len()
            ))
        })?;
        names.extend(unnamed.into_iter().flatten().zip(order));
    }
    Ok(names)
}

/// Native names in the order of an optimizer whose groups do not name their parameters.
///
/// Two groups are linear weights and the rest, each by name; one group is the model's order.
fn order_without_names(n_groups: usize, total: usize, n_layers: usize) -> Option<Vec<String>> {
    // Four matrices a layer, the embedding, and the output matrix where it is not the embedding.
    let is_untied = match total.checked_sub(n_layers.checked_mul(4)?)? {
        1 => false,
        2 => true,
        _ => return None,
    };
    let wte = "transformer.wte.weight".to_owned();
    let head = is_untied.then(|| "transformer.ff_out.weight".to_owned());
    let block = |block: usize| {
        ["attn_out", "ff_out", "att_proj", "ff_proj"]
            .map(|name| format!("transformer.blocks.{block}.{name}.weight"))
    };
    let blocks = (0..n_layers).flat_map(block);
    match n_groups {
        1 => Some([wte].into_iter().chain(blocks).chain(head).collect()),
        2 => {
            let mut linear: Vec<String> = blocks.chain(head).collect();
            linear.sort();
            linear.push(wte);
            Some(linear)
        }
        _ => None,
    }
}
