"""What the services answer, as plain values.

A field has the name, the unit and the meaning that it has in the protocol; what the protocol leaves
absent is `None`.
"""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.message import Message

from imprint_client._pb.imprint.v1 import metrics_pb2, orchestrator_pb2


class RunState(StrEnum):
    """Where a run stands; docs/runs.md says what leads from one state to another."""

    QUEUED = "queued"
    RUNNING = "running"
    DELIVERING = "delivering"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"
    # Of a run that has none yet, or one that this package is too old to know.
    UNSPECIFIED = "unspecified"

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens to the run unless somebody asks for it."""
        return self in (RunState.COMPLETE, RunState.FAILED, RunState.CANCELLED)


@dataclass(frozen=True, slots=True)
class SubmittedRun:
    """A run that an experiment file asks for."""

    #: `experiment/cell` label.
    run: str
    #: Of everything that changes a number.
    hash: str
    #: Not there before this request.
    new: bool
    n_updates: int
    n_readings: int
    n_probes: int
    n_tokens: int
    #: Largest share of a batch that injected tokens take.
    max_injected_share: float
    #: Tokens of all probes at all readings.
    n_probe_tokens: int
    #: Of a run that was there; unspecified for a new one.
    state: RunState
    #: It was there, waits to be started, and has got this file's resources.
    updated: bool


@dataclass(frozen=True, slots=True)
class EstimateGroup:
    """New runs of one model, batch and device."""

    #: The label of the first of them.
    run: str
    n_runs: int
    batch_size: int
    executor: str
    device: str
    #: `None` where the model cannot be told: `problem` says why.
    n_parameters: int | None
    #: Rows of one forward and backward pass; `None` where they are chosen when a run begins.
    micro_batch_rows: int | None
    #: Of the device, by arithmetic: with those rows, else with one row, which is the least.
    memory_bytes: int | None
    problem: str
    #: Tokens that a trainer trains on in a second; `None` where nobody says.
    tokens_per_second: float | None
    #: Runs on which that was measured.
    n_measured_runs: int
    device_hours: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What runs will take that are new."""

    n_runs: int
    n_tokens: int
    n_probe_tokens: int
    n_readings: int
    #: What the database will keep of them.
    database_bytes: int
    #: Hours in which one device would train them one after the other; `None` where no rate is known
    #: for some of them.
    device_hours: float | None
    groups: tuple[EstimateGroup, ...]


@dataclass(frozen=True, slots=True)
class Submission:
    """The answer to a submitted experiment."""

    experiment: str
    runs: tuple[SubmittedRun, ...]
    #: What is allowed but looks wrong, a line each.
    warnings: tuple[str, ...]
    #: What the runs that are new will take; of a dry run only.
    estimate: Estimate | None


@dataclass(frozen=True, slots=True)
class ExperimentSummary:
    """An experiment and how many of its runs are in which state."""

    name: str
    runs_by_state: dict[str, int]
    created_unix_ms: int
    #: Until all runs have ended, at the speed of now; `None` while nothing runs, and in lists.
    seconds_left: int | None


@dataclass(frozen=True, slots=True)
class Run:
    """A run and how far it is."""

    run_id: int
    #: `experiment/cell` label.
    run: str
    state: RunState
    #: Why it failed or why it waits, in one line.
    reason: str
    n_updates: int
    #: Updates made, by the current attempt's last word.
    step: int
    attempts: int
    steps_per_second: float
    readings_expected: int
    readings_stored: int
    #: The first step whose reading the trainer has not been able to deliver, while there is one.
    undelivered_since_step: int | None
    priority: int
    #: Until its last update at the speed of now; `None` where it does not run.
    seconds_left: int | None


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment with all its runs."""

    name: str
    runs: tuple[Run, ...]
    summary: ExperimentSummary | None


@dataclass(frozen=True, slots=True)
class RunName:
    """How an experiment calls a run."""

    run: str
    #: Whether that experiment has not cancelled it.
    wanted: bool


@dataclass(frozen=True, slots=True)
class ParentRun:
    """The run whose state another starts from."""

    run: str
    step: int
    state: RunState


@dataclass(frozen=True, slots=True)
class Job:
    """What an executor was asked to start."""

    #: 1 for the run's first.
    job: int
    #: Its name in the site file.
    executor: str
    slot: int | None
    #: What the executor calls it; empty until that is known.
    external_id: str
    asked_unix_ms: int
    #: Since when its process lives; `None` while it waits in a queue.
    alive_unix_ms: int | None
    stop_asked_unix_ms: int | None
    kill_asked_unix_ms: int | None
    ended_unix_ms: int | None
    #: How it ended, in words that follow "the trainer".
    outcome: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a run by one process."""

    attempt: int
    job: int | None
    host: str
    pid: int
    device: str
    machine: str
    #: Out of reach of the services.
    offline: bool
    step: int
    steps_per_second: float
    began_unix_ms: int
    heartbeat_age_ms: int
    ended_unix_ms: int | None
    #: finished, stopped, failed, lost or superseded; empty while it is open.
    outcome: str
    #: Why it ended, in one line.
    reason: str


@dataclass(frozen=True, slots=True)
class Log:
    """A log of a trainer."""

    name: str
    n_bytes: int
    changed_unix_ms: int
    #: The job whose process wrote it, where its name says so.
    job: int | None


@dataclass(frozen=True, slots=True)
class RunDetails:
    """All that is known of one run."""

    run: Run
    names: tuple[RunName, ...]
    #: It ends as soon as its trainer has.
    cancel_requested: bool
    created_unix_ms: int
    started_unix_ms: int | None
    finished_unix_ms: int | None
    parent: ParentRun | None
    #: The newest.
    job: Job | None
    #: The newest 100, the newest first.
    attempts: tuple[Attempt, ...]
    #: The newest first.
    logs: tuple[Log, ...]


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened to a run."""

    #: 1 for the run's first.
    event: int
    happened_unix_ms: int
    #: A state that began, or what else happened: see orchestrator.proto.
    kind: str
    attempt: int | None
    job: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class Verification:
    """Which readings and updates of a run are stored and which are missing."""

    run_id: int
    run: str
    state: str
    n_probes: int
    readings_expected: int
    readings_stored: int
    #: Steps whose reading is expected and not stored.
    readings_missing: tuple[int, ...]
    #: Steps whose reading has the wrong number of values, or values above 0 or not finite.
    readings_damaged: tuple[int, ...]
    updates_expected: int
    updates_stored: int
    updates_missing: tuple[int, ...]
    #: Readings that a later attempt measured again.
    readings_superseded: int
    attempts: int

    @property
    def is_clean(self) -> bool:
        """Whether everything that is expected is stored, and sound."""
        return (
            self.readings_stored == self.readings_expected
            and self.updates_stored == self.updates_expected
            and not (self.readings_missing or self.readings_damaged or self.updates_missing)
        )


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as one experiment names it, and what is stored of it."""

    run_id: int
    #: `experiment/cell` label.
    run: str
    experiment: str
    state: str
    #: Why it waits or failed; empty where there is nothing to say.
    reason: str
    scenario: str
    #: Rows of a batch.
    batch_size: int
    #: Tokens of a row.
    seq_len: int
    seed: int
    n_updates: int
    n_probes: int
    readings_expected: int
    readings_stored: int
    updates_stored: int
    #: Updates that the checkpoint had seen; `None` until the first attempt settled it.
    first_global_step: int | None
    #: Whether its readings were measured elsewhere.
    imported: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt and a target whose log-probability is read."""

    #: Position of its value in every reading.
    probe: int
    #: Index in the facts file of the fact whose target is read.
    fact: int
    #: How the fact is shown in this run; held_out for the null control.
    arm: str
    #: mem, gen or hard_gen.
    depth: str
    #: Index within its fact and depth.
    ordinal: int
    #: For a swap control: the fact after whose subject the target is read.
    swap_fact: int | None
    prompt: str
    target: str
    #: Tokens of the target span; the span `first` has one.
    n_target_tokens: int
    #: Tokens of the full span: every token but the first.
    n_full_tokens: int


@dataclass(frozen=True, slots=True)
class Reading:
    """All probes at one step, taken before that step's update.

    Values are summed log-probabilities in nats, at most 0, one a probe; divided by the probe's tokens
    of the span they are the mean ℓ.
    """

    index: int
    step: int
    #: The attempt that measured it.
    measured_by: int
    first_sum_nats: array[float]
    target_sum_nats: array[float]
    full_sum_nats: array[float]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One probe at one step, taken before that step's update; sums as in `Reading`."""

    index: int
    step: int
    first_sum_nats: float
    target_sum_nats: float
    full_sum_nats: float


@dataclass(frozen=True, slots=True)
class MeanPoint:
    """Means over the probes of an arm and depth at one step.

    Values are means over probes of ℓ, the mean log-probability per token, in nats, at most 0.
    """

    index: int
    step: int
    arm: str
    #: mem, gen or hard_gen.
    depth: str
    #: Whether these are swap probes: targets after another fact's subject.
    swap: bool
    n_probes: int
    first_mean_nats: float
    target_mean_nats: float
    full_mean_nats: float


@dataclass(frozen=True, slots=True)
class Update:
    """Statistics of one optimizer update."""

    step: int
    #: The attempt that measured it.
    measured_by: int
    loss_nats: float
    learning_rate: float
    grad_norm: float
    update_norm: float
    n_tokens: int
    n_injected_tokens: int
    duration_ms: float


_Record = TypeVar("_Record")

#: The record that each message becomes.
RECORDS: dict[type[Message], type[Any]] = {
    orchestrator_pb2.SubmittedRun: SubmittedRun,
    orchestrator_pb2.EstimateGroup: EstimateGroup,
    orchestrator_pb2.Estimate: Estimate,
    orchestrator_pb2.SubmitExperimentResponse: Submission,
    orchestrator_pb2.ExperimentSummary: ExperimentSummary,
    orchestrator_pb2.Run: Run,
    orchestrator_pb2.Experiment: Experiment,
    orchestrator_pb2.RunName: RunName,
    orchestrator_pb2.ParentRun: ParentRun,
    orchestrator_pb2.Job: Job,
    orchestrator_pb2.Attempt: Attempt,
    orchestrator_pb2.Log: Log,
    orchestrator_pb2.GetRunResponse: RunDetails,
    orchestrator_pb2.RunEvent: RunEvent,
    metrics_pb2.VerifyRunResponse: Verification,
    metrics_pb2.StoredRun: StoredRun,
    metrics_pb2.Probe: Probe,
    metrics_pb2.Reading: Reading,
    metrics_pb2.CurvePoint: CurvePoint,
    metrics_pb2.MeanPoint: MeanPoint,
    metrics_pb2.Update: Update,
}


def record(kind: type[_Record], message: Message) -> _Record:
    """The record of a message; fields correspond by name."""
    return kind(**{field.name: _value(message, field.name) for field in fields(kind)})  # type: ignore[arg-type]


def _value(message: Message, name: str) -> Any:
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.has_presence and not message.HasField(name):
        return None
    value = getattr(message, name)
    if field.message_type and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return tuple(_plain(one) for one in value)
    if field.enum_type is orchestrator_pb2.RunState.DESCRIPTOR:
        return _state(value)
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return record(RECORDS[type(value)], value)
    return _floats(value) if isinstance(value, bytes) else value


def _state(number: int) -> RunState:
    known = orchestrator_pb2.RunState.DESCRIPTOR.values_by_number.get(number)
    name = "UNSPECIFIED" if known is None else known.name.removeprefix("RUN_STATE_")
    return RunState.__members__.get(name, RunState.UNSPECIFIED)


def _floats(data: bytes) -> array[float]:
    """Little-endian float32 values."""
    values = array("f", data)
    if sys.byteorder == "big":
        values.byteswap()
    return values
