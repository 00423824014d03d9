"""A client of `imprint`, a laboratory for how language models acquire and forget facts.

    import imprint_client

    lab = imprint_client.connect()          # what `imprint up` serves, or what the environment names
    lab.submit("mine.toml")
    for experiment in lab.watch("mine"):
        print([f"{run.run}: {run.step}/{run.n_updates}" for run in experiment.runs])
    means = imprint_client.frame(lab.means("mine/late-once-b32-s0"))

Words are those of docs/glossary.md: ℓ is a log-probability in nats, reading t is taken on the
parameters before update t.
"""

from imprint_client._errors import BadInput, Error, NotFound, NotPermitted, Unreachable, Violation
from imprint_client._laboratory import Laboratory, connect
from imprint_client._records import (
    Attempt,
    CurvePoint,
    Estimate,
    EstimateGroup,
    Experiment,
    ExperimentSummary,
    Job,
    Log,
    MeanPoint,
    ParentRun,
    Probe,
    Reading,
    Run,
    RunDetails,
    RunEvent,
    RunName,
    RunState,
    StoredRun,
    Submission,
    SubmittedRun,
    Update,
    Verification,
)
from imprint_client._tables import ReadingArrays, arrays, frame

__all__ = [
    "Attempt",
    "BadInput",
    "CurvePoint",
    "Error",
    "Estimate",
    "EstimateGroup",
    "Experiment",
    "ExperimentSummary",
    "Job",
    "Laboratory",
    "Log",
    "MeanPoint",
    "NotFound",
    "NotPermitted",
    "ParentRun",
    "Probe",
    "Reading",
    "ReadingArrays",
    "Run",
    "RunDetails",
    "RunEvent",
    "RunName",
    "RunState",
    "StoredRun",
    "Submission",
    "SubmittedRun",
    "Unreachable",
    "Update",
    "Verification",
    "Violation",
    "arrays",
    "connect",
    "frame",
]
