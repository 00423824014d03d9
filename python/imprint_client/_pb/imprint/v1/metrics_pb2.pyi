from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class IngestRequest(_message.Message):
    __slots__ = ("open", "reading", "update")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    READING_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    open: Open
    reading: Reading
    update: Update
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., reading: _Optional[_Union[Reading, _Mapping]] = ..., update: _Optional[_Union[Update, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("run_id", "attempt", "resume_step", "machine")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    RESUME_STEP_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    run_id: int
    attempt: int
    resume_step: int
    machine: str
    def __init__(self, run_id: _Optional[int] = ..., attempt: _Optional[int] = ..., resume_step: _Optional[int] = ..., machine: _Optional[str] = ...) -> None: ...

class Reading(_message.Message):
    __slots__ = ("index", "step", "measured_by", "first_sum_nats", "target_sum_nats", "full_sum_nats", "traceparent")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    MEASURED_BY_FIELD_NUMBER: _ClassVar[int]
    FIRST_SUM_NATS_FIELD_NUMBER: _ClassVar[int]
    TARGET_SUM_NATS_FIELD_NUMBER: _ClassVar[int]
    FULL_SUM_NATS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    index: int
    step: int
    measured_by: int
    first_sum_nats: bytes
    target_sum_nats: bytes
    full_sum_nats: bytes
    traceparent: str
    def __init__(self, index: _Optional[int] = ..., step: _Optional[int] = ..., measured_by: _Optional[int] = ..., first_sum_nats: _Optional[bytes] = ..., target_sum_nats: _Optional[bytes] = ..., full_sum_nats: _Optional[bytes] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Update(_message.Message):
    __slots__ = ("step", "measured_by", "loss_nats", "learning_rate", "grad_norm", "update_norm", "n_tokens", "n_injected_tokens", "duration_ms", "traceparent")
    STEP_FIELD_NUMBER: _ClassVar[int]
    MEASURED_BY_FIELD_NUMBER: _ClassVar[int]
    LOSS_NATS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    GRAD_NORM_FIELD_NUMBER: _ClassVar[int]
    UPDATE_NORM_FIELD_NUMBER: _ClassVar[int]
    N_TOKENS_FIELD_NUMBER: _ClassVar[int]
    N_INJECTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    step: int
    measured_by: int
    loss_nats: float
    learning_rate: float
    grad_norm: float
    update_norm: float
    n_tokens: int
    n_injected_tokens: int
    duration_ms: float
    traceparent: str
    def __init__(self, step: _Optional[int] = ..., measured_by: _Optional[int] = ..., loss_nats: _Optional[float] = ..., learning_rate: _Optional[float] = ..., grad_norm: _Optional[float] = ..., update_norm: _Optional[float] = ..., n_tokens: _Optional[int] = ..., n_injected_tokens: _Optional[int] = ..., duration_ms: _Optional[float] = ..., traceparent: _Optional[str] = ...) -> None: ...

class IngestResponse(_message.Message):
    __slots__ = ("opened", "acknowledged")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    acknowledged: Acknowledged
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., acknowledged: _Optional[_Union[Acknowledged, _Mapping]] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("next_reading", "next_update")
    NEXT_READING_FIELD_NUMBER: _ClassVar[int]
    NEXT_UPDATE_FIELD_NUMBER: _ClassVar[int]
    next_reading: int
    next_update: int
    def __init__(self, next_reading: _Optional[int] = ..., next_update: _Optional[int] = ...) -> None: ...

class Acknowledged(_message.Message):
    __slots__ = ("attempt", "next_reading", "next_update")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NEXT_READING_FIELD_NUMBER: _ClassVar[int]
    NEXT_UPDATE_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    next_reading: int
    next_update: int
    def __init__(self, attempt: _Optional[int] = ..., next_reading: _Optional[int] = ..., next_update: _Optional[int] = ...) -> None: ...

class VerifyRunRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class VerifyRunResponse(_message.Message):
    __slots__ = ("run_id", "run", "state", "n_probes", "readings_expected", "readings_stored", "readings_missing", "readings_damaged", "updates_expected", "updates_stored", "updates_missing", "readings_superseded", "attempts")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    N_PROBES_FIELD_NUMBER: _ClassVar[int]
    READINGS_EXPECTED_FIELD_NUMBER: _ClassVar[int]
    READINGS_STORED_FIELD_NUMBER: _ClassVar[int]
    READINGS_MISSING_FIELD_NUMBER: _ClassVar[int]
    READINGS_DAMAGED_FIELD_NUMBER: _ClassVar[int]
    UPDATES_EXPECTED_FIELD_NUMBER: _ClassVar[int]
    UPDATES_STORED_FIELD_NUMBER: _ClassVar[int]
    UPDATES_MISSING_FIELD_NUMBER: _ClassVar[int]
    READINGS_SUPERSEDED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    run_id: int
    run: str
    state: str
    n_probes: int
    readings_expected: int
    readings_stored: int
    readings_missing: _containers.RepeatedScalarFieldContainer[int]
    readings_damaged: _containers.RepeatedScalarFieldContainer[int]
    updates_expected: int
    updates_stored: int
    updates_missing: _containers.RepeatedScalarFieldContainer[int]
    readings_superseded: int
    attempts: int
    def __init__(self, run_id: _Optional[int] = ..., run: _Optional[str] = ..., state: _Optional[str] = ..., n_probes: _Optional[int] = ..., readings_expected: _Optional[int] = ..., readings_stored: _Optional[int] = ..., readings_missing: _Optional[_Iterable[int]] = ..., readings_damaged: _Optional[_Iterable[int]] = ..., updates_expected: _Optional[int] = ..., updates_stored: _Optional[int] = ..., updates_missing: _Optional[_Iterable[int]] = ..., readings_superseded: _Optional[int] = ..., attempts: _Optional[int] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ("experiment", "page_size", "page_token")
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    experiment: str
    page_size: int
    page_token: str
    def __init__(self, experiment: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs", "next_page_token")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[StoredRun]
    next_page_token: str
    def __init__(self, runs: _Optional[_Iterable[_Union[StoredRun, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class StoredRun(_message.Message):
    __slots__ = ("run_id", "run", "experiment", "state", "reason", "scenario", "batch_size", "seq_len", "seed", "n_updates", "n_probes", "readings_expected", "readings_stored", "updates_stored", "first_global_step", "imported")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SCENARIO_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    SEQ_LEN_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    N_UPDATES_FIELD_NUMBER: _ClassVar[int]
    N_PROBES_FIELD_NUMBER: _ClassVar[int]
    READINGS_EXPECTED_FIELD_NUMBER: _ClassVar[int]
    READINGS_STORED_FIELD_NUMBER: _ClassVar[int]
    UPDATES_STORED_FIELD_NUMBER: _ClassVar[int]
    FIRST_GLOBAL_STEP_FIELD_NUMBER: _ClassVar[int]
    IMPORTED_FIELD_NUMBER: _ClassVar[int]
    run_id: int
    run: str
    experiment: str
    state: str
    reason: str
    scenario: str
    batch_size: int
    seq_len: int
    seed: int
    n_updates: int
    n_probes: int
    readings_expected: int
    readings_stored: int
    updates_stored: int
    first_global_step: int
    imported: bool
    def __init__(self, run_id: _Optional[int] = ..., run: _Optional[str] = ..., experiment: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., scenario: _Optional[str] = ..., batch_size: _Optional[int] = ..., seq_len: _Optional[int] = ..., seed: _Optional[int] = ..., n_updates: _Optional[int] = ..., n_probes: _Optional[int] = ..., readings_expected: _Optional[int] = ..., readings_stored: _Optional[int] = ..., updates_stored: _Optional[int] = ..., first_global_step: _Optional[int] = ..., imported: bool = ...) -> None: ...

class ListProbesRequest(_message.Message):
    __slots__ = ("run", "page_size", "page_token")
    RUN_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    run: str
    page_size: int
    page_token: str
    def __init__(self, run: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListProbesResponse(_message.Message):
    __slots__ = ("probes", "next_page_token")
    PROBES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    probes: _containers.RepeatedCompositeFieldContainer[Probe]
    next_page_token: str
    def __init__(self, probes: _Optional[_Iterable[_Union[Probe, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("probe", "fact", "arm", "depth", "ordinal", "swap_fact", "prompt", "target", "n_target_tokens", "n_full_tokens")
    PROBE_FIELD_NUMBER: _ClassVar[int]
    FACT_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    ORDINAL_FIELD_NUMBER: _ClassVar[int]
    SWAP_FACT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    N_TARGET_TOKENS_FIELD_NUMBER: _ClassVar[int]
    N_FULL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    probe: int
    fact: int
    arm: str
    depth: str
    ordinal: int
    swap_fact: int
    prompt: str
    target: str
    n_target_tokens: int
    n_full_tokens: int
    def __init__(self, probe: _Optional[int] = ..., fact: _Optional[int] = ..., arm: _Optional[str] = ..., depth: _Optional[str] = ..., ordinal: _Optional[int] = ..., swap_fact: _Optional[int] = ..., prompt: _Optional[str] = ..., target: _Optional[str] = ..., n_target_tokens: _Optional[int] = ..., n_full_tokens: _Optional[int] = ...) -> None: ...

class ListReadingsRequest(_message.Message):
    __slots__ = ("run", "page_size", "page_token")
    RUN_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    run: str
    page_size: int
    page_token: str
    def __init__(self, run: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListReadingsResponse(_message.Message):
    __slots__ = ("readings", "next_page_token")
    READINGS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    readings: _containers.RepeatedCompositeFieldContainer[Reading]
    next_page_token: str
    def __init__(self, readings: _Optional[_Iterable[_Union[Reading, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListCurvePointsRequest(_message.Message):
    __slots__ = ("run", "probe", "page_size", "page_token")
    RUN_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    run: str
    probe: int
    page_size: int
    page_token: str
    def __init__(self, run: _Optional[str] = ..., probe: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListCurvePointsResponse(_message.Message):
    __slots__ = ("points", "next_page_token")
    POINTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    points: _containers.RepeatedCompositeFieldContainer[CurvePoint]
    next_page_token: str
    def __init__(self, points: _Optional[_Iterable[_Union[CurvePoint, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CurvePoint(_message.Message):
    __slots__ = ("index", "step", "first_sum_nats", "target_sum_nats", "full_sum_nats")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    FIRST_SUM_NATS_FIELD_NUMBER: _ClassVar[int]
    TARGET_SUM_NATS_FIELD_NUMBER: _ClassVar[int]
    FULL_SUM_NATS_FIELD_NUMBER: _ClassVar[int]
    index: int
    step: int
    first_sum_nats: float
    target_sum_nats: float
    full_sum_nats: float
    def __init__(self, index: _Optional[int] = ..., step: _Optional[int] = ..., first_sum_nats: _Optional[float] = ..., target_sum_nats: _Optional[float] = ..., full_sum_nats: _Optional[float] = ...) -> None: ...

class ListMeanPointsRequest(_message.Message):
    __slots__ = ("run", "page_size", "page_token")
    RUN_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    run: str
    page_size: int
    page_token: str
    def __init__(self, run: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListMeanPointsResponse(_message.Message):
    __slots__ = ("points", "next_page_token")
    POINTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    points: _containers.RepeatedCompositeFieldContainer[MeanPoint]
    next_page_token: str
    def __init__(self, points: _Optional[_Iterable[_Union[MeanPoint, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class MeanPoint(_message.Message):
    __slots__ = ("index", "step", "arm", "depth", "swap", "n_probes", "first_mean_nats", "target_mean_nats", "full_mean_nats")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    SWAP_FIELD_NUMBER: _ClassVar[int]
    N_PROBES_FIELD_NUMBER: _ClassVar[int]
    FIRST_MEAN_NATS_FIELD_NUMBER: _ClassVar[int]
    TARGET_MEAN_NATS_FIELD_NUMBER: _ClassVar[int]
    FULL_MEAN_NATS_FIELD_NUMBER: _ClassVar[int]
    index: int
    step: int
    arm: str
    depth: str
    swap: bool
    n_probes: int
    first_mean_nats: float
    target_mean_nats: float
    full_mean_nats: float
    def __init__(self, index: _Optional[int] = ..., step: _Optional[int] = ..., arm: _Optional[str] = ..., depth: _Optional[str] = ..., swap: bool = ..., n_probes: _Optional[int] = ..., first_mean_nats: _Optional[float] = ..., target_mean_nats: _Optional[float] = ..., full_mean_nats: _Optional[float] = ...) -> None: ...

class ListUpdatesRequest(_message.Message):
    __slots__ = ("run", "page_size", "page_token")
    RUN_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    run: str
    page_size: int
    page_token: str
    def __init__(self, run: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListUpdatesResponse(_message.Message):
    __slots__ = ("updates", "next_page_token")
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    updates: _containers.RepeatedCompositeFieldContainer[Update]
    next_page_token: str
    def __init__(self, updates: _Optional[_Iterable[_Union[Update, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
