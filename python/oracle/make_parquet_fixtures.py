"""Makes `crates/data/tests/fixtures/parquet/`: the same texts as Parquet in many forms.

`texts.json` holds the texts that every readable file has in its column `text`, `null` and blank
ones left out; `nested.parquet` has them in `document.text`. The `refused-` files are sound, but of
kinds that no text corpus is read from.

    pip install -r python/oracle/requirements.txt
    python python/oracle/make_parquet_fixtures.py
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

OUT = Path(__file__).parents[2] / "crates/data/tests/fixtures/parquet"


def texts() -> list[str | None]:
    found: list[str | None] = []
    for i in range(90):
        if i % 11 == 3:
            found.append(None)
        elif i % 13 == 5:
            found.append("")
        elif i % 7 == 0:
            found.append("a text that comes again and again")
        elif i % 9 == 1:
            found.append(f"ünï {i} → 漢字\nsecond line")
        else:
            found.append(f"document number {i} of the fixture " + "w" * (i % 17))
    return found


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    column = texts()
    there = [t for t in column if t is not None and t.strip()]
    (OUT / "texts.json").write_text(json.dumps(there, ensure_ascii=False, indent=1) + "\n")

    numbers = list(range(len(column)))
    table = pa.table(
        {
            "id": numbers,
            "tags": [["a", "b"][: i % 3] for i in numbers],
            "text": pa.array(column, pa.string()),
        }
    )

    def write(name: str, table: pa.Table = table, **options: object) -> None:
        pq.write_table(table, OUT / f"{name}.parquet", store_schema=False, **options)

    # What pandas and `datasets` write: a dictionary, snappy, pages of version 1.
    write("snappy", compression="snappy")
    write("zstd-plain", compression="zstd", use_dictionary=False, row_group_size=40)
    write("gzip-v2", compression="gzip", data_page_version="2.0")
    write("none-pages", compression="none", data_page_size=200, write_batch_size=8)
    write("checksum", compression="zstd", write_page_checksum=True, data_page_version="2.0")
    for name, encoding, version in [
        ("delta-length", "DELTA_LENGTH_BYTE_ARRAY", "1.0"),
        ("delta-prefix", "DELTA_BYTE_ARRAY", "2.0"),
    ]:
        write(
            name,
            compression="zstd",
            use_dictionary=False,
            column_encoding={"text": encoding},
            data_page_version=version,
        )
    required = pa.schema([pa.field("text", pa.string(), nullable=False)])
    write("required", pa.table({"text": there}, schema=required), compression="snappy")
    documents = [None if t is None else {"text": t, "source": "web"} for t in column]
    write("nested", pa.table({"document": documents, "id": numbers}), compression="snappy")
    large = pa.table({"text": pa.array(column, pa.large_string())})
    write("large-string", large, compression="zstd")

    write("refused-brotli", table.select(["text"]), compression="brotli")
    write("refused-lz4", table.select(["text"]), compression="lz4")
    print(f"pyarrow {pa.__version__}: {OUT}")


if __name__ == "__main__":
    main()
