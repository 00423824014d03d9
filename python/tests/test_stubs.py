"""What is generated is what the protocol says."""

from pathlib import Path

import make_stubs


def modules(directory: Path) -> dict[str, bytes]:
    found = directory.rglob("*_pb2.py*")
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def test_the_stubs_are_those_of_the_protocol(tmp_path: Path) -> None:
    make_stubs.make(tmp_path)
    made = modules(tmp_path)
    assert len(made) == 2 * len(make_stubs.PROTOCOL)
    assert modules(make_stubs.STUBS) == made, "run `python python/make_stubs.py`"
