"""Makes the messages of the protocol again from `proto/`, into `imprint_client/_pb`.

    pip install grpcio-tools==1.74.0
    python python/make_stubs.py [DIRECTORY]

The version is pinned: what it makes runs with the protobuf that it was made for and all later ones of
its major version and the next.
"""

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
PROTO = HERE.parent / "proto"
STUBS = HERE / "imprint_client" / "_pb"

# The protocol of people and their programs; that of trainers is not for this package.
PROTOCOL = ["imprint/v1/orchestrator.proto", "imprint/v1/metrics.proto"]


def make(directory: Path) -> None:
    """Writes a module and its types for each file of the protocol.

    Raises:
        RuntimeError: when the compiler refuses a file; it has said why.
    """
    directory.mkdir(parents=True, exist_ok=True)
    include = str(files("grpc_tools") / "_proto")
    out = [f"--python_out={directory}", f"--pyi_out={directory}"]
    arguments = ["protoc", f"--proto_path={PROTO}", f"--proto_path={include}", *out, *PROTOCOL]
    if protoc.main(arguments) != 0:
        raise RuntimeError(f"protoc refuses {PROTO}")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else STUBS)
