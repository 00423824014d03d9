"""Memory and time of importing a log of the reference's size, and of exporting it again.

    python python/bench_import.py target/debug/imprint [--records 2200] [--dir DIR]

Makes a log as the reference's code would (130 facts, 15 probes each, three spans; 2,200 records are
534 MB), imports it into a private database of its own, exports it as the reference's log, Parquet
and CSV, and compares the log with what went in, byte for byte. Prints the peak of resident memory
of each `imprint` process, and of all Postgres processes beside it (proportional, sampled).
Plain Python 3; Linux.
"""

import argparse
import filecmp
import os
import random
import shutil
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path

N_FACTS, N_PROBES = 130, 5
KEYS = [f"{depth}_{span}" for depth in ("mem", "gen", "gen_hard") for span in ("first", "target", "full")]


def float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def write_log(path, n_records):
    """A log in the layout of `json.dump(…, indent=4)`; values are float32, as the reference's are."""
    rng = random.Random(0)
    lines = [" " * 16 + repr(float32(rng.uniform(0.01, 14.0))) for _ in range(200_000)]
    with open(path, "w") as out:
        for record in range(n_records):
            tables = []
            for key in KEYS:
                facts = []
                at = rng.randrange(len(lines) - N_FACTS * N_PROBES)
                for fact in range(N_FACTS):
                    values = lines[at + fact * N_PROBES : at + (fact + 1) * N_PROBES]
                    facts.append(" " * 12 + "[\n" + ",\n".join(values) + "\n" + " " * 12 + "]")
                tables.append(f'        "{key}": [\n' + ",\n".join(facts) + "\n        ]")
            nulls = ",\n".join([" " * 12 + "null"] * N_FACTS)
            tables.append('        "def": [\n' + nulls + "\n        ]")
            start = "[\n" if record == 0 else ",\n"
            step = f'        "step": {40000 + record},\n'
            out.write(start + "    {\n" + step + ",\n".join(tables) + "\n    }")
        out.write("\n]")


def postgres_bytes(data_dir):
    """Proportional memory of the processes of the private cluster."""
    total = 0
    for proc in Path("/proc").iterdir():
        if not proc.name.isdigit():
            continue
        try:
            if "postgres" not in (proc / "comm").read_text():
                continue
            if not os.readlink(proc / "cwd").startswith(str(data_dir)):
                continue
            for line in (proc / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            continue
    return total


def measured(arguments, data_dir):
    """Runs a command; its seconds, its peak of resident memory and that of Postgres."""
    peak, stop = [0], threading.Event()

    def watch():
        while not stop.wait(0.25):
            peak[0] = max(peak[0], postgres_bytes(data_dir))

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    process = subprocess.Popen([str(a) for a in arguments])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    stop.set()
    watcher.join()
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{arguments} failed")
    return seconds, usage.ru_maxrss * 1024, peak[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("imprint", type=Path)
    parser.add_argument("--records", type=int, default=2200)
    parser.add_argument("--dir", type=Path)
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="imprint-bench-", dir=arguments.dir))
    # Postgres does not run as root, and its user has to get here.
    root.chmod(0o755)
    data_dir = root / "data"
    log = root / "log.json"
    try:
        write_log(log, arguments.records)
        print(f"log: {log.stat().st_size / 1e6:.0f} MB, {arguments.records} records", flush=True)
        imprint = [arguments.imprint.resolve(), "--data-dir", data_dir]
        run = "bench/log-paper-b2048-s0" if arguments.records > 900 else "bench/log-none-b2048-s0"
        scenario = "paper" if arguments.records > 900 else "none"
        for name, command in [
            ("import", ["import", log, "--format", "reference", "--name", "bench", "--scenario", scenario]),
            ("export reference", ["export", run, "--format", "reference", "--out", root / "again.json"]),
            ("export parquet", ["export", run, "--format", "parquet", "--out", root / "rows.parquet"]),
            ("export csv", ["export", run, "--format", "csv", "--out", root / "rows.csv"]),
        ]:
            seconds, peak, postgres = measured(imprint + command, data_dir)
            print(
                f"{name}: {seconds:.1f} s, peak {peak / 2**20:.0f} MiB, "
                f"Postgres beside it {postgres / 2**20:.0f} MiB",
                flush=True,
            )
        same = filecmp.cmp(log, root / "again.json", shallow=False)
        print(f"the exported log {'is' if same else 'IS NOT'} the imported one, byte for byte")
        for path in (root / "again.json", root / "rows.parquet", root / "rows.csv"):
            print(f"{path.name}: {path.stat().st_size / 1e6:.0f} MB")
        if not same:
            raise SystemExit(1)
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
