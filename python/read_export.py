"""Reading an export in a notebook: the same numbers in pandas, polars and DuckDB.

    imprint export mine --format parquet --out readings.parquet
    imprint export mine --format parquet --what means --out means.parquet
    imprint export mine --format csv --out readings.csv
    python python/read_export.py readings.parquet means.parquet readings.csv

Needs pandas, pyarrow, polars and duckdb from PyPI. Makes the mean curves from the readings in each
of them and holds them to the exported means; prints what a column means and one curve.
"""

import json
import sys

import duckdb
import numpy as np
import pandas
import polars
import pyarrow.parquet

READINGS, MEANS, CSV = sys.argv[1:4]
KEY = ["run", "arm", "depth", "swap", "step"]


def main():
    # One line each.
    readings = pandas.read_parquet(READINGS)
    means = pandas.read_parquet(MEANS)
    in_polars = polars.read_parquet(READINGS)
    csv = pandas.read_csv(CSV)

    print(readings.dtypes.to_string(), "\n")
    metadata = pyarrow.parquet.read_schema(READINGS).metadata
    for column in json.loads(metadata[b"imprint.columns"]):
        print(f"{column['name']}: {column['meaning']}" + (f" [{column['unit']}]" if column["unit"] else ""))

    expected = means.set_index(KEY)["target_mean_nats"].sort_index()
    by_pandas = readings.groupby(KEY)["target_mean_nats"].mean().sort_index()
    by_polars = (
        in_polars.group_by(KEY).agg(polars.col("target_mean_nats").mean()).to_pandas().set_index(KEY)
    )["target_mean_nats"].sort_index()
    by_duckdb = (
        duckdb.sql(f"select {', '.join(KEY)}, avg(target_mean_nats) as l from '{READINGS}' group by all")
        .df()
        .set_index(KEY)
    )["l"].sort_index()
    for name, curve in [("pandas", by_pandas), ("polars", by_polars), ("DuckDB", by_duckdb)]:
        assert (curve.index == expected.index).all(), name
        off = np.abs(curve.to_numpy() - expected.to_numpy()).max()
        assert off < 1e-12, (name, off)
        print(f"\n{name}: {len(curve)} means, at most {off:.1e} nats off the exported ones")

    # CSV has fewest digits and not fewer: the same bits.
    for column in ("first_sum_nats", "target_sum_nats", "full_sum_nats"):
        same = csv[column].to_numpy(np.float32) == readings[column].to_numpy()
        assert same.all(), column
    assert (csv["target_mean_nats"].to_numpy() == readings["target_mean_nats"].to_numpy()).all()
    print("CSV: every value has the bits that Parquet has")

    first = expected.loc[lambda curve: curve.index.get_level_values("run") == expected.index[0][0]]
    print("\n" + first.unstack("step").iloc[:, :5].to_string())


if __name__ == "__main__":
    main()
