"""Records against the messages they are made from."""

from dataclasses import fields

import pytest
from google.protobuf.message import Message

from imprint_client import Experiment, Reading, RunState, Submission, Verification
from imprint_client._pb.imprint.v1 import metrics_pb2, orchestrator_pb2
from imprint_client._records import RECORDS, record

# Tracing is no matter of readers.
LEFT_OUT = {"traceparent"}


@pytest.mark.parametrize("message", RECORDS, ids=lambda message: str(message.DESCRIPTOR.name))
def test_a_record_has_every_field_of_its_message(message: type[Message]) -> None:
    of_message = {field.name for field in message.DESCRIPTOR.fields} - LEFT_OUT
    assert {field.name for field in fields(RECORDS[message])} == of_message


def test_the_states_are_those_of_the_protocol() -> None:
    of_protocol = {name.removeprefix("RUN_STATE_") for name in orchestrator_pb2.RunState.keys()}
    assert set(RunState.__members__) == of_protocol


def test_messages_become_plain_values() -> None:
    message = orchestrator_pb2.Experiment(
        name="mine",
        runs=[
            orchestrator_pb2.Run(run="mine/a", state=orchestrator_pb2.RUN_STATE_FAILED),
            orchestrator_pb2.Run(run="mine/b", undelivered_since_step=0),
        ],
        summary=orchestrator_pb2.ExperimentSummary(runs_by_state={"failed": 1, "queued": 1}),
    )
    experiment = record(Experiment, message)
    failed, unknown = experiment.runs
    assert failed.state is RunState.FAILED and failed.state.has_ended
    assert (failed.undelivered_since_step, unknown.undelivered_since_step) == (None, 0)
    assert unknown.state is RunState.UNSPECIFIED and not unknown.state.has_ended
    assert experiment.summary is not None
    assert experiment.summary.runs_by_state == {"failed": 1, "queued": 1}
    assert record(Experiment, orchestrator_pb2.Experiment()).summary is None


def test_a_state_of_a_later_protocol_is_unspecified() -> None:
    later = orchestrator_pb2.Experiment()
    later.MergeFromString(b"\x12\x02\x18\x63")
    assert record(Experiment, later).runs[0].state is RunState.UNSPECIFIED


def test_repeated_texts_stay_texts() -> None:
    message = orchestrator_pb2.SubmitExperimentResponse(warnings=["one", "two"])
    assert record(Submission, message).warnings == ("one", "two")


def test_values_of_a_reading_are_little_endian() -> None:
    message = metrics_pb2.Reading(step=3, target_sum_nats=b"\x00\x00\x80\xbf\x00\x00\x00\xc0")
    reading = record(Reading, message)
    assert (reading.step, list(reading.target_sum_nats)) == (3, [-1.0, -2.0])


def test_a_run_is_clean_when_all_is_stored_and_sound() -> None:
    message = metrics_pb2.VerifyRunResponse(
        readings_expected=2, readings_stored=2, updates_expected=1, updates_stored=1
    )
    assert record(Verification, message).is_clean
    message.readings_damaged.append(1)
    assert not record(Verification, message).is_clean
    message.readings_damaged.clear()
    message.updates_stored = 0
    assert not record(Verification, message).is_clean
