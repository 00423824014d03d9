"""The two services as one laboratory."""

from __future__ import annotations

import codecs
import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from imprint_client._errors import Error
from imprint_client._pb.imprint.v1 import metrics_pb2 as metrics
from imprint_client._pb.imprint.v1 import orchestrator_pb2 as orchestrator
from imprint_client._place import Place
from imprint_client._records import (
    CurvePoint,
    Experiment,
    ExperimentSummary,
    MeanPoint,
    Probe,
    Reading,
    Run,
    RunDetails,
    RunEvent,
    RunState,
    StoredRun,
    Submission,
    Update,
    Verification,
    record,
)
from imprint_client._service import LONG_ANSWER_WITHIN_SECONDS, Reconnecting, Service

_log = logging.getLogger("imprint_client")

# The limits of pages: so few calls as can be.
_MANY_RUNS = 1_000
_MANY_PROBES = 5_000
_MANY_READINGS = 256
_MANY_POINTS = 10_000


def connect(
    *,
    orchestrator: str | None = None,
    metrics: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    token_file: str | os.PathLike[str] | None = None,
    ca: str | os.PathLike[str] | None = None,
    client_cert: str | os.PathLike[str] | None = None,
    client_key: str | os.PathLike[str] | None = None,
) -> Laboratory:
    """A laboratory, found as the program `imprint` finds it.

    What is not given is taken from the environment (`IMPRINT_ORCHESTRATOR`, `IMPRINT_METRICS`,
    `IMPRINT_DATA_DIR`, `IMPRINT_TOKEN_FILE`, `IMPRINT_CA`, `IMPRINT_CLIENT_CERT`,
    `IMPRINT_CLIENT_KEY`), else from what `imprint up` wrote into the data directory, else services
    are looked for at the default ports of this machine.
    Nothing is connected before the first call.

    Args:
        orchestrator: Its address, such as `https://lab.example:7432`.
        metrics: The address of the metrics service, such as `https://lab.example:7431`.
        data_dir: The data directory of `imprint up`.
        token_file: A file with your token, which nobody but you may be able to read.
        ca: Certificates of the authority that signed the services' (PEM); those that this machine
            trusts where absent.
        client_cert: Your certificate (PEM), where services ask for one.
        client_key: Its key, which nobody but you may be able to read.

    Raises:
        OSError: when a file cannot be read, or others than its owner may read a secret.
        ValueError: when an address is none, or a token would travel in the clear.
    """
    place = Place(orchestrator, metrics, data_dir, token_file, ca, client_cert, client_key)
    return Laboratory(
        Service("orchestrator", place.target("orchestrator")),
        Service("metrics", place.target("metrics")),
    )


class Laboratory:
    """Experiments, their runs, and what was read; made by `connect`.

    Every call raises a subclass of `Error` when it is refused or nothing answers, and is repeated for
    some seconds while a service cannot answer.
    An experiment is known by its name, a run by its label `experiment/cell`.
    States are those of `RunState`, or its words: `"failed"`.
    """

    def __init__(self, orchestrator: Service, metrics: Service) -> None:
        self._orchestrator = orchestrator
        self._metrics = metrics

    def close(self) -> None:
        """Ends the connections."""
        self._orchestrator.close()
        self._metrics.close()

    def __enter__(self) -> Laboratory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Experiments

    def submit(
        self,
        file: str | os.PathLike[str],
        *,
        dry_run: bool = False,
        tokens_per_second: float | None = None,
        request_id: str | None = None,
    ) -> Submission:
        """Submits an experiment file: its matrix becomes runs, and those that are new are queued.

        Relative paths in the file are taken from its directory.
        Submitting the same file twice changes nothing.

        Args:
            file: The experiment file.
            dry_run: Check, expand and estimate only; nothing is stored.
            tokens_per_second: For the hours of a dry run: what one trainer trains on; where absent,
                what was measured on complete runs of the same model on the same device.
            request_id: What tells this request from others; a new one where absent. Repeating a
                request with its id returns the first answer.

        Raises:
            BadInput: naming file, field or line, before anything is stored.
            OSError: when the file cannot be read.
        """
        path = Path(file)
        return self.submit_text(
            path.read_text(encoding="utf-8"),
            base_dir=path.resolve().parent,
            file=os.fspath(file),
            dry_run=dry_run,
            tokens_per_second=tokens_per_second,
            request_id=request_id,
        )

    def submit_text(
        self,
        toml: str,
        *,
        base_dir: str | os.PathLike[str] = ".",
        file: str = "experiment.toml",
        dry_run: bool = False,
        tokens_per_second: float | None = None,
        request_id: str | None = None,
    ) -> Submission:
        """Submits the text of an experiment file, as `submit` does.

        Args:
            base_dir: Directory from which relative paths in the text are taken.
            file: What errors call the text.
        """
        request = orchestrator.SubmitExperimentRequest(
            request_id=request_id or str(uuid.uuid4()),
            toml=toml,
            file=file,
            base_dir=os.fspath(Path(base_dir).resolve()),
            dry_run=dry_run,
            tokens_per_second=tokens_per_second,
        )
        answer = self._orchestrator.call(
            "SubmitExperiment",
            request,
            orchestrator.SubmitExperimentResponse,
            LONG_ANSWER_WITHIN_SECONDS,
        )
        return record(Submission, answer)

    def experiments(self, *, only_open: bool = False) -> Iterator[ExperimentSummary]:
        """The experiments, the newest first; with `only_open`, those with runs that have not ended."""

        def page(token: str) -> orchestrator.ListExperimentsResponse:
            request = orchestrator.ListExperimentsRequest(
                page_size=_MANY_RUNS, page_token=token, open=only_open
            )
            return self._orchestrator.call(
                "ListExperiments", request, orchestrator.ListExperimentsResponse
            )

        for answer in self._orchestrator.pages(page):
            yield from (record(ExperimentSummary, one) for one in answer.experiments)

    def experiment(self, name: str) -> Experiment:
        """An experiment as it stands, with all its runs."""
        request = orchestrator.GetExperimentRequest(name=name)
        answer = self._orchestrator.call(
            "GetExperiment", request, orchestrator.GetExperimentResponse
        )
        first = record(Experiment, answer.experiment)
        runs = list(first.runs)
        if answer.next_page_token:
            runs.extend(self._runs(name, answer.next_page_token, ()))
        return Experiment(first.name, tuple(runs), first.summary)

    def runs(self, name: str, *, states: Iterable[RunState | str] = ()) -> Iterator[Run]:
        """The runs of an experiment, in the order in which they were asked for.

        Args:
            states: Runs in these states only; all where empty.
        """
        return self._runs(name, "", _names(states))

    def _runs(self, name: str, token: str, states: Sequence[str]) -> Iterator[Run]:
        def page(token: str) -> orchestrator.ListExperimentRunsResponse:
            request = orchestrator.ListExperimentRunsRequest(
                name=name, page_size=_MANY_RUNS, page_token=token, states=states
            )
            return self._orchestrator.call(
                "ListExperimentRuns", request, orchestrator.ListExperimentRunsResponse
            )

        for answer in self._orchestrator.pages(page, token):
            yield from (record(Run, one) for one in answer.runs)

    def watch(self, name: str) -> Iterator[Experiment]:
        """An experiment whenever something in it changed, until all its runs have ended.

        Every value has all runs.
        A watch that breaks is taken up again for a minute.
        """
        request = orchestrator.WatchExperimentRequest(name=name)
        reconnecting = Reconnecting()
        while True:
            runs: dict[int, Run] = {}
            try:
                answers = self._orchestrator.stream(
                    "WatchExperiment", request, orchestrator.WatchExperimentResponse
                )
                for answer in answers:
                    reconnecting.answered()
                    part = record(Experiment, answer.experiment)
                    runs.update((run.run_id, run) for run in part.runs)
                    # An experiment of many runs comes in several messages at first.
                    if part.summary and len(runs) >= sum(part.summary.runs_by_state.values()):
                        yield Experiment(part.name, tuple(runs.values()), part.summary)
                return
            except Error as broken:
                reconnecting.wait(broken)

    def wait(self, name: str) -> Experiment:
        """The experiment when all its runs have ended, well or badly."""
        for _ in self.watch(name):
            pass
        return self.experiment(name)

    def cancel(self, name: str) -> list[str]:
        """Ends the runs of an experiment that no other experiment wants, or one of them.

        Args:
            name: An experiment, or the label of one of its runs.

        Returns:
            The labels of the runs that are cancelled by this.
        """
        experiment, run = _meant(name)
        request = orchestrator.CancelExperimentRequest(name=experiment, run=run)
        answer = self._orchestrator.call(
            "CancelExperiment", request, orchestrator.CancelExperimentResponse
        )
        return list(answer.cancelled)

    def retry(self, name: str, *, states: Iterable[RunState | str] = ()) -> list[str]:
        """Queues failed and cancelled runs of an experiment again, or one of them.

        Args:
            name: An experiment, or the label of one of its runs.
            states: Which runs: failed ones, cancelled ones; both where empty.

        Returns:
            The labels of the runs that are queued by this.
        """
        experiment, run = _meant(name)
        request = orchestrator.RetryExperimentRequest(
            name=experiment, run=run, states=_names(states)
        )
        answer = self._orchestrator.call(
            "RetryExperiment", request, orchestrator.RetryExperimentResponse
        )
        return list(answer.queued)

    def set_priority(self, name: str, priority: int) -> list[str]:
        """Says which waiting runs start first: those with the highest priority; 0 is where all begin.

        Args:
            name: An experiment, or the label of one of its runs.

        Returns:
            The labels of the runs that had another priority and are not complete.
        """
        experiment, run = _meant(name)
        request = orchestrator.SetPriorityRequest(name=experiment, run=run, priority=priority)
        answer = self._orchestrator.call("SetPriority", request, orchestrator.SetPriorityResponse)
        return list(answer.changed)

    # One run

    def run(self, run: str) -> RunDetails:
        """All that is known of one run: why it waits, where it is executed, how its attempts ended."""
        request = orchestrator.GetRunRequest(run=run)
        answer = self._orchestrator.call("GetRun", request, orchestrator.GetRunResponse)
        return record(RunDetails, answer)

    def events(self, run: str) -> Iterator[RunEvent]:
        """What happened to a run, the newest first."""

        def page(token: str) -> orchestrator.ListRunEventsResponse:
            request = orchestrator.ListRunEventsRequest(
                run=run, page_size=_MANY_RUNS, page_token=token
            )
            return self._orchestrator.call(
                "ListRunEvents", request, orchestrator.ListRunEventsResponse
            )

        for answer in self._orchestrator.pages(page):
            yield from (record(RunEvent, one) for one in answer.events)

    def log(
        self, run: str, log: str = "", *, tail_lines: int | None = None, follow: bool = False
    ) -> Iterator[str]:
        """What a run's trainer said, in pieces.

        One that breaks off is taken up again behind the last piece, for a minute.
        Why a run waits whose log is followed is a warning of the logger `imprint_client`, which
        Python shows on standard error unless told otherwise.

        Args:
            log: The name of one of the run's logs; the newest where empty.
            tail_lines: Only so many of the last lines that are there; all where absent.
            follow: Go on until the run has ended, over to the next log when another trainer starts.
        """
        request = orchestrator.ReadLogRequest(
            run=run, log=log, tail_lines=tail_lines, follow=follow
        )
        # A piece may end within a character.
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        reconnecting = Reconnecting()
        while True:
            try:
                answers = self._orchestrator.stream(
                    "ReadLog", request, orchestrator.ReadLogResponse
                )
                for answer in answers:
                    reconnecting.answered()
                    if answer.waiting:
                        _log.warning("%s waits: %s", run, answer.waiting)
                    if answer.text:
                        request.at.log = answer.log
                        request.at.offset = answer.offset + len(answer.text)
                    if text := decoder.decode(answer.text):
                        yield text
                return
            except Error as broken:
                reconnecting.wait(broken)

    def verify(self, run: str) -> Verification:
        """Which readings of a run are stored and which are missing."""
        request = metrics.VerifyRunRequest(run=run)
        answer = self._metrics.call(
            "VerifyRun", request, metrics.VerifyRunResponse, LONG_ANSWER_WITHIN_SECONDS
        )
        return record(Verification, answer)

    # What is stored

    def stored_runs(self, experiment: str | None = None) -> Iterator[StoredRun]:
        """The runs of one experiment, or of all, the oldest first, and what is stored of them."""

        def page(token: str) -> metrics.ListRunsResponse:
            request = metrics.ListRunsRequest(
                experiment=experiment or "", page_size=_MANY_RUNS, page_token=token
            )
            return self._metrics.call("ListRuns", request, metrics.ListRunsResponse)

        for answer in self._metrics.pages(page):
            yield from (record(StoredRun, one) for one in answer.runs)

    def probes(self, run: str) -> Iterator[Probe]:
        """The probes of a run, in the order of the values of its readings."""

        def page(token: str) -> metrics.ListProbesResponse:
            request = metrics.ListProbesRequest(run=run, page_size=_MANY_PROBES, page_token=token)
            return self._metrics.call("ListProbes", request, metrics.ListProbesResponse)

        for answer in self._metrics.pages(page):
            yield from (record(Probe, one) for one in answer.probes)

    def readings(self, run: str) -> Iterator[Reading]:
        """The readings of a run by step, all probes of a step together."""

        def page(token: str) -> metrics.ListReadingsResponse:
            request = metrics.ListReadingsRequest(
                run=run, page_size=_MANY_READINGS, page_token=token
            )
            return self._metrics.call("ListReadings", request, metrics.ListReadingsResponse)

        for answer in self._metrics.pages(page):
            yield from (record(Reading, one) for one in answer.readings)

    def curve(self, run: str, probe: int) -> Iterator[CurvePoint]:
        """The readings of one probe by step.

        Args:
            probe: Position of its value in every reading.
        """

        def page(token: str) -> metrics.ListCurvePointsResponse:
            request = metrics.ListCurvePointsRequest(
                run=run, probe=probe, page_size=_MANY_POINTS, page_token=token
            )
            return self._metrics.call("ListCurvePoints", request, metrics.ListCurvePointsResponse)

        for answer in self._metrics.pages(page):
            yield from (record(CurvePoint, one) for one in answer.points)

    def means(self, run: str) -> Iterator[MeanPoint]:
        """Means over probes by step, then arm, depth and control."""

        def page(token: str) -> metrics.ListMeanPointsResponse:
            request = metrics.ListMeanPointsRequest(
                run=run, page_size=_MANY_POINTS, page_token=token
            )
            return self._metrics.call("ListMeanPoints", request, metrics.ListMeanPointsResponse)

        for answer in self._metrics.pages(page):
            yield from (record(MeanPoint, one) for one in answer.points)

    def updates(self, run: str) -> Iterator[Update]:
        """The statistics of a run's updates by step."""

        def page(token: str) -> metrics.ListUpdatesResponse:
            request = metrics.ListUpdatesRequest(run=run, page_size=_MANY_POINTS, page_token=token)
            return self._metrics.call("ListUpdates", request, metrics.ListUpdatesResponse)

        for answer in self._metrics.pages(page):
            yield from (record(Update, one) for one in answer.updates)


def _names(states: Iterable[RunState | str]) -> list[str]:
    """What the protocol calls states.

    Raises:
        ValueError: naming a word that is none.
    """
    # A word in the place of words would be taken letter by letter.
    words = (states,) if isinstance(states, str) else states
    return [f"RUN_STATE_{RunState(word).name}" for word in words]


def _meant(name: str) -> tuple[str, str]:
    """The experiment and, where it is one of its runs, the label of what is named."""
    experiment, slash, _ = name.partition("/")
    return experiment, name if slash else ""
