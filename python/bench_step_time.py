"""One update and one reading at the demo's shapes: ours beside PyTorch's, on one thread, in one run.

    cargo build --release -p imprint-lm --example step_time
    python python/bench_step_time.py target/release/examples/step_time

Prints the least time of each in milliseconds and the ratio; needs python/oracle/requirements.txt.
"""

import re
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from transformers import OlmoConfig, OlmoForCausalLM

VOCABULARY, SEQ_LEN, N_PROBES, PROBE_TOKENS = 574, 64, 480, 9
REPETITIONS = 60

torch.set_num_threads(1)
model = OlmoForCausalLM(
    OlmoConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=168,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=SEQ_LEN,
        tie_word_embeddings=True,
        eos_token_id=0,
        pad_token_id=1,
    )
)
optimizer = torch.optim.AdamW(
    model.parameters(), lr=5e-3, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1, fused=True
)


def update(batch_size: int) -> None:
    tokens = torch.randint(0, VOCABULARY, (batch_size, SEQ_LEN))
    logits = model(tokens).logits[:, :-1]
    loss = F.cross_entropy(logits.reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@torch.no_grad()
def read() -> None:
    tokens = torch.randint(0, VOCABULARY, (N_PROBES, PROBE_TOKENS))
    log_probs = F.log_softmax(model(tokens).logits[:, :-1].float(), -1)
    log_probs.gather(-1, tokens[:, 1:, None])


def least_ms(work) -> float:
    for _ in range(10):
        work()
    times = []
    for _ in range(REPETITIONS):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times) * 1e3


def main() -> None:
    print(ours_text := subprocess.run([sys.argv[1]], check=True, capture_output=True, text=True).stdout)
    ours = [
        float(re.search(r"least\s+([\d.]+)", line).group(1)) for line in ours_text.splitlines() if "least" in line
    ]
    theirs = [least_ms(lambda: update(32)), least_ms(lambda: update(4)), least_ms(read)]
    for name, a, b in zip(["update, batch 32", "update, batch 4", "reading"], ours, theirs, strict=True):
        print(f"{name:18} ours {a:6.1f} ms   PyTorch {torch.__version__} {b:6.1f} ms   ratio {a / b:.2f}")


if __name__ == "__main__":
    main()
