"""Tokens a second and peak memory of updates, ours beside `transformers` with SDPA, in one run.

    cargo build --release -p imprint-lm --features cuda --example throughput
    python python/bench_throughput.py --bin target/release/examples/throughput \
        --device cuda:0 --shape olmo-1b --rows 8 --micro-rows 2

Both keep parameters and moments in float32 and multiply in bfloat16; the loss is over the same
random tokens, the best of five updates after three. Memory on a GPU is what `nvidia-smi` says of
each process, sampled while it runs. Needs python/oracle/requirements.txt.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time

SHAPES = {
    "olmo-1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                "num_attention_heads": 16, "vocab_size": 50304},
    "tiny": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
             "num_attention_heads": 4, "vocab_size": 512},
}
WARM_UP, TIMED = 3, 5


def peak_mib(process: subprocess.Popen, peak: list[int]) -> None:
    """Samples the process's GPU memory into `peak` until it ends."""
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    while process.poll() is None:
        try:
            lines = subprocess.run(query, capture_output=True, text=True, timeout=10).stdout
        except (OSError, subprocess.TimeoutExpired):
            return
        for line in lines.splitlines():
            pid, _, used = line.partition(",")
            if pid.strip() == str(process.pid) and used.strip().isdigit():
                peak.append(int(used))
        time.sleep(0.2)


def measured(command: list[str]) -> dict:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak: list[int] = []
    sampling = threading.Thread(target=peak_mib, args=(process, peak))
    sampling.start()
    said, _ = process.communicate()
    sampling.join()
    if process.returncode != 0:
        sys.exit(f"{command[0]} ended with {process.returncode}")
    return json.loads(said.splitlines()[-1]) | {"peak_mib": max(peak, default=None)}


def theirs(args: argparse.Namespace) -> None:
    import torch
    from transformers import OlmoConfig, OlmoForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = OlmoConfig(**SHAPES[args.shape], max_position_embeddings=args.tokens,
                        tie_word_embeddings=True, pad_token_id=None, attn_implementation="sdpa")
    model = OlmoForCausalLM(config).to(args.device)
    if args.recompute:
        model.gradient_checkpointing_enable()
        model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), eps=1e-5, fused=True)
    ids = torch.randint(0, config.vocab_size, (args.rows, args.tokens), device=args.device)
    device_type = args.device.split(":")[0]
    best = float("inf")
    for update in range(WARM_UP + TIMED):
        began = time.perf_counter()
        for part in ids.split(args.micro_rows):
            with torch.autocast(device_type, torch.bfloat16, enabled=args.precision == "bfloat16"):
                logits = model(part, use_cache=False).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten())
            (loss * len(part) / args.rows).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        if update >= WARM_UP:
            best = min(best, time.perf_counter() - began)
    print(json.dumps({"tokens_per_second": round(ids.numel() / best, 1), "seconds_per_update": best}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--shape", default="olmo-1b", choices=SHAPES)
    parser.add_argument("--precision", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--micro-rows", type=int, default=2)
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--theirs", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.theirs:
        return theirs(args)
    sizes = [args.rows, args.tokens, args.micro_rows]
    ours = [args.bin, args.device, args.shape, args.precision, *map(str, sizes)]
    rows = {
        "ours": measured(ours + ["recompute"] * args.recompute),
        "transformers": measured([sys.executable, os.path.abspath(__file__), *sys.argv[1:], "--theirs"]),
    }
    ratio = rows["ours"]["tokens_per_second"] / rows["transformers"]["tokens_per_second"]
    print("| | tokens/s | s an update | peak, MiB |\n|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['tokens_per_second']} | {row['seconds_per_update']:.4f} | {row['peak_mib']} |")
    print(f"\nours / transformers: {ratio:.2f}")


if __name__ == "__main__":
    main()
