"""Makes `crates/data/tests/fixtures/order.json`: NumPy's own shuffles, which data orders reproduce.

Each entry is what `numpy.random.Generator(PCG64(seed)).shuffle(arange(n, dtype=uint32))` leaves:
the first numbers, and the SHA-256 of all of them as little-endian bytes.

    pip install -r python/oracle/requirements.txt
    python python/oracle/make_order_fixtures.py
"""

import hashlib
import json
from pathlib import Path

import numpy as np

OUT = Path(__file__).parents[2] / "crates/data/tests/fixtures/order.json"

# OLMo's seed for its first two epochs; then seeds of no, one, two and four 32-bit words.
SHUFFLES = [
    (6198, 10),
    (6199, 10),
    (6198, 1_000_000),
    (6199, 1_000_000),
    (6198, 1),
    (6198, 2),
    (0, 1_000),
    (2**32 - 1, 1_000),
    (2**32, 1_000),
    (2**64 - 1, 1_000),
    (2**127 + 3, 1_000),
]


def main() -> None:
    shuffles = []
    for seed, n in SHUFFLES:
        indices = np.arange(n, dtype=np.uint32)
        np.random.Generator(np.random.PCG64(seed)).shuffle(indices)
        shuffles.append(
            {
                "seed": str(seed),
                "n": n,
                "first": indices[:10].tolist(),
                "sha256": hashlib.sha256(indices.astype("<u4").tobytes()).hexdigest(),
            }
        )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(" " + json.dumps(s) for s in shuffles)
    OUT.write_text(f"[\n{lines}\n]\n")
    print(f"NumPy {np.__version__}: {OUT}")


if __name__ == "__main__":
    main()
