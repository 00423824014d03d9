"""Records as arrays and tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from imprint_client._records import Reading

if TYPE_CHECKING:
    import numpy
    import pandas
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ReadingArrays:
    """Readings of S steps and P probes.

    Values are summed log-probabilities in nats, at most 0; divided by the probes' tokens of the span
    they are the means ℓ.
    """

    #: [S]
    step: NDArray[numpy.int64]
    #: [S], the attempt that measured the step.
    measured_by: NDArray[numpy.int64]
    #: [S, P]
    first_sum_nats: NDArray[numpy.float32]
    #: [S, P]
    target_sum_nats: NDArray[numpy.float32]
    #: [S, P]
    full_sum_nats: NDArray[numpy.float32]


def arrays(readings: Iterable[Reading]) -> ReadingArrays:
    """Readings of one run as NumPy arrays (extra `numpy`).

    Raises:
        ImportError: when NumPy is not installed.
    """
    try:
        import numpy
    except ImportError as missing:
        raise ImportError("arrays need NumPy: pip install numpy") from missing

    rows = list(readings)
    n_probes = len(rows[0].target_sum_nats) if rows else 0

    def values(span: str) -> NDArray[numpy.float32]:
        table = numpy.empty((len(rows), n_probes), numpy.float32)
        for row, reading in enumerate(rows):
            table[row] = getattr(reading, span)
        return table

    return ReadingArrays(
        step=numpy.array([reading.step for reading in rows], numpy.int64),
        measured_by=numpy.array([reading.measured_by for reading in rows], numpy.int64),
        first_sum_nats=values("first_sum_nats"),
        target_sum_nats=values("target_sum_nats"),
        full_sum_nats=values("full_sum_nats"),
    )


def frame(records: Iterable[Any]) -> pandas.DataFrame:
    """Records of one kind as a pandas table, a row each and a column a field (extra `pandas`).

    Of a `Reading` the values stay arrays in one cell: `arrays` is for those.

    Raises:
        ImportError: when pandas is not installed.
    """
    try:
        import pandas
    except ImportError as missing:
        raise ImportError("tables need pandas: pip install pandas") from missing

    return pandas.DataFrame([asdict(record) for record in records])
