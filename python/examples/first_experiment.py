# %% [markdown]
# # A first experiment
#
# A tiny model is trained on a synthetic world while it is shown facts that are in no corpus: once, or
# several times. Every probe of every fact is read after every update.
#
# Before this: `imprint demo` writes the world into `imprint-demo/world`, `imprint up` starts the
# services, and `pip install './python[numpy,pandas]'` installs the client.
#
# These are cells: VS Code and Spyder run them as they are, `jupytext --to ipynb first_experiment.py`
# makes a notebook of them.

# %%
import io
import os
import subprocess
from pathlib import Path

import pandas

import imprint_client
from imprint_client import RunState, arrays, frame

world = Path(os.environ.get("IMPRINT_WORLD", "imprint-demo/world"))
lab = imprint_client.connect()

# %% [markdown]
# ## The plan
#
# An experiment is one strict TOML file; `experiments/paper.toml` explains every key. Here it is text, so
# that it can be changed where it is used.

# %%
plan = """
name = "first"
scenarios = ["duplication", "once"]
batch_sizes = [8]

[data]
facts = "facts.json"
tokenizer = "tokenizer.json"
seq_len = 64

[data.corpus]
files = ["corpus.u16"]
format = "uint16"

[[checkpoint]]
name = "scratch"
init = { hidden_size = 32, intermediate_size = 80, num_hidden_layers = 2, num_attention_heads = 4 }

[training]
steps = 120
learning_rate = { kind = "constant", peak = 5e-3, warmup_steps = 5 }

[injection]
start = 20
every = 30
count = 3
stagger = { groups = 5, every = 2 }
"""

# What it would start; nothing is stored.
print(frame(lab.submit_text(plan, base_dir=world, dry_run=True).runs).T)

# %% [markdown]
# ## Running it
#
# Submitting the same text again starts nothing twice. `watch` gives the experiment whenever something in
# it changed, and ends with its runs.

# %%
experiment = lab.submit_text(plan, base_dir=world).experiment
for seen in lab.watch(experiment):
    print("  ".join(f"{run.run} {run.state} {run.step}/{run.n_updates}" for run in seen.runs))

finished = frame(lab.runs(experiment))
print(finished[["run", "state", "reason", "readings_stored", "readings_expected"]])
assert (finished["state"] == RunState.COMPLETE).all()

# %% [markdown]
# ## What was read
#
# The mean ℓ of the target over all probes of an arm and depth, in nats. `held_out` facts are never
# shown: they are the control.

# %%
repeated = next(run for run in finished["run"] if "duplication" in run)
means = frame(lab.means(repeated))
curves = means[~means["swap"]].pivot(index="step", columns=["arm", "depth"], values="target_mean_nats")
print((curves - curves.iloc[0]).iloc[::20].round(2))
# With matplotlib: (curves - curves.iloc[0]).plot()

# %% [markdown]
# Every probe of every step: an array of steps and probes. The mean ℓ of a probe is its sum over its
# tokens.

# %%
probes = frame(lab.probes(repeated))
readings = arrays(lab.readings(repeated))
target_nats = readings.target_sum_nats / probes["n_target_tokens"].to_numpy()
probes["gain_nats"] = target_nats[-1] - target_nats[0]
print(probes.groupby(["arm", "depth"])["gain_nats"].describe()[["count", "mean", "min", "max"]])

# %% [markdown]
# ## Effectivity and retainability
#
# They are computed beside the readings: `imprint results` has them as CSV, `imprint sql` and any
# Postgres client as views (docs/sql.md), and `imprint export` writes Parquet (docs/export.md).

# %%
csv = subprocess.run(
    ["imprint", "results", experiment, "--output", "csv"],
    check=True,
    capture_output=True,
    text=True,
).stdout
results = pandas.read_csv(io.StringIO(csv))
print(results.head().T)
