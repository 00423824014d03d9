"""Readings as arrays, records as tables."""

from array import array

import numpy

from imprint_client import MeanPoint, Reading, arrays, frame


def reading(step: int) -> Reading:
    values = [array("f", [-span - step / 8, -span]) for span in (1, 2, 3)]
    return Reading(step, step, 1, *values)


def test_readings_become_arrays_of_steps_and_probes() -> None:
    made = arrays(reading(step) for step in range(3))
    assert made.step.tolist() == [0, 1, 2]
    assert made.target_sum_nats.dtype == numpy.float32
    assert made.target_sum_nats.tolist() == [[-2.0, -2.0], [-2.125, -2.0], [-2.25, -2.0]]
    assert made.full_sum_nats[2, 0] == -3.25


def test_no_readings_are_empty_arrays() -> None:
    assert arrays([]).first_sum_nats.shape == (0, 0)


def test_records_become_rows() -> None:
    point = MeanPoint(0, 0, "once", "mem", False, 4, -1.0, -2.0, -3.0)
    table = frame([point, point])
    assert list(table.columns) == list(MeanPoint.__slots__)
    assert table["target_mean_nats"].tolist() == [-2.0, -2.0]
