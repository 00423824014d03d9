"""The same values into MLflow, Weights & Biases and imprint, each read back and compared.

    cargo build --release -p imprint-cli
    python python/bench_peers.py --imprint target/release/imprint

The values are those of `imprint bench ingest`: a float32 for each (step, probe, span), a function
of the three. Every tool gets them a step at a time, as a training loop would hand them over, and
the clock stops when the last of them is as durable as the tool makes it:

- MLflow writes straight into its SQL store, without the tracking server between, in its largest
  batches (1,000 metrics a call); once into SQLite, its default, and once into a Postgres with
  durable commits. Each call is a committed transaction.
- Weights & Biases writes its offline file; nothing is synced to the disk while it runs, so `finish`
  and one fsync are within the time.
- imprint delivers from its spool over gRPC into Postgres with durable commits.

The tools, pinned below, are installed into a virtual environment of their own (`--venv`).
"""

import argparse
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PINNED = ["mlflow==3.17.2", "wandb==0.31.0", "psycopg2-binary==2.9.13"]
SPANS = ["first", "target", "full"]
RUN_ID, ATTEMPT = 1, 1
MLFLOW_BATCH = 1000
PATIENCE_S = 60
WANDB_HEADER_BYTES, LEVELDB_HEADER_BYTES, LEVELDB_BLOCK_BYTES = 7, 7, 32768


def enter(venv: Path) -> None:
    """Goes on in the virtual environment, which is made if it is not there."""
    python = venv / "bin" / "python"
    if Path(sys.prefix).resolve() == venv.resolve():
        return
    if not (venv / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PINNED], check=True)
        (venv / "installed").write_text("\n".join(PINNED))
    os.execv(str(python), [str(python), *sys.argv])


def mixed(x):
    """SplitMix64's finalizer, as in `imprint_core::simulated`."""
    import numpy as np

    with np.errstate(over="ignore"):
        x = np.asarray(x, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def reading(step: int, n_probes: int):
    """Float32 values by span and probe."""
    import numpy as np

    of_step = mixed(np.uint64(RUN_ID << 32 | step) ^ mixed(ATTEMPT))
    probes = np.arange(n_probes, dtype=np.uint64)
    spans = [mixed(mixed(of_step ^ np.uint64(span)) ^ probes) for span in (1, 2, 3)]
    return [(-16.0 * ((s >> np.uint64(40)) / float(1 << 24))).astype(np.float32) for s in spans]


def key(span: int, probe: int) -> str:
    return f"{SPANS[span]}/{probe}"


def by_key(values) -> dict[str, float]:
    return {key(s, p): float(v) for s, span in enumerate(values) for p, v in enumerate(span)}


def compare(stored: dict[tuple[str, int], float], sent: list[dict[str, float]]) -> None:
    """Fails unless everything that was sent came back, bit for bit, and nothing else."""
    expected = {(k, step): v for step, values in enumerate(sent) for k, v in values.items()}
    if stored != expected:
        wrong = sum(stored.get(k) != v for k, v in expected.items())
        sys.exit(f"{wrong} of {len(expected)} values differ; {len(stored)} are stored")


def mlflow_values_per_second(uri: str, sent: list[dict[str, float]]) -> float:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient
    import sqlalchemy

    client = MlflowClient(tracking_uri=uri)
    run_id = client.create_run(client.create_experiment("bench")).info.run_id
    began = time.perf_counter()
    for step, values in enumerate(sent):
        now_ms = int(time.time() * 1000)
        metrics = [Metric(k, v, now_ms, step) for k, v in values.items()]
        for first in range(0, len(metrics), MLFLOW_BATCH):
            batch = metrics[first : first + MLFLOW_BATCH]
            client.log_batch(run_id, metrics=batch, synchronous=True)
    took = time.perf_counter() - began
    with sqlalchemy.create_engine(uri).connect() as db:
        query = sqlalchemy.text("select key, step, value from metrics where run_uuid = :run")
        stored = {(k, step): v for k, step, v in db.execute(query, {"run": run_id})}
    compare(stored, sent)
    return sum(map(len, sent)) / took


def records_of_wandb(path: Path):
    """The records of an offline file: LevelDB's log format after a header of seven bytes."""
    whole, first, last = 1, 2, 4
    data, at, record = path.read_bytes(), WANDB_HEADER_BYTES, b""
    while at < len(data):
        left_in_block = LEVELDB_BLOCK_BYTES - at % LEVELDB_BLOCK_BYTES
        if left_in_block < LEVELDB_HEADER_BYTES:
            at += left_in_block
            continue
        _crc, length, kind = struct.unpack_from("<IHB", data, at)
        at += LEVELDB_HEADER_BYTES
        part, at = data[at : at + length], at + length
        record = part if kind in (whole, first) else record + part
        if kind in (whole, last):
            yield record


def wandb_values_per_second(directory: Path, sent: list[dict[str, float]]) -> float:
    import wandb
    from wandb.proto import wandb_internal_pb2

    os.environ["WANDB_SILENT"] = "true"
    settings = wandb.Settings(x_disable_stats=True, console="off", disable_git=True)
    run = wandb.init(mode="offline", project="bench", dir=str(directory), settings=settings)
    began = time.perf_counter()
    for step, values in enumerate(sent):
        run.log(values, step=step)
    run.finish()
    [path] = directory.glob("wandb/offline-run-*/*.wandb")
    with path.open("rb") as file:
        os.fsync(file.fileno())
    took = time.perf_counter() - began

    stored = {}
    for data in records_of_wandb(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") != "history":
            continue
        items = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
        step = int(items.get("_step", record.history.step.num))
        for k, v in items.items():
            if not k.startswith("_"):
                stored[k, step] = json.loads(v)
    compare(stored, sent)
    return sum(map(len, sent)) / took


def imprint_values_per_second(program: str, directory: Path, n_steps: int, n_probes: int) -> float:
    """Of the median of five rounds, each of as many values as the peers get."""
    load = f"--probes {n_probes} --steps {n_steps} --rounds 5 --output json".split()
    command = [program, "bench", "ingest", *load, "--dir", str(directory)]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)[0]
    if measured["values_wrong"]:
        sys.exit(f"imprint: {measured['values_wrong']} values are wrong")
    return measured["values_per_second"]


class Postgres:
    """A private cluster with durable commits, as `imprint` makes one; with a database for MLflow."""

    def __init__(self, program: str, directory: Path):
        self.program, self.data_dir = program, directory / "postgres-of-mlflow"

    def __enter__(self) -> str:
        import psycopg2

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [self.program, "--data-dir", str(self.data_dir), "serve", "metrics"]
        environment = {k: v for k, v in os.environ.items() if k != "DATABASE_URL"}
        environment["RUST_LOG"] = "error"
        self.service = subprocess.Popen([*command, "--listen", f"127.0.0.1:{port}"], env=environment)
        deadline = time.monotonic() + PATIENCE_S
        with socket.socket() as service:
            while service.connect_ex(("127.0.0.1", port)) != 0:
                if time.monotonic() > deadline:
                    sys.exit("Postgres did not start")
                time.sleep(0.1)
        cluster = self.data_dir / "postgres"
        password = (cluster / "password").read_text().strip()
        url = f"postgresql://imprint:{password}@127.0.0.1:{(cluster / 'port').read_text().strip()}"
        db = psycopg2.connect(f"{url}/imprint")
        db.autocommit = True
        db.cursor().execute("create database mlflow")
        db.close()
        return f"{url}/mlflow".replace("postgresql://", "postgresql+psycopg2://")

    def __exit__(self, *_) -> None:
        self.service.terminate()
        self.service.wait(PATIENCE_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--imprint", default="target/release/imprint", help="the program")
    parser.add_argument("--venv", type=Path, default=Path("target/peers-venv"))
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()),
                        help="on the disk that is to be measured")
    parser.add_argument("--probes", type=int, default=1950)
    parser.add_argument("--steps", type=int, default=16)
    arguments = parser.parse_args()
    enter(arguments.venv)

    sent = [by_key(reading(step, arguments.probes)) for step in range(arguments.steps)]
    directory = Path(tempfile.mkdtemp(prefix="imprint-peers-", dir=arguments.dir))
    directory.chmod(0o755)
    try:
        rates = {"MLflow, SQLite": mlflow_values_per_second(f"sqlite:///{directory}/mlflow.db", sent)}
        with Postgres(arguments.imprint, directory) as uri:
            rates["MLflow, Postgres"] = mlflow_values_per_second(uri, sent)
        rates["Weights & Biases, offline"] = wandb_values_per_second(directory, sent)
        rates["imprint"] = imprint_values_per_second(
            arguments.imprint, directory, arguments.steps, arguments.probes
        )
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f"{arguments.steps} steps × {arguments.probes} probes × 3 spans, read back and equal\n")
    for tool, rate in rates.items():
        print(f"{tool:28}{rate:14,.0f} values/s{rates['imprint'] / rate:10,.1f} × slower")


if __name__ == "__main__":
    main()
