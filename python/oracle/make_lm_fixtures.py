"""Makes the fixtures of `crates/lm/tests/oracle.rs` with PyTorch and `transformers`.

Two tiny random OLMo v1 models, and what PyTorch says of them in float32 on one thread:
the log-probability of every token of a batch, then ten AdamW updates with the reference study's
parameter groups and clip, with the loss and the gradient norm of each, and the log-probabilities
after them.

    pip install -r python/oracle/requirements.txt
    python python/oracle/make_lm_fixtures.py
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import OlmoConfig, OlmoForCausalLM

FIXTURES = Path(__file__).resolve().parents[2] / "crates/lm/tests/fixtures"
ROWS, SEQ_LEN, UPDATES = 4, 16, 10
OPTIMIZER = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-5, "weight_decay": 0.1, "clip_norm": 1.0}
LEARNING_RATE = 5e-3


def random_model(seed: int, tied: bool) -> OlmoForCausalLM:
    torch.manual_seed(seed)
    config = OlmoConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        tie_word_embeddings=tied,
        eos_token_id=95,
        # `transformers` keeps the gradient of a padding token's embedding at 0; the reference
        # study's code, which we follow, has no such exception.
        pad_token_id=None,
    )
    model = OlmoForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Wide enough that attention and logits are far from uniform.
            parameter.normal_(std=1.5 / config.hidden_size**0.5)
    return model


def token_log_probs(model: OlmoForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    logits = model(batch).logits[:, :-1]
    return F.log_softmax(logits.float(), -1).gather(-1, batch[:, 1:, None])[..., 0]


def optimizer_of(model: OlmoForCausalLM) -> torch.optim.AdamW:
    embedding = model.get_input_embeddings().weight
    linear = [p for p in model.parameters() if p is not embedding]
    return torch.optim.AdamW(
        [
            {"params": [embedding], "weight_decay": 0.0},
            {"params": linear, "weight_decay": OPTIMIZER["weight_decay"]},
        ],
        lr=LEARNING_RATE,
        betas=(OPTIMIZER["beta1"], OPTIMIZER["beta2"]),
        eps=OPTIMIZER["eps"],
    )


def oracle(model: OlmoForCausalLM, seed: int) -> dict:
    random = torch.Generator().manual_seed(seed)
    batches = torch.randint(0, 96, (UPDATES, ROWS, SEQ_LEN), generator=random)
    with torch.no_grad():
        before = token_log_probs(model, batches[0])
    optimizer = optimizer_of(model)
    losses, grad_norms = [], []
    for batch in batches:
        loss = -token_log_probs(model, batch).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip_norm"])
        optimizer.step()
        losses.append(loss.item())
        grad_norms.append(norm.item())
    with torch.no_grad():
        after = token_log_probs(model, batches[0])
    return {
        "optimizer": OPTIMIZER,
        "learning_rate": LEARNING_RATE,
        "batches": batches.tolist(),
        "log_probs_before": before.tolist(),
        "losses_nats": losses,
        "grad_norms": grad_norms,
        "log_probs_after": after.tolist(),
    }


def main() -> None:
    torch.set_num_threads(1)
    # One file in float32, and shards in bfloat16: both ways in which checkpoints are published.
    for seed, name, tied in [(1, "olmo-untied-float32", False), (2, "olmo-tied-bfloat16", True)]:
        model = random_model(seed, tied)
        if tied:
            model.to(torch.bfloat16).save_pretrained(FIXTURES / name, max_shard_size="20KB")
        else:
            model.save_pretrained(FIXTURES / name)
        # What was saved, so that rounded weights are the ones compared.
        model = OlmoForCausalLM.from_pretrained(FIXTURES / name, dtype=torch.float32)
        (FIXTURES / name / "generation_config.json").unlink()
        for file in (FIXTURES / name).iterdir():
            file.chmod(0o644)
        (FIXTURES / name / "oracle.json").write_text(json.dumps(oracle(model, seed)) + "\n")


if __name__ == "__main__":
    main()
