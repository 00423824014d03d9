"""A client that knows nothing of imprint but an address: it learns the protocol by reflection.

    python third_party_client.py HOST:PORT EXPERIMENT.toml BASE_DIR

Submits the experiment twice under one request id, watches it until all its runs have ended, and
prints their states as one JSON object.
"""

import json
import sys
import uuid

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

DEADLINE_SECONDS = 240


def main(address: str, path: str, base_dir: str) -> None:
    channel = grpc.insecure_channel(address)
    grpc.channel_ready_future(channel).result(timeout=20)
    database = ProtoReflectionDescriptorDatabase(channel)
    services = sorted(database.get_services())
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("imprint.v1.Orchestrator")

    def call(method_name: str, /, **fields):
        method = service.methods_by_name[method_name]
        request = GetMessageClass(method.input_type)(**fields)
        answer = GetMessageClass(method.output_type).FromString
        kind = channel.unary_stream if method.server_streaming else channel.unary_unary
        stub = kind(
            f"/{service.full_name}/{method_name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer,
        )
        return stub(request, timeout=DEADLINE_SECONDS)

    with open(path, encoding="utf-8") as file:
        submit = {
            "request_id": str(uuid.uuid4()),
            "toml": file.read(),
            "file": path,
            "base_dir": base_dir,
        }
    first = call("SubmitExperiment", **submit)
    again = call("SubmitExperiment", **submit)
    assert first == again, "a repeated request must get the same answer"
    states = {}
    n_messages = 0
    state_names = pool.FindEnumTypeByName("imprint.v1.RunState").values_by_number
    for message in call("WatchExperiment", name=first.experiment):
        n_messages += 1
        states |= {run.run: state_names[run.state].name for run in message.experiment.runs}
    print(
        json.dumps(
            {
                "services": services,
                "new": [run.run for run in first.runs if run.new],
                "states": states,
                "messages": n_messages,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
