from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RunState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATE_UNSPECIFIED: _ClassVar[RunState]
    RUN_STATE_QUEUED: _ClassVar[RunState]
    RUN_STATE_RUNNING: _ClassVar[RunState]
    RUN_STATE_DELIVERING: _ClassVar[RunState]
    RUN_STATE_COMPLETE: _ClassVar[RunState]
    RUN_STATE_FAILED: _ClassVar[RunState]
    RUN_STATE_CANCELLED: _ClassVar[RunState]
RUN_STATE_UNSPECIFIED: RunState
RUN_STATE_QUEUED: RunState
RUN_STATE_RUNNING: RunState
RUN_STATE_DELIVERING: RunState
RUN_STATE_COMPLETE: RunState
RUN_STATE_FAILED: RunState
RUN_STATE_CANCELLED: RunState

class SubmitExperimentRequest(_message.Message):
    __slots__ = ("request_id", "toml", "file", "base_dir", "dry_run", "tokens_per_second")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TOML_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    BASE_DIR_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    toml: str
    file: str
    base_dir: str
    dry_run: bool
    tokens_per_second: float
    def __init__(self, request_id: _Optional[str] = ..., toml: _Optional[str] = ..., file: _Optional[str] = ..., base_dir: _Optional[str] = ..., dry_run: bool = ..., tokens_per_second: _Optional[float] = ...) -> None: ...

class SubmitExperimentResponse(_message.Message):
    __slots__ = ("experiment", "runs", "warnings", "estimate")
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    experiment: str
    runs: _containers.RepeatedCompositeFieldContainer[SubmittedRun]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    estimate: Estimate
    def __init__(self, experiment: _Optional[str] = ..., runs: _Optional[_Iterable[_Union[SubmittedRun, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ..., estimate: _Optional[_Union[Estimate, _Mapping]] = ...) -> None: ...

class SubmittedRun(_message.Message):
    __slots__ = ("run", "hash", "new", "n_updates", "n_readings", "n_probes", "n_tokens", "max_injected_share", "n_probe_tokens", "state", "updated")
    RUN_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    NEW_FIELD_NUMBER: _ClassVar[int]
    N_UPDATES_FIELD_NUMBER: _ClassVar[int]
    N_READINGS_FIELD_NUMBER: _ClassVar[int]
    N_PROBES_FIELD_NUMBER: _ClassVar[int]
    N_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_INJECTED_SHARE_FIELD_NUMBER: _ClassVar[int]
    N_PROBE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    run: str
    hash: str
    new: bool
    n_updates: int
    n_readings: int
    n_probes: int
    n_tokens: int
    max_injected_share: float
    n_probe_tokens: int
    state: RunState
    updated: bool
    def __init__(self, run: _Optional[str] = ..., hash: _Optional[str] = ..., new: bool = ..., n_updates: _Optional[int] = ..., n_readings: _Optional[int] = ..., n_probes: _Optional[int] = ..., n_tokens: _Optional[int] = ..., max_injected_share: _Optional[float] = ..., n_probe_tokens: _Optional[int] = ..., state: _Optional[_Union[RunState, str]] = ..., updated: bool = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ("n_runs", "n_tokens", "n_probe_tokens", "n_readings", "database_bytes", "device_hours", "groups")
    N_RUNS_FIELD_NUMBER: _ClassVar[int]
    N_TOKENS_FIELD_NUMBER: _ClassVar[int]
    N_PROBE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    N_READINGS_FIELD_NUMBER: _ClassVar[int]
    DATABASE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_HOURS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    n_runs: int
    n_tokens: int
    n_probe_tokens: int
    n_readings: int
    database_bytes: int
    device_hours: float
    groups: _containers.RepeatedCompositeFieldContainer[EstimateGroup]
    def __init__(self, n_runs: _Optional[int] = ..., n_tokens: _Optional[int] = ..., n_probe_tokens: _Optional[int] = ..., n_readings: _Optional[int] = ..., database_bytes: _Optional[int] = ..., device_hours: _Optional[float] = ..., groups: _Optional[_Iterable[_Union[EstimateGroup, _Mapping]]] = ...) -> None: ...

class EstimateGroup(_message.Message):
    __slots__ = ("run", "n_runs", "batch_size", "executor", "device", "n_parameters", "micro_batch_rows", "memory_bytes", "problem", "tokens_per_second", "n_measured_runs", "device_hours")
    RUN_FIELD_NUMBER: _ClassVar[int]
    N_RUNS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    EXECUTOR_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    N_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    MICRO_BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    N_MEASURED_RUNS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_HOURS_FIELD_NUMBER: _ClassVar[int]
    run: str
    n_runs: int
    batch_size: int
    executor: str
    device: str
    n_parameters: int
    micro_batch_rows: int
    memory_bytes: int
    problem: str
    tokens_per_second: float
    n_measured_runs: int
    device_hours: float
    def __init__(self, run: _Optional[str] = ..., n_runs: _Optional[int] = ..., batch_size: _Optional[int] = ..., executor: _Optional[str] = ..., device: _Optional[str] = ..., n_parameters: _Optional[int] = ..., micro_batch_rows: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., problem: _Optional[str] = ..., tokens_per_second: _Optional[float] = ..., n_measured_runs: _Optional[int] = ..., device_hours: _Optional[float] = ...) -> None: ...

class ListExperimentsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "open")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    open: bool
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., open: bool = ...) -> None: ...

class ListExperimentsResponse(_message.Message):
    __slots__ = ("experiments", "next_page_token")
    EXPERIMENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    experiments: _containers.RepeatedCompositeFieldContainer[ExperimentSummary]
    next_page_token: str
    def __init__(self, experiments: _Optional[_Iterable[_Union[ExperimentSummary, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ExperimentSummary(_message.Message):
    __slots__ = ("name", "runs_by_state", "created_unix_ms", "seconds_left")
    class RunsByStateEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    RUNS_BY_STATE_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    name: str
    runs_by_state: _containers.ScalarMap[str, int]
    created_unix_ms: int
    seconds_left: int
    def __init__(self, name: _Optional[str] = ..., runs_by_state: _Optional[_Mapping[str, int]] = ..., created_unix_ms: _Optional[int] = ..., seconds_left: _Optional[int] = ...) -> None: ...

class GetExperimentRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetExperimentResponse(_message.Message):
    __slots__ = ("experiment", "next_page_token")
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    next_page_token: str
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListExperimentRunsRequest(_message.Message):
    __slots__ = ("name", "page_size", "page_token", "states")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    name: str
    page_size: int
    page_token: str
    states: _containers.RepeatedScalarFieldContainer[RunState]
    def __init__(self, name: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., states: _Optional[_Iterable[_Union[RunState, str]]] = ...) -> None: ...

class ListExperimentRunsResponse(_message.Message):
    __slots__ = ("runs", "next_page_token")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    next_page_token: str
    def __init__(self, runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchExperimentRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class WatchExperimentResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class GetRunRequest(_message.Message):
    __slots__ = ("run", "run_id")
    RUN_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run: str
    run_id: int
    def __init__(self, run: _Optional[str] = ..., run_id: _Optional[int] = ...) -> None: ...

class GetRunResponse(_message.Message):
    __slots__ = ("run", "names", "cancel_requested", "created_unix_ms", "started_unix_ms", "finished_unix_ms", "parent", "job", "attempts", "logs")
    RUN_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    CANCEL_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    run: Run
    names: _containers.RepeatedCompositeFieldContainer[RunName]
    cancel_requested: bool
    created_unix_ms: int
    started_unix_ms: int
    finished_unix_ms: int
    parent: ParentRun
    job: Job
    attempts: _containers.RepeatedCompositeFieldContainer[Attempt]
    logs: _containers.RepeatedCompositeFieldContainer[Log]
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ..., names: _Optional[_Iterable[_Union[RunName, _Mapping]]] = ..., cancel_requested: bool = ..., created_unix_ms: _Optional[int] = ..., started_unix_ms: _Optional[int] = ..., finished_unix_ms: _Optional[int] = ..., parent: _Optional[_Union[ParentRun, _Mapping]] = ..., job: _Optional[_Union[Job, _Mapping]] = ..., attempts: _Optional[_Iterable[_Union[Attempt, _Mapping]]] = ..., logs: _Optional[_Iterable[_Union[Log, _Mapping]]] = ...) -> None: ...

class RunName(_message.Message):
    __slots__ = ("run", "wanted")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    run: str
    wanted: bool
    def __init__(self, run: _Optional[str] = ..., wanted: bool = ...) -> None: ...

class ParentRun(_message.Message):
    __slots__ = ("run", "step", "state")
    RUN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    run: str
    step: int
    state: RunState
    def __init__(self, run: _Optional[str] = ..., step: _Optional[int] = ..., state: _Optional[_Union[RunState, str]] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("job", "executor", "slot", "external_id", "asked_unix_ms", "alive_unix_ms", "stop_asked_unix_ms", "kill_asked_unix_ms", "ended_unix_ms", "outcome")
    JOB_FIELD_NUMBER: _ClassVar[int]
    EXECUTOR_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    ASKED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    ALIVE_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    STOP_ASKED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    KILL_ASKED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    ENDED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    job: int
    executor: str
    slot: int
    external_id: str
    asked_unix_ms: int
    alive_unix_ms: int
    stop_asked_unix_ms: int
    kill_asked_unix_ms: int
    ended_unix_ms: int
    outcome: str
    def __init__(self, job: _Optional[int] = ..., executor: _Optional[str] = ..., slot: _Optional[int] = ..., external_id: _Optional[str] = ..., asked_unix_ms: _Optional[int] = ..., alive_unix_ms: _Optional[int] = ..., stop_asked_unix_ms: _Optional[int] = ..., kill_asked_unix_ms: _Optional[int] = ..., ended_unix_ms: _Optional[int] = ..., outcome: _Optional[str] = ...) -> None: ...

class Attempt(_message.Message):
    __slots__ = ("attempt", "job", "host", "pid", "device", "machine", "offline", "step", "steps_per_second", "began_unix_ms", "heartbeat_age_ms", "ended_unix_ms", "outcome", "reason")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    OFFLINE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    BEGAN_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    ENDED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    job: int
    host: str
    pid: int
    device: str
    machine: str
    offline: bool
    step: int
    steps_per_second: float
    began_unix_ms: int
    heartbeat_age_ms: int
    ended_unix_ms: int
    outcome: str
    reason: str
    def __init__(self, attempt: _Optional[int] = ..., job: _Optional[int] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., device: _Optional[str] = ..., machine: _Optional[str] = ..., offline: bool = ..., step: _Optional[int] = ..., steps_per_second: _Optional[float] = ..., began_unix_ms: _Optional[int] = ..., heartbeat_age_ms: _Optional[int] = ..., ended_unix_ms: _Optional[int] = ..., outcome: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Log(_message.Message):
    __slots__ = ("name", "n_bytes", "changed_unix_ms", "job")
    NAME_FIELD_NUMBER: _ClassVar[int]
    N_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHANGED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    name: str
    n_bytes: int
    changed_unix_ms: int
    job: int
    def __init__(self, name: _Optional[str] = ..., n_bytes: _Optional[int] = ..., changed_unix_ms: _Optional[int] = ..., job: _Optional[int] = ...) -> None: ...

class ListRunEventsRequest(_message.Message):
    __slots__ = ("run", "page_size", "page_token")
    RUN_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    run: str
    page_size: int
    page_token: str
    def __init__(self, run: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRunEventsResponse(_message.Message):
    __slots__ = ("events", "next_page_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[RunEvent]
    next_page_token: str
    def __init__(self, events: _Optional[_Iterable[_Union[RunEvent, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RunEvent(_message.Message):
    __slots__ = ("event", "happened_unix_ms", "kind", "attempt", "job", "detail")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    HAPPENED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    event: int
    happened_unix_ms: int
    kind: str
    attempt: int
    job: int
    detail: str
    def __init__(self, event: _Optional[int] = ..., happened_unix_ms: _Optional[int] = ..., kind: _Optional[str] = ..., attempt: _Optional[int] = ..., job: _Optional[int] = ..., detail: _Optional[str] = ...) -> None: ...

class ReadLogRequest(_message.Message):
    __slots__ = ("run", "log", "tail_lines", "follow", "at")
    RUN_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    TAIL_LINES_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    run: str
    log: str
    tail_lines: int
    follow: bool
    at: LogPlace
    def __init__(self, run: _Optional[str] = ..., log: _Optional[str] = ..., tail_lines: _Optional[int] = ..., follow: bool = ..., at: _Optional[_Union[LogPlace, _Mapping]] = ...) -> None: ...

class LogPlace(_message.Message):
    __slots__ = ("log", "offset")
    LOG_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    log: str
    offset: int
    def __init__(self, log: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class ReadLogResponse(_message.Message):
    __slots__ = ("log", "text", "waiting", "offset")
    LOG_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    log: str
    text: bytes
    waiting: str
    offset: int
    def __init__(self, log: _Optional[str] = ..., text: _Optional[bytes] = ..., waiting: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class CancelExperimentRequest(_message.Message):
    __slots__ = ("name", "run")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    name: str
    run: str
    def __init__(self, name: _Optional[str] = ..., run: _Optional[str] = ...) -> None: ...

class CancelExperimentResponse(_message.Message):
    __slots__ = ("cancelled",)
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    cancelled: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, cancelled: _Optional[_Iterable[str]] = ...) -> None: ...

class RetryExperimentRequest(_message.Message):
    __slots__ = ("name", "run", "states")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    name: str
    run: str
    states: _containers.RepeatedScalarFieldContainer[RunState]
    def __init__(self, name: _Optional[str] = ..., run: _Optional[str] = ..., states: _Optional[_Iterable[_Union[RunState, str]]] = ...) -> None: ...

class RetryExperimentResponse(_message.Message):
    __slots__ = ("queued",)
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    queued: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, queued: _Optional[_Iterable[str]] = ...) -> None: ...

class SetPriorityRequest(_message.Message):
    __slots__ = ("name", "run", "priority")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    name: str
    run: str
    priority: int
    def __init__(self, name: _Optional[str] = ..., run: _Optional[str] = ..., priority: _Optional[int] = ...) -> None: ...

class SetPriorityResponse(_message.Message):
    __slots__ = ("changed",)
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    changed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, changed: _Optional[_Iterable[str]] = ...) -> None: ...

class Experiment(_message.Message):
    __slots__ = ("name", "runs", "summary")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    name: str
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    summary: ExperimentSummary
    def __init__(self, name: _Optional[str] = ..., runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ..., summary: _Optional[_Union[ExperimentSummary, _Mapping]] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("run_id", "run", "state", "reason", "n_updates", "step", "attempts", "steps_per_second", "readings_expected", "readings_stored", "undelivered_since_step", "priority", "seconds_left")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    N_UPDATES_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    STEPS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    READINGS_EXPECTED_FIELD_NUMBER: _ClassVar[int]
    READINGS_STORED_FIELD_NUMBER: _ClassVar[int]
    UNDELIVERED_SINCE_STEP_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    run_id: int
    run: str
    state: RunState
    reason: str
    n_updates: int
    step: int
    attempts: int
    steps_per_second: float
    readings_expected: int
    readings_stored: int
    undelivered_since_step: int
    priority: int
    seconds_left: int
    def __init__(self, run_id: _Optional[int] = ..., run: _Optional[str] = ..., state: _Optional[_Union[RunState, str]] = ..., reason: _Optional[str] = ..., n_updates: _Optional[int] = ..., step: _Optional[int] = ..., attempts: _Optional[int] = ..., steps_per_second: _Optional[float] = ..., readings_expected: _Optional[int] = ..., readings_stored: _Optional[int] = ..., undelivered_since_step: _Optional[int] = ..., priority: _Optional[int] = ..., seconds_left: _Optional[int] = ...) -> None: ...
