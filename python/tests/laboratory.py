"""The client against real services: tests/python_client.rs runs it.

    IMPRINT_WORLD=DIR IMPRINT_DATA_DIR=DIR python -m pytest tests/laboratory.py

The services are those of the data directory; the world is a synthetic one.
"""

import logging
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy
import pytest

from imprint_client import (
    BadInput,
    Laboratory,
    NotFound,
    RunState,
    Unreachable,
    arrays,
    connect,
    frame,
)

WORLD = Path(os.environ["IMPRINT_WORLD"])

EXPERIMENT = """
name = "{name}"
scenarios = ["once"]
batch_sizes = [4, 2]

[data]
facts = "facts.json"
tokenizer = "tokenizer.json"
seq_len = 64

[data.corpus]
files = ["corpus.u16"]
format = "uint16"
max_epochs = 400

[[checkpoint]]
name = "scratch"
init = {{ hidden_size = 16, intermediate_size = 32, num_hidden_layers = 1, num_attention_heads = 2 }}

[training]
steps = {n_updates}
learning_rate = {{ kind = "constant", peak = 1e-3 }}

[injection]
start = 1
every = 5
count = 1
stagger = {{ groups = 10, every = 1 }}
"""

SMALL = EXPERIMENT.format(name="small", n_updates=12)
LONG = EXPERIMENT.format(name="long", n_updates=5_000)
LONGER = EXPERIMENT.format(name="longer", n_updates=5_001)
WAITING = EXPERIMENT.format(name="waiting", n_updates=13).replace("[4, 2]", "[4]")
LABEL = "small/scratch-once-b4-s0"


@pytest.fixture(scope="module")
def lab() -> Iterator[Laboratory]:
    with connect() as lab:
        yield lab


@pytest.fixture(scope="module")
def complete(lab: Laboratory) -> str:
    """A run that is complete."""
    lab.submit_text(SMALL, base_dir=WORLD)
    experiment = lab.wait("small")
    states = {run.run: (run.state, run.reason) for run in experiment.runs}
    assert states[LABEL] == (RunState.COMPLETE, ""), states
    return LABEL


def test_a_request_happens_once(lab: Laboratory) -> None:
    request_id = str(uuid.uuid4())
    first = lab.submit_text(SMALL, base_dir=WORLD, request_id=request_id)
    again = lab.submit_text(SMALL, base_dir=WORLD, request_id=request_id)
    assert first == again
    assert [run.run for run in first.runs] == [LABEL, LABEL.replace("b4", "b2")]
    assert {(run.n_updates, run.n_readings, run.new) for run in first.runs} == {(12, 13, True)}
    later = lab.submit_text(SMALL, base_dir=WORLD)
    assert not any(run.new for run in later.runs)


def test_a_file_is_submitted_as_its_text_is(lab: Laboratory, complete: str) -> None:
    file = WORLD / "small.toml"
    file.write_text(SMALL, encoding="utf-8")
    assert [run.new for run in lab.submit(file, dry_run=True).runs] == [False, False]
    dry = lab.submit_text(LONG, base_dir=WORLD, dry_run=True, tokens_per_second=1000.0)
    assert dry.estimate is not None
    assert {group.tokens_per_second for group in dry.estimate.groups} == {1000.0}
    assert dry.estimate.device_hours is not None


def test_bad_input_names_the_field(lab: Laboratory) -> None:
    with pytest.raises(BadInput, match="steps") as refused:
        lab.submit_text(SMALL.replace("steps = 12", "steps = 'many'"), base_dir=WORLD)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.reason == "INVALID"
    assert [violation.field for violation in refused.value.violations] == ["toml"]
    assert refused.value.violations[0].description


def test_what_is_not_there_is_not_found(lab: Laboratory) -> None:
    with pytest.raises(NotFound, match="nowhere") as refused:
        lab.experiment("nowhere")
    assert refused.value.reason == "NOT_FOUND"
    with pytest.raises(NotFound):
        list(lab.watch("nowhere"))
    with pytest.raises(NotFound):
        list(lab.readings("small/nowhere"))


def test_an_experiment_and_its_runs(lab: Laboratory, complete: str) -> None:
    assert "small" in [experiment.name for experiment in lab.experiments()]
    experiment = lab.experiment("small")
    assert experiment.runs == tuple(lab.runs("small"))
    assert len(list(lab.runs("small", states=[RunState.COMPLETE]))) == 2
    assert list(lab.runs("small", states=["failed", RunState.CANCELLED])) == []
    with pytest.raises(ValueError, match="fialed"):
        lab.runs("small", states=["fialed"])
    assert list(lab.watch("small"))[-1].runs == experiment.runs
    assert lab.retry("small") == []
    stored = {run.run: run for run in lab.stored_runs("small")}
    assert (stored[complete].batch_size, stored[complete].readings_stored) == (4, 13)


def test_everything_was_read(lab: Laboratory, complete: str) -> None:
    verified = lab.verify(complete)
    assert verified.is_clean, verified
    probes = list(lab.probes(complete))
    readings = arrays(lab.readings(complete))
    assert readings.step.tolist() == list(range(13))
    assert readings.target_sum_nats.shape == (13, verified.n_probes) == (13, len(probes))
    for values in (readings.first_sum_nats, readings.target_sum_nats, readings.full_sum_nats):
        assert numpy.isfinite(values).all() and (values <= 0).all()
    curve = list(lab.curve(complete, 3))
    assert [point.target_sum_nats for point in curve] == readings.target_sum_nats[:, 3].tolist()
    assert [update.step for update in lab.updates(complete)] == list(range(12))


def test_means_are_those_of_the_readings(lab: Laboratory, complete: str) -> None:
    probes = frame(lab.probes(complete))
    readings = arrays(lab.readings(complete))
    # [S, P]
    target_nats = readings.target_sum_nats / probes["n_target_tokens"].to_numpy()
    is_swap = probes["swap_fact"].notna()
    means = list(lab.means(complete))
    assert {mean.step for mean in means} == set(range(13))
    for mean in means:
        of = (probes["arm"] == mean.arm) & (probes["depth"] == mean.depth) & (is_swap == mean.swap)
        assert of.sum() == mean.n_probes
        expected = target_nats[mean.step, of.to_numpy()].mean()
        assert mean.target_mean_nats == pytest.approx(expected, abs=1e-5)


def test_what_a_run_has_been_through(lab: Laboratory, complete: str) -> None:
    details = lab.run(complete)
    assert details.run.state is RunState.COMPLETE
    assert [name.run for name in details.names] == [complete]
    assert [attempt.outcome for attempt in details.attempts] == ["finished"]
    events = list(lab.events(complete))
    assert [event.event for event in events] == list(range(len(events), 0, -1))
    assert {"queued", "running", "complete"} <= {event.kind for event in events}
    said = "".join(lab.log(complete))
    assert said and "".join(lab.log(complete, details.logs[0].name)) == said
    assert "".join(lab.log(complete, tail_lines=1)) == said.splitlines(keepends=True)[-1]


def test_runs_are_cancelled_and_queued_again(lab: Laboratory) -> None:
    labels = {run.run for run in lab.submit_text(LONG, base_dir=WORLD).runs}
    assert set(lab.set_priority("long", -1)) == labels
    assert set(lab.cancel("long")) == labels
    assert {run.state for run in lab.wait("long").runs} == {RunState.CANCELLED}
    assert set(lab.retry("long", states=["cancelled"])) == labels
    one = min(labels)
    assert lab.set_priority(one, 3) == [one]
    assert lab.cancel(one) == [one]
    # One that is still saving is named again.
    assert set(lab.cancel("long")) >= labels - {one}
    assert {run.state for run in lab.wait("long").runs} == {RunState.CANCELLED}


def test_a_followed_log_says_why_its_run_waits(
    lab: Laboratory, caplog: pytest.LogCaptureFixture
) -> None:
    lab.submit_text(LONGER, base_dir=WORLD)
    # Both slots are taken.
    for experiment in lab.watch("longer"):
        if all(run.state is RunState.RUNNING for run in experiment.runs):
            break
    (run,) = lab.submit_text(WAITING, base_dir=WORLD).runs

    class Cancelling(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "free slot" in record.getMessage():
                lab.cancel("longer")

    handler = Cancelling()
    logging.getLogger("imprint_client").addHandler(handler)
    try:
        said = "".join(lab.log(run.run, follow=True))
    finally:
        logging.getLogger("imprint_client").removeHandler(handler)
    assert f"{run.run} waits: queued, waits for a free slot (2 of 2" in caplog.text
    assert said == "".join(lab.log(run.run)) != ""


def test_where_nothing_listens_the_error_says_so() -> None:
    with connect(orchestrator="http://127.0.0.1:9", metrics="http://127.0.0.1:9") as nowhere:
        with pytest.raises(Unreachable, match="imprint up"):
            list(nowhere.experiments())
