"""The main job on real formats, against `transformers`.

Makes a tiny random `OlmoForCausalLM`, then checks, with facts and tokenizer files of your own:

1. `imprint-trainer probe` agrees with `transformers` in float32 within 1e-4 nats per token;
2. `imprint-trainer inspect` of the scenario `paper` at batch 128, sequence 2048 injects the token
   sums of the reference study (for the authors' facts and the OLMo tokenizer);
3. a run of 30 steps through `imprint up` and `imprint submit` stores 31 readings of every probe
   over three spans.

    python acceptance.py --facts fictional_knowledge_paraphrased.json --tokenizer tokenizer.json \
        --bin target/release
"""

import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import OlmoConfig, OlmoForCausalLM

PAPER_SUMS = [59374, 33066, 33612, 33327, 33103, 33268, 33422, 33241, 33212, 32939]
NATS_PER_TOKEN = 1e-4

EXPERIMENT = """
name = "{name}"
scenarios = ["{scenario}"]
batch_sizes = [{batch}]

[data]
facts = "{facts}"
tokenizer = "{tokenizer}"
seq_len = {seq}

[data.corpus]
files = ["{corpus}"]
format = "uint16"

[[checkpoint]]
name = "tiny"
path = "tiny"

[training]
steps = {steps}
learning_rate = {{ kind = "constant", peak = 1e-3, warmup_steps = 0 }}

[[scenario.eight.arm]]
name = "paraphrase"
facts = "0..8"
text = "paraphrases"
steps = {{ start = 1, every = 5, count = 4 }}
"""


def make_model(directory: Path) -> OlmoForCausalLM:
    torch.manual_seed(0)
    config = OlmoConfig(
        vocab_size=50304,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=2048,
        pad_token_id=1,
        eos_token_id=50279,
        tie_word_embeddings=False,
    )
    model = OlmoForCausalLM(config).float().eval()
    model.save_pretrained(directory)
    return model


@torch.no_grad()
def log_probs(model: OlmoForCausalLM, tokens: list[int]) -> np.ndarray:
    """Log-probabilities of every token but the first, float32 as the model computes them."""
    ids = torch.tensor([tokens])
    logits = model(input_ids=ids).logits[0, :-1].float()
    return torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None])[:, 0].double().numpy()


def check_probes(args, model, work: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    facts = json.loads(args.facts.read_text())
    out = subprocess.run(
        [args.bin / "imprint-trainer", "probe", "--checkpoint", work / "tiny",
         "--tokenizer", args.tokenizer, "--facts", args.facts],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    lines = [json.loads(line) for line in out.splitlines()]
    expected = sum(len(f[f"{d}_input"]) for f in facts for d in ("mem", "gen", "hard_gen"))
    assert len(lines) == expected, (len(lines), expected)
    worst = 0.0
    for line in lines:
        fact, depth, probe = facts[line["fact"]], line["depth"], line["probe"]
        target = fact[f"{depth}_target"][probe]
        ids = tokenizer.encode(f"{fact[f'{depth}_input'][probe]} {target}", add_special_tokens=False).ids
        n_target = len(tokenizer.encode(f" {target}", add_special_tokens=False).ids)
        lp = log_probs(model, ids)
        assert line["n_tokens"] == len(ids)
        for span, values in (("first", lp[len(lp) - n_target :][:1]), ("target", lp[-n_target:]), ("full", lp)):
            assert line[span]["n"] == len(values), (line, len(values))
            worst = max(worst, abs(line[span]["sum_nats"] - values.sum()) / len(values))
    assert worst <= NATS_PER_TOKEN, worst
    print(f"probe: {len(lines)} probes, largest difference {worst:.2e} nats per token")


def check_inspect(args, work: Path) -> None:
    corpus = work / "sparse.u16"
    with open(corpus, "wb") as f:
        f.truncate(1000 * 128 * 2048 * 2)
    file = work / "paper.toml"
    file.write_text(EXPERIMENT.format(
        name="paper", scenario="paper", batch=128, seq=2048, steps=1000,
        facts=args.facts, tokenizer=args.tokenizer, corpus=corpus,
    ))  # fmt: skip
    sums = []
    for i in range(10):
        out = subprocess.run(
            [args.bin / "imprint-trainer", "inspect", file, "--step", str(100 * i)],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        step = json.loads(out)
        assert len(step["rows"]) == (120 if i == 0 else 80)
        assert all(len(row["tokens"]) == 2048 for row in step["rows"])
        sums.append(step["n_injected_tokens"])
    assert sums == PAPER_SUMS, sums
    print(f"inspect: injected tokens {sums}")


def check_run(args, work: Path) -> None:
    rng = np.random.default_rng(0)
    rng.integers(2, 50000, 30 * 8 * 1024, dtype=np.uint16).tofile(work / "corpus.u16")
    file = work / "eight.toml"
    file.write_text(EXPERIMENT.format(
        name="eight", scenario="eight", batch=8, seq=1024, steps=30,
        facts=args.facts, tokenizer=args.tokenizer, corpus="corpus.u16",
    ))  # fmt: skip
    imprint = [str(args.bin / "imprint"), "--data-dir", str(work / "data")]
    up = subprocess.Popen([*imprint, "up"], stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (work / "data" / "services.json").exists():
            assert up.poll() is None and time.monotonic() < deadline, "imprint up did not start"
            time.sleep(0.1)
        begun = time.monotonic()
        subprocess.run([*imprint, "submit", str(file), "--wait"], check=True, timeout=1200)
        took = time.monotonic() - begun
        subprocess.run([*imprint, "verify", "eight"], check=True)
        query = (
            "select count(*), count(distinct step), count(distinct probe), count(first_mean_nats),"
            " count(target_mean_nats), count(full_mean_nats), min(step), max(step)"
            " from imprint.reading where run = 'eight/tiny-eight-b8-s0'"
        )
        out = subprocess.run(
            [*imprint, "sql", "-c", query], check=True, capture_output=True, text=True
        ).stdout
        row = [int(x) for x in out.replace("|", " ").split() if x.isdigit()]
        n = 31 * 1950
        assert row[:8] == [n, 31, 1950, n, n, n, 0, 30], out
        print(f"run: 31 x 1950 readings of three spans, {took:.0f} s")
    finally:
        up.send_signal(signal.SIGTERM)
        try:
            up.wait(30)
        except subprocess.TimeoutExpired:
            os.kill(up.pid, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--facts", type=lambda p: Path(p).resolve(), required=True)
    parser.add_argument("--tokenizer", type=lambda p: Path(p).resolve(), required=True)
    parser.add_argument("--bin", type=lambda p: Path(p).resolve(), required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imprint-acceptance-") as directory:
        work = Path(directory)
        os.chmod(work, 0o755)  # the private Postgres runs as an unprivileged user
        model = make_model(work / "tiny")
        check_probes(args, model, work)
        check_inspect(args, work)
        check_run(args, work)


if __name__ == "__main__":
    main()
